"""Gene matching: what is counted and what a person is told."""

import numpy as np
import pytest

from engine.models.matching import gene_match, without_version


def test_counts_and_duplicates() -> None:
    match = gene_match(np.array([4, -1, 5, 4, 4], np.int32), ["a"] * 5)
    assert (match.n_matched, match.n_columns, match.duplicates) == (4, 5, 2)
    assert match.report() == "4 of 5 genes (80%) are in the vocabulary; 2 columns repeat a gene"


@pytest.mark.parametrize(
    ("gene_id", "hint"),
    [
        ("ENSMUSG00000051951", "mouse"),
        ("ENSG00000000003.15", "version suffixes"),
        ("TSPAN6", "symbols"),
        ("ENSG00000000003", ""),
    ],
)
def test_hint_when_few_genes_match(gene_id: str, hint: str) -> None:
    match = gene_match(np.full(100, -1, np.int32), [gene_id] * 100)
    assert hint in match.hint
    assert bool(match.hint) == bool(hint)


def test_no_hint_when_most_genes_match() -> None:
    assert gene_match(np.arange(10, dtype=np.int32), ["TSPAN6"] * 10).hint == ""


def test_no_columns() -> None:
    match = gene_match(np.zeros(0, np.int32), [])
    assert match.fraction == 0.0
    assert "0 of 0" in match.report()


@pytest.mark.parametrize(
    ("gene_id", "bare"),
    [
        ("ENSG00000000003.15", "ENSG00000000003"),
        ("ENSGR0000002586.1", "ENSGR0000002586"),
        ("RP11-34P13.7", "RP11-34P13.7"),
        ("ENSG00000000003", "ENSG00000000003"),
    ],
)
def test_without_version(gene_id: str, bare: str) -> None:
    assert without_version(gene_id) == bare
