"""Integration, gene sets, bootstrap and baselines: on made-up cells whose answers are known."""

import numpy as np
import pandas as pd
from scipy import sparse, stats

from engine.retrieval.annotation.vocabulary import Term
from engine.retrieval.evaluation.baselines import BASELINES
from engine.retrieval.evaluation.bootstrap import bootstrap
from engine.retrieval.evaluation.gene_sets import gene_sets, pearsons, set_ranks
from engine.retrieval.evaluation.integration import asw_batch, graph_connectivity, integration


def groups(n: int = 120, apart: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    label_C = np.arange(n) % 3
    e_CD = np.random.default_rng(0).normal(size=(n, 6)) + apart * np.eye(6)[label_C]
    return e_CD.astype(np.float32), label_C


def test_labels_that_lie_apart_score_high_and_mixed_ones_low() -> None:
    e_CD, label_C = groups()
    batch_C = np.where(np.arange(120) % 2 == 0, "one", "two")
    apart = integration(e_CD, label_C, batch_C, seed=0)
    assert apart["nmi"] > 0.9
    assert apart["ari"] > 0.9
    assert apart["graph_connectivity"] == 1
    assert apart["asw_batch"] > 0.9
    mixed = integration(e_CD, np.random.default_rng(1).permutation(label_C), None, seed=0)
    assert mixed["avg_bio"] < apart["avg_bio"] - 0.4
    assert "asw_batch" not in mixed


def test_batches_that_lie_apart_and_graphs_in_parts() -> None:
    e_CD, label_C = groups()
    batch_C = np.where(np.arange(120) < 60, "one", "two")
    e_CD[batch_C == "two", 5] += 50
    assert asw_batch(e_CD, label_C, batch_C) < 0.2
    assert asw_batch(e_CD, label_C, np.array(["one"] * 120)) is None
    chain = sparse.diags([np.ones(119)], [1])
    cut = sparse.csr_matrix(chain + chain.T)
    one = np.zeros(120, int)
    assert graph_connectivity(cut, one) == 1
    two = np.array([0] * 60 + [1] * 20 + [0] * 40)
    assert graph_connectivity(cut, two) == (0.6 + 1) / 2


def test_ranks_of_gene_sets() -> None:
    dense = np.random.default_rng(0).poisson(1.0, (7, 12)).astype(np.float32)
    genes = pd.DataFrame({"gene_name": [f"G{i}" for i in range(12)]}, index=[f"ENSG{i}" for i in range(12)])
    five = Term("five", ("five",), ("g0", "G1", "ENSG2", "G3", "G4", "unknown"))
    few = Term("few", ("few",), ("G1", "G2"))
    kept, member_TG = gene_sets([few, five], genes)
    assert kept == [five]
    found = set_ranks(sparse.csr_matrix(dense), member_TG)
    expected = (stats.rankdata(dense, axis=1)[:, :5] - 1).mean(1) / 11
    np.testing.assert_allclose(found[:, 0], expected)


def test_pearson() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 30, 3))
    y[:, 2] = 1
    found = pearsons(x, y)
    np.testing.assert_allclose(found[:2], [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(2)])
    assert np.isnan(found[2])


def test_donors_are_drawn_not_cells() -> None:
    """What differs between donors widens the interval; with too few of them cells are drawn."""
    group_C = np.repeat([f"D{i}" for i in range(6)], 200)
    value_C = np.repeat(np.arange(6.0), 200)

    def mean(drawn: np.ndarray) -> dict[str, float]:
        return {"mean": float(value_C[drawn].mean())}

    by_donor, drawn = bootstrap(mean, 1200, group_C, 200, seed=0)
    by_cell, otherwise = bootstrap(mean, 1200, np.where(value_C < 3, "a", "b"), 200, seed=0)
    assert (drawn, otherwise) == ("groups", "cells")
    width = by_donor["mean"][1] - by_donor["mean"][0]
    assert width > 5 * (by_cell["mean"][1] - by_cell["mean"][0])
    assert by_donor["mean"][0] < 2.5 < by_donor["mean"][1]
    assert bootstrap(mean, 1200, group_C, 0, seed=0)[0] == {}


def test_baselines_learn_labels_and_keep_to_those_they_saw() -> None:
    random = np.random.default_rng(0)
    label_C = np.arange(300) % 3
    rate = np.full((300, 60), 0.4)
    for label in range(3):
        rate[label_C == label, label * 20 : label * 20 + 15] = 3
    cells = sparse.csr_matrix(np.log1p(random.poisson(rate)).astype(np.float32))
    train, measured = cells[:200], cells[200:]
    for name, baseline in BASELINES.items():
        score_CL = baseline(train, label_C[:200], measured, 4, 0)
        assert score_CL.shape == (100, 4)
        right = (score_CL.argmax(1) == label_C[200:]).mean()
        assert right > 0.95 if name != "majority" else right < 0.4, name
        assert (score_CL.argmax(1) != 3).all()  # no cell of it was seen
