"""GMT files of MSigDB, Enrichr and Reactome."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases import read_gmt
from engine.interpret.databases.gmt import source_name
from storage.errors import InputError


@pytest.mark.parametrize(
    ("name", "n_sets", "n_pairs"),
    [
        ("msigdb/h.all.v7.0.symbols.gmt", 50, 7322),
        ("go/enrichr.GO_Biological_Process_2021.gmt", 1500, None),
        ("reactome/ReactomePathways.gmt", 1200, None),
    ],
)
def test_real_files(excerpts: Path, name: str, n_sets: int, n_pairs: int | None) -> None:
    terms, associations = read_gmt(excerpts / name)
    lines = (excerpts / name).read_text().splitlines()
    pairs = sum(len({gene.split(",")[0] for gene in line.split("\t")[2:]} - {""}) for line in lines)
    assert len(terms) == terms["term_id"].nunique() == n_sets
    assert len(associations) == pairs == (n_pairs or pairs)
    assert set(associations["term_id"]) == set(terms["term_id"])
    assert (terms["group"] == "pathway").all()


def test_names_ids_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "my sets.gmt"
    path.write_text("Apoptosis\tR-HSA-1\tA\tB\nApoptosis\tR-HSA-2\tC\nOne\t\tA,1.0\tB,2e-3\tA,1.0\t\n")
    terms, associations = read_gmt(path)
    assert terms["term_id"].tolist() == ["R-HSA-1", "R-HSA-2", "One"]
    assert terms["name"].tolist() == ["Apoptosis", "Apoptosis", "One"]
    assert associations[associations["term_id"] == "One"]["gene"].tolist() == ["A", "B"]
    assert associations["source"].unique().tolist() == ["gmt-my-sets"]


def test_source_names() -> None:
    assert source_name(Path("a/h.all.v7.0.symbols.gmt")) == "gmt-h.all.v7.0.symbols"
    assert source_name(Path("a/ReactomePathways.gmt.zip")) == "gmt-ReactomePathways"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("One,d,A,B\n", "line 1: 1 fields with tabs"),
        ("One\td\tA\n\tx\tB\n", "line 2: 3 fields"),
        ("One\td\tA\nOne\td\tB\n", "lines 1 and 2: the set 'One' occurs twice"),
        ("One\td\t" + "A B " * 40 + "\n", "more than 100 characters"),
        ("\n", "holds nothing"),
    ],
)
def test_what_is_no_gmt_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text(content)
    with pytest.raises(InputError, match=str(path)) as refusal:
        read_gmt(path)
    assert reason in str(refusal.value)
