"""Ids that are missing, repeated or of another species; vocabularies."""

import numpy as np
import pandas as pd
import pytest

from storage.validation.genes import GeneChoices, identify_genes, species_findings, vocabulary_findings


def var(ids: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"ensembl_id": ids}, index=[f"G{i}" for i in range(len(ids))])


def codes(frame: pd.DataFrame, **choices: str) -> list[tuple[str, str]]:
    return [(f.severity, f.code) for f in identify_genes(frame, GeneChoices(**choices))[1]]


def test_complete_unique_ids_need_no_word() -> None:
    assert codes(var(["ENSG01", "ENSG02"])) == []


def test_without_ids_the_fix_is_named() -> None:
    genes, (finding,) = identify_genes(pd.DataFrame(index=["TP53", "ACTB"]), GeneChoices())
    assert genes is None
    assert (finding.code, finding.severity) == ("no-gene-ids", "error")
    assert "--gene-id-key" in finding.fix
    assert "--genes" in finding.fix
    assert codes(pd.DataFrame(index=["TP53", "ACTB"]), gene_id_key="index") == []
    assert codes(pd.DataFrame(index=["TP53"]), gene_id_key="symbol") == [("error", "no-gene-ids")]


def test_missing_ids_are_a_warning_unless_all_are() -> None:
    assert codes(var(["ENSG01", "", "ENSG02"])) == [("warning", "missing-gene-ids")]
    assert codes(var(["", "", ""]), gene_id_key="ensembl_id") == [("error", "no-gene-ids")]


@pytest.mark.parametrize(
    ("ids", "policy", "expected"),
    [
        (["ENSG01", "ENSG01", "ENSG02"], "auto", [("error", "duplicate-gene-ids")]),
        (["ENSG01", "ENSG01", "ENSG02"], "sum", [("info", "merged-genes")]),
        (["ENSG01.1", "ENSG01.2", "ENSG02"], "auto", [("info", "merged-genes")]),
        (["ENSG01.1", "ENSG01.2", "ENSG02"], "refuse", [("error", "duplicate-gene-ids")]),
        (["ENSG01", "ENSG01", ""], "auto", [("warning", "missing-gene-ids"), ("info", "merged-genes")]),
    ],
)
def test_duplicates(ids: list[str], policy: str, expected: list[tuple[str, str]]) -> None:
    assert codes(var(ids), duplicate_genes=policy) == expected


def test_repeated_index_without_ids_is_an_error() -> None:
    frame = pd.DataFrame(index=["TP53", "TP53", "ACTB"])
    assert codes(frame, gene_id_key="index") == [("error", "duplicate-gene-ids")]


@pytest.mark.parametrize(
    ("ids", "species"),
    [
        (["ENSG01", "ENSG02", "ENSMUSG01"], None),
        (["ENSMUSG01", "ENSMUSG02", "ENSG01"], "mouse"),
        (["ENSDARG01"], "zebrafish"),
        (["TP53", "ACTB", "C1orf112"], None),
        (["Actb", "Gm1992", "0610009B22Rik"], "mouse or rat"),
    ],
)
def test_species(ids: list[str], species: str | None) -> None:
    found = species_findings(ids)
    assert bool(found) == (species is not None)
    if species:
        assert species in found[0].message


def test_vocabulary_is_judged_by_counts_not_columns() -> None:
    genes, _ = identify_genes(var(["ENSG01", "ENSG02", "ENSG03", "ENSG04"]), GeneChoices())
    assert genes is not None
    line, found = vocabulary_findings(genes, np.array([90.0, 4, 3, 3]), {"ENSG01"}, 0.5)
    assert found == []
    assert "1 of 4 genes" in line
    assert "90%" in line
    _, (finding,) = vocabulary_findings(genes, np.array([10.0, 30, 30, 30]), {"ENSG01"}, 0.5)
    assert (finding.severity, finding.code) == ("error", "low-vocabulary-match")
    _, (finding,) = vocabulary_findings(genes, np.array([0.0, 0, 0, 0]), {"ENSMUSG01"}, 0.5)
    assert finding.code == "low-vocabulary-match"
