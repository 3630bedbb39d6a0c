"""Which files of a folder are taken, and which are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases.found import find_sources
from storage.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def taken(folder: Path, *only: str) -> dict[str, dict[str, list[str]]]:
    found = find_sources(folder, only)
    return {
        source.name: {
            role: [path.relative_to(folder).as_posix() for path in paths] for role, paths in roles.items()
        }
        for source, roles in found.sources
    }


def test_official_names_win_then_the_last_by_number(folder: Path) -> None:
    make(folder, "a/variant_summary.txt.gz", "variant_summary.34col.txt")
    make(folder, "gencc-submissions.v9.csv", "gencc-submissions.v10.csv")
    found = find_sources(folder)
    assert taken(folder) == {
        "clinvar": {"summary": ["a/variant_summary.txt.gz"]},
        "gencc": {"submissions": ["gencc-submissions.v10.csv"]},
    }
    assert {path.name for path in found.passed_over} == {
        "variant_summary.34col.txt",
        "gencc-submissions.v9.csv",
    }


def test_datasets_in_parts_are_taken_whole_from_one_release(folder: Path) -> None:
    dataset = "output/association_overall_indirect"
    make(folder, *(f"26.{month}/{dataset}/part-{part}.parquet" for month in ("03", "06") for part in (0, 1)))
    make(folder, "26.06/output/disease/part-0.parquet")
    assert taken(folder)["opentargets"] == {
        "overall_indirect": [f"26.06/{dataset}/part-{part}.parquet" for part in (0, 1)],
        "diseases": ["26.06/output/disease/part-0.parquet"],
    }


def test_files_of_no_known_name_are_listed(folder: Path) -> None:
    make(folder, "h.gmt", "genes_to_disese.txt", "ot/26.06/disease/part-0.parquet", "hp.obo")
    assert [path.name for path in find_sources(folder).unknown] == ["genes_to_disese.txt"]


def test_gene_sets_each_are_a_source(folder: Path) -> None:
    make(
        folder,
        "h.all.gmt",
        "b/c2.gmt.gz",
        "ReactomePathways.gmt.zip",
        "h.all.gmt.part",
        "h.all.gmt.origin.json",
    )
    assert list(taken(folder)) == ["reactome", "gmt-c2", "gmt-h.all"]
    assert list(taken(folder, "gmt")) == ["gmt-c2", "gmt-h.all"]
    assert list(taken(folder, "gmt-c2")) == ["gmt-c2"]
    make(folder, "d/c2.gmt")
    with pytest.raises(InputError, match="rename one of them"):
        taken(folder)


def test_kegg_is_read_only_by_name(folder: Path) -> None:
    make(folder, "kegg_link_hsa_pathway.txt", "h.gmt")
    assert find_sources(folder).not_asked_for == ["kegg"]
    assert list(taken(folder, "kegg")) == ["kegg"]


@pytest.mark.parametrize(
    ("names", "only", "reason"),
    [
        ([], [], "no such folder"),
        (["notes.txt"], [], "no file of any source"),
        (["h.gmt"], ["genecards"], "no such source; there are opentargets, hpo"),
        (["h.gmt"], ["hpo"], r"none of its files is in .*: genes_to_phenotype\.txt, phenotype_to_genes\.txt"),
        (["genes_to_disease.txt"], ["hpo"], "none of its files"),
        (["variant_summary.txt"], ["gmt"], "none of its files"),
    ],
)
def test_refusals(folder: Path, names: list[str], only: list[str], reason: str) -> None:
    make(folder, *names)
    with pytest.raises(InputError, match=reason):
        find_sources(folder, only)
