"""Mann-Whitney tests of one group of cells after another against the same control cells, on sparse columns.

Control values are sorted once; a group then costs a search for each of its stored values. So a screen is
tested in one stream of its perturbations, and zeros are never written out.

Legend: C cells, G genes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats

from storage.errors import InputError

Array = npt.NDArray[np.float64]


class RankSum:
    """Two-sided tests against one set of control cells: asymptotic, ties corrected, continuity of a half.

    Values are compared in float32, as the field's packages store them, and must not be negative.
    """

    def __init__(self, control_CG: sparse.csr_matrix) -> None:
        """Raises InputError when there are no control cells or one holds a negative value."""
        self.n_control, self.n_genes = control_CG.shape
        if self.n_control == 0:
            raise InputError("a rank test needs control cells; there are none.")
        self._keys = _sorted_keys(control_CG)
        self._starts = np.searchsorted(self._keys, _first_keys(self.n_genes + 1))
        self._zeros_G = self.n_control - np.diff(self._starts)
        self._ties_G = _summed(self._keys, _cubes(_run_lengths(self._keys)), self.n_genes)

    def test(self, group_CG: sparse.csr_matrix) -> tuple[Array, Array]:
        """(U of the group [G], p [G]); p is 1 where every value of a gene is the same."""
        n, m = group_CG.shape[0], self.n_control
        keys = _sorted_keys(group_CG)
        genes = (keys >> np.uint64(32)).astype(np.int64)
        below = np.searchsorted(self._keys, keys, side="left")
        same = np.searchsorted(self._keys, keys, side="right") - below
        zeros_G = n - np.bincount(genes, minlength=self.n_genes)
        wins = below - self._starts[genes] + self._zeros_G[genes] + same / 2
        u_G = np.bincount(genes, wins, minlength=self.n_genes) + zeros_G * self._zeros_G / 2
        ties_G = self._ties(keys, same, zeros_G)
        total = n + m
        variance_G = n * m / 12 * (total + 1 - ties_G / (total * max(total - 1, 1)))
        distance_G = np.abs(u_G - n * m / 2) - 0.5
        with np.errstate(divide="ignore", invalid="ignore"):
            z_G = distance_G / np.sqrt(np.maximum(variance_G, 0))
        return u_G, np.where(variance_G > 0, np.minimum(2 * stats.norm.sf(z_G), 1.0), 1.0)

    def _ties(self, keys: npt.NDArray[np.uint64], same: Any, zeros_G: Any) -> Array:
        """Sum of t^3 - t over the tied blocks of both groups together [G]."""
        if len(keys) == 0:
            stored_G = np.zeros(self.n_genes)
        else:
            first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
            runs = np.diff(np.r_[first, len(keys)])
            control = same[first]
            stored_G = _summed(keys[first], _cubes(runs + control) - _cubes(control), self.n_genes)
        return self._ties_G + stored_G + _cubes(zeros_G + self._zeros_G)


def win_share(left_CG: sparse.csr_matrix, right_CG: sparse.csr_matrix) -> Array:
    """[G] chance that a cell of the left holds more of a gene than one of the right, ties half: the area
    under the curve of telling them apart. 0.5 where a side has no cells.
    """
    pairs = left_CG.shape[0] * right_CG.shape[0]
    if not pairs:
        return np.full(left_CG.shape[1], 0.5)
    return RankSum(right_CG).test(left_CG)[0] / pairs


def adjusted(p: Array) -> Array:
    """Benjamini-Hochberg adjusted p-values."""
    return np.asarray(stats.false_discovery_control(p, method="bh")) if len(p) else p


def _sorted_keys(matrix_CG: sparse.csr_matrix) -> npt.NDArray[np.uint64]:
    """Gene in the upper half, value in the lower: float32 bits of non-negative numbers are in their order."""
    values = matrix_CG.data.astype(np.float32)
    if len(values) and (values.min() < 0 or np.isnan(values).any()):
        raise InputError("expression holds negative values or NaN; expected counts or log1p of them.")
    genes = matrix_CG.indices[values > 0].astype(np.uint64)
    keys = (genes << np.uint64(32)) | values[values > 0].view(np.uint32).astype(np.uint64)
    keys.sort()
    return keys


def _first_keys(n: int) -> npt.NDArray[np.uint64]:
    return np.arange(n, dtype=np.uint64) << np.uint64(32)


def _run_lengths(keys: npt.NDArray[np.uint64]) -> Array:
    """Length of the run that each key begins, 0 for the others."""
    lengths = np.zeros(len(keys))
    if len(keys):
        first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        lengths[first] = np.diff(np.r_[first, len(keys)])
    return lengths


def _cubes(t: Any) -> Array:
    size = np.asarray(t, dtype=np.float64)
    return size**3 - size


def _summed(keys: npt.NDArray[np.uint64], weights: Array, n_genes: int) -> Array:
    found = np.bincount((keys >> np.uint64(32)).astype(np.int64), weights, minlength=n_genes)
    return found.astype(np.float64)
