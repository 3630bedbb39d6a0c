"""Genes of the cells a feature fires in: against the definition, and on real cells."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from engine.interpret.features import GeneTokens, Observer
from engine.interpret.gene_ranking import TableOptions, gene_table
from engine.interpret.names import Names
from engine.interpret.presence import Presence, is_sampled
from engine.interpret.scores import feature_moments
from engine.interpret.state import FeatureState, PassPlan, merge
from tests.interpret.small_pass import CELLS, FEATURES, SmallPass

PLAN = {"cell_share": 1.0}


def residual(x: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """What a straight line through the depth leaves of x."""
    design = np.stack([np.ones_like(depth), depth], axis=1)
    return x - design @ np.linalg.lstsq(design, x, rcond=None)[0]


def test_scores_are_partial_correlations() -> None:
    rng = np.random.default_rng(0)
    present = (rng.random((40, 6)) < rng.random((40, 1))).astype(np.float32)
    present[:, 4], present[:, 5] = 1, 0
    peaks = np.where(rng.random((40, 3)) < 0.5, rng.random((40, 3)), 0).astype(np.float32)
    peaks[:, 2] = 0
    features = _state_of(peaks, present).features
    presence = Presence.of(np.arange(40), sparse.csr_matrix(present))
    ((feature_F, score_FG),) = presence.scores(features)
    assert feature_F.tolist() == [0, 1]
    depth = np.log1p(present.sum(axis=1, dtype=np.float64))
    for feature in (0, 1):
        for gene in range(4):
            left = residual(peaks[:, feature].astype(np.float64), depth), residual(present[:, gene], depth)
            assert score_FG[feature, gene] == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)
    assert (score_FG[:, 4:] == 0).all()


def _state_of(peaks: np.ndarray, present: np.ndarray) -> FeatureState:
    """Cells whose first gene, which all of them have as a token, carries all the activation."""
    plan = PassPlan(peaks.shape[1], present.shape[1], **PLAN)
    observer = Observer(plan)
    cells = np.arange(len(peaks))
    tokens = GeneTokens(cells, np.zeros_like(cells), np.zeros_like(cells), np.ones(len(cells), np.float32))
    observer.add(tokens, sparse.csr_matrix(peaks))
    return observer.state()


def test_the_sample_is_that_of_the_whole_however_the_pass_was_cut() -> None:
    case = SmallPass.random(0, cell_share=0.5)
    whole, parts = case.whole(), merge(case.by_cells([0, 9, 23, CELLS]))
    for one, other in zip(whole.features.peaks, parts.features.peaks, strict=True):
        assert np.array_equal(one, other)
    sampled = set(np.flatnonzero(is_sampled(case.plan, np.arange(CELLS))).tolist())
    assert 0 < len(sampled) < CELLS
    assert set(whole.features.peaks.cell_S.tolist()) <= sampled
    first, second = whole.features.cut(case.plan, [0, FEATURES // 2, FEATURES])
    assert len(first.peaks.cell_S) + len(second.peaks.cell_S) == len(whole.features.peaks.cell_S)


def test_a_feature_of_t_cells_lists_what_t_cells_have(shared: Path) -> None:
    """It fires on one gene that every cell has, more in T cells, and most in cells with many genes."""
    cells = anndata.read_h5ad(shared / "data" / "pbmc3k.h5ad")[:1000]
    counts = sparse.csr_matrix(cells.X)
    genes = cells.var["gene_name"].astype(str).tolist()
    is_t = cells.obs["cell_type"].astype(str).str.contains("T cell").to_numpy()
    depth = np.diff(counts.indptr)
    rng = np.random.default_rng(0)
    strength = (0.5 + is_t + depth / 500 + rng.normal(0, 0.5, len(is_t))).clip(0.01).astype(np.float32)
    state = _state_of(strength[:, None], np.zeros((len(strength), len(genes))))
    seen = np.asarray((counts > 0).sum(axis=0)).ravel().astype(np.int64)
    state = replace(state, tokens=replace(state.tokens, tokens_G=seen))
    presence = Presence.of(np.arange(len(strength)), counts.astype(bool).astype(np.float32))
    names = Names(genes, genes, cells.obs_names.tolist())
    table = gene_table(state, feature_moments(state), names, TableOptions(20, "presence", 10), presence)
    assert {"CD3D", "CD3E", "IL32", "LTB"} <= set(table["gene_name"])
    assert not table["gene_name"].str.match("RP[SL]").any()
    assert (table["n"] == 0).all()
    assert table["score"].is_monotonic_decreasing


def test_without_a_sample_there_is_no_such_ranking() -> None:
    case = SmallPass.random(0)
    state = case.whole()
    with pytest.raises(ValueError, match="sampled cells"):
        gene_table(state, feature_moments(state), case.names, TableOptions(3, "presence"))
