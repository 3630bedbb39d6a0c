"""Columns by name, one of the known layouts, and a word about everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

NEW = Layout("new", ("gene", "term", "score"))
OLD = Layout("old", ("gene", "term", ""))
STATED = Layout(
    "stated", ("gene", "term", "score"), stated="#Format: term gene", header=("gene", "term", "score")
)
TABLE = Format("test table", (NEW, OLD, STATED))


def rows(path: Path, content: str, table: Format = TABLE) -> tuple[list[tuple[str, ...]], Intake]:
    path.write_text(content)
    intake = Intake()
    return list(read_rows(path, table, intake)), intake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.tsv"


@pytest.mark.parametrize(
    ("content", "layout", "first"),
    [
        ("gene\tterm\tscore\nA\tT\t1\n", "new", ("A", "T", "1")),
        ("score\textra\t term\tgene\n1\tx\tT\tA\n", "new", ("A", "T", "1")),
        ("#gene\tterm\nA\tT\n", "old", ("A", "T", "")),
        ("# made by us\n#version: 3\n# gene\tterm\nA\tT\n# the end\n", "old", ("A", "T", "")),
        ("#Format: term gene\nA\tT\t1\n", "stated", ("A", "T", "1")),
        ("gene\tterm\n\nA\tT\n\n", "old", ("A", "T", "")),
    ],
)
def test_layouts(path: Path, content: str, layout: str, first: tuple[str, ...]) -> None:
    found, intake = rows(path, content)
    assert found == [first]
    assert intake.layouts == {"table.tsv": layout}
    assert intake.rows == {"table.tsv": 1}


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (
            "gene\tterms\nA\tT\n",
            ["unknown layout of test table", "header found: gene\tterms", "new: gene, term"],
        ),
        ("gene,term,score\nA,T,1\n", ["separated by commas, expected tabs"]),
        ("A\tT\t1\nB\tT\t2\n", ["line 1: unknown layout"]),
        ("gene\tterm\n", ["a header of test table and no row below it"]),
        ("# only\n# comments\n", ["only comments, no header of test table"]),
        ("gene\tterm\nA\tT\nB\n", ["line 3: 1 fields, the header has 2"]),
        ("gene\tterm\nA\tT\nB\tT\nA\tT\n", ["1 of 3 rows are there twice (row 3 is row 1)"]),
    ],
    ids=["renamed", "separator", "no-header", "no-row", "comments", "cut", "repeated"],
)
def test_other_tables_are_refused(path: Path, content: str, reasons: list[str]) -> None:
    with pytest.raises(InputError, match=str(path)) as refusal:
        rows(path, content)
    assert all(reason in str(refusal.value) for reason in reasons), refusal.value


def test_few_repeats_are_counted_and_many_refused(path: Path) -> None:
    table = Format("test table", (OLD,), repeats="few")
    content = "gene\tterm\n" + "".join(f"A{number}\tT\n" for number in range(100))
    found, intake = rows(path, content + "A1\tT\n", table)
    assert len(found) == 101
    assert intake.dropped == {"row repeated in the file": 1}
    with pytest.raises(InputError, match="100 of 200 rows are there twice"):
        rows(path, content + content.partition("\n")[2], table)


def test_quoted_notes_hold_separators_and_line_breaks(path: Path) -> None:
    table = Format("test table", (NEW,), delimiter=",", quoted=True, comment="")
    found, _ = rows(path, '"gene","term","score"\n"A","T, ""x""","two\nlines"\n', table)
    assert found == [("A", 'T, "x"', "two\nlines")]
    with pytest.raises(InputError, match="broken quoting"):
        rows(path, 'gene,term,score\nA,"T,1\nB,T,2\n', table)
