"""Gene names: ids, previous symbols, aliases, and those that stand for two genes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from engine.interpret.databases.hgnc import GeneNames, unmapped_table
from storage.errors import InputError

HEADER = "hgnc_id\tsymbol\tstatus\tprev_symbol\talias_symbol\tensembl_gene_id\tentrez_id\n"
ROWS = (
    "HGNC:1\tTP53\tApproved\t\tp53|LFS1\tENSG1\t7157\n"
    'HGNC:2\tSEPTIN2\tApproved\t"NEDD5|SEPT2"\t"DIFF6|SHARED"\tENSG2\t4735\n'
    "HGNC:3\tMARCHF1\tApproved\tMARCH1\tSHARED\t\t\n"
    "HGNC:4\tOLD~withdrawn\tEntry Withdrawn\tGONE\t\t\t\n"
)


@pytest.fixture
def names(tmp_path: Path) -> GeneNames:
    (tmp_path / "hgnc_complete_set.txt").write_text(HEADER + ROWS)
    return GeneNames.read(tmp_path / "hgnc_complete_set.txt")


@pytest.mark.parametrize(
    ("given", "gene", "found_by"),
    [
        (("TP53",), "TP53", "symbol"),
        (("HGNC:2", "ANYTHING"), "SEPTIN2", "hgnc_id"),
        (("ENSG1",), "TP53", "ensembl_id"),
        (("NCBI:4735",), "SEPTIN2", "ncbi_id"),
        (("NCBI:99", "TP53"), "TP53", "symbol"),
        (("SEPT2",), "SEPTIN2", "previous"),
        (("MARCH1",), "MARCHF1", "previous"),
        (("LFS1",), "TP53", "alias"),
        (("SHARED",), "SHARED", "ambiguous"),
        (("GONE",), "GONE", "unmatched"),
        (("HGNC:99", "gag"), "gag", "unmatched"),
    ],
)
def test_names(names: GeneNames, given: tuple[str, ...], gene: str, found_by: str) -> None:
    found = names.find(given)
    assert (found.gene, found.found_by) == (gene, found_by)


def test_a_gene_comes_with_all_its_ids(names: GeneNames) -> None:
    assert names.find(("LFS1",))[:4] == ("TP53", "HGNC:1", "ENSG1", "7157")
    assert names.find(("ENSG9", "NEW"))[:4] == ("NEW", "", "ENSG9", "")


def test_without_a_table_names_stay() -> None:
    found = GeneNames.none().find(("HGNC:5", "NCBI:1", "A1BG"))
    assert found == ("A1BG", "HGNC:5", "", "1", "unmatched")


def test_what_did_not_map_is_listed_most_frequent_first(names: GeneNames) -> None:
    used = Counter({names.find((name,)): count for name, count in (("TP53", 9), ("gag", 1), ("SHARED", 5))})
    rows = unmapped_table(used).to_numpy().tolist()
    assert rows == [["SHARED", "ambiguous", 5], ["gag", "unmatched", 1]]


def test_hgncs_own_excerpt(excerpts: Path) -> None:
    names = GeneNames.read(excerpts / "hgnc" / "non_alt_loci_set.excerpt.txt")
    assert len(names) == 1399
    assert names.find(("A1BGAS",)).gene == "A1BG-AS1"


def test_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hgnc_complete_set.txt"
    path.write_text("symbol,hgnc_id\nA,1\n")
    with pytest.raises(InputError, match="unknown layout of HGNC's gene table"):
        GeneNames.read(path)
