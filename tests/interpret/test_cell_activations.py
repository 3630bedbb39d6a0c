"""Peaks per cell by brute force, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest

from engine.interpret import codes
from engine.interpret.cell_activations import add_peaks
from tests.interpret.small_pass import CELLS, FEATURES, SmallPass


@pytest.mark.parametrize("rows", [5, 10_000])
def test_peaks_equal_brute_force(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(codes, "TOKENS_AT_ONCE", rows)
    case = SmallPass.random(0)
    expected_CF = np.zeros((CELLS, FEATURES), np.float32)
    np.maximum.at(expected_CF, case.cell_T[case.gene_tokens], case.activations[case.gene_tokens])
    peak_CF = np.zeros((CELLS, FEATURES), np.float32)
    kept_T = case.is_gene_G[case.gene_T]
    first = np.arange(len(kept_T)) < 100
    add_peaks(peak_CF, case.sae, case.x_TD, case.cell_T, kept_T & first)
    add_peaks(peak_CF, case.sae, case.x_TD, case.cell_T, kept_T & ~first)
    np.testing.assert_array_equal(peak_CF, expected_CF)
