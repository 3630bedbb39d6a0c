"""What speaks for a cluster's name: genes, typical cells, composition; titles and captions that cite it."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import sparse

from engine.retrieval.annotation.captions import MOST_WORDS, caption, title
from engine.retrieval.annotation.clusters import (
    ClusterField,
    EmbeddingSums,
    Evidence,
    TypicalCells,
    composition,
    marker_genes,
)
from engine.retrieval.annotation.expression import ClusterSums, membership
from engine.retrieval.annotation.zero_shot import ZeroShot

EVIDENCE = Evidence(
    n_cells=1200,
    label="CD14+ monocyte",
    confidence=0.91,
    is_named=True,
    agreement=0.8,
    labels=[("CD14+ monocyte", 0.91)],
    genes=[{"gene": gene, "share_of_cells": 0.9, "share_of_others": 0.1} for gene in ("LYZ", "CST3")],
    terms=[("Azimuth", [("CD14 Mono", 2.0)])],
    typical_cells=["c1"],
    composition={"tissue": [("blood", 0.9)]},
)


def test_titles_and_captions() -> None:
    assert title(EVIDENCE) == "CD14+ monocyte: LYZ, CST3"
    assert title(replace(EVIDENCE, is_named=False)) == "Unclear cell type: LYZ, CST3"
    wordy = replace(EVIDENCE, label="a label of no fewer than nine words here")
    assert len(title(wordy).split()) == MOST_WORDS
    said = caption(EVIDENCE)
    for part in ("1,200 cells", "0.91", "80%", "LYZ (90% of them, 10% elsewhere)", "CD14 Mono (Azimuth)"):
        assert part in said
    assert [said.count(f"[E{number}]") for number in range(1, 6)] == [1] * 5
    assert "No label is certain enough" in caption(replace(EVIDENCE, is_named=False))


def test_marker_genes_stand_out_from_the_other_clusters() -> None:
    random = np.random.default_rng(0)
    cells = random.poisson(1.0, (90, 12)).astype(np.float32)
    cluster_C = np.repeat([0, 1, 2], 30).astype(np.int32)
    cells[cluster_C == 1, 4] += 5
    cells[:, 7] = 0
    cells[30:32, 7] = 50  # in too few of the cells
    sums = ClusterSums.zeros(3, 12)
    sums.add(membership([cluster_C], [3]), sparse.csr_matrix(cells))
    genes = marker_genes(sums, slice(0, 3), [f"g{i}" for i in range(12)], shown=3)
    best = genes[1][0]
    assert best["gene"] == "g4"
    inside, outside = cells[cluster_C == 1, 4], cells[cluster_C != 1, 4]
    variance = (inside.var() * 30 + outside.var() * 60) / 88
    np.testing.assert_allclose(best["effect"], (inside.mean() - outside.mean()) / variance**0.5, atol=2e-3)
    assert best["share_of_others"] == round(float((outside > 0).mean()), 3)
    assert "g7" not in {entry["gene"] for entry in genes[1]}


def test_typical_cells_are_nearest_to_the_mean_across_blocks() -> None:
    random = np.random.default_rng(1)
    e_CU = random.normal(size=(40, 6)).astype(np.float32)
    e_CU[3] = np.nan
    number_C = random.integers(-1, 3, 40).astype(np.int32)
    number_C[3] = 0
    fields = [ClusterField("a", ("x", "y", "z"), number_C)]
    labels = ZeroShot(("l", "m"), np.eye(6, dtype=np.float32)[:2], 1.0)
    sums = EmbeddingSums(fields, 6, 2)
    for start in (0, 25):
        part = e_CU[start : start + 25]
        sums.add(start, part, labels.name(part))
    typical = TypicalCells(sums)
    for start in (0, 25):
        typical.add(start, e_CU[start : start + 25])
    for number in range(3):
        own = np.flatnonzero((number_C == number) & np.isfinite(e_CU).all(1))
        mean = e_CU[own].mean(0)
        np.testing.assert_allclose(typical.mean_NU[number], mean, atol=1e-6)
        order = own[np.argsort(-(e_CU[own] @ mean))][:3]
        assert [cell for _, cell in typical.best[number]] == list(order)
    assert sums.named_NL.sum() == sums.size_N.sum() == (np.isfinite(e_CU).all(1) & (number_C >= 0)).sum()


def test_composition_and_fields_of_columns() -> None:
    column = pd.Series(pd.Categorical(["t", "b", None, "t"]))
    field = ClusterField.of_column("kind", column)
    assert field.names == ("b", "t")
    assert list(field.number_C) == [1, 0, -1, 1]
    assert field.label_column == "kind_label"
    assert ClusterField.of_leiden(np.array([0, 1, -1, 0], np.int32)).label_column == "cluster_label"
    obs = pd.DataFrame({"kind": column, "donor": pd.Categorical(["d1", "d1", "d2", "d2"]), "n": range(4)})
    assert composition(obs, field, 1) == {"donor": [("d1", 0.5), ("d2", 0.5)]}
