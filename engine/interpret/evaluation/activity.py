"""When the features of a dictionary fire: how often, on which genes, in cells of which label.

Everything is an integer or a count, so states merge exactly in any order.

Shape legend: F features, G token ids, L labels, C cells of a chunk, N activations above zero,
P (feature, cell) pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.interpret.evaluation.cell_bins import CellBins
from engine.interpret.evaluation.dictionaries import Activations
from engine.interpret.features import NO_LABEL
from engine.interpret.runs import (
    CountRun,
    Float32,
    Int64,
    counted,
    empty_counts,
    merge_counts,
    segment_sums,
    segments,
)

UNIT_BITS = 24
"""Activations are summed per gene in units 2^-24 of a sample's largest: as fine as float32 keeps of it."""


class CellCodes(NamedTuple):
    """What a feature does in a cell, for pairs in which it fires, ordered by feature, then cell: feature_P,
    slot_P (the cell's place in its chunk), the largest activation peak_P and the summed one total_P."""

    feature_P: Int64
    slot_P: Int64
    peak_P: Float32
    total_P: Float32


def cell_codes(fired: Activations, slot_T: Int64, n_slots: int) -> CellCodes:
    """Of tokens of whole cells; slot_T: place of each token's cell in the chunk."""
    key_N = fired.feature_N * np.int64(n_slots) + slot_T[fired.token_N]
    order = np.argsort(key_N, kind="stable")
    key_N, value_N = key_N[order], fired.value_N[order]
    starts = segments(key_N)
    if not starts.size:
        none = np.empty(0, np.int64)
        return CellCodes(none, none, value_N, value_N)
    feature_P, slot_P = np.divmod(key_N[starts], n_slots)
    total_P = np.add.reduceat(value_N, starts, dtype=np.float64).astype(np.float32)
    return CellCodes(feature_P, slot_P, np.maximum.reduceat(value_N, starts), total_P)


def unit_of(peak: float) -> float:
    """The unit in which activations up to about `peak` are summed: a power of two."""
    return 2.0 ** (math.frexp(peak)[1] - UNIT_BITS) if peak > 0 else 1.0


@dataclass
class Activity:
    """tokens_F, cells_F: gene tokens and cells in which a feature fires. units: by feature * n_genes + gene,
    its summed activation there. levels: by (feature * n_labels + label) * n_levels + level, cells."""

    n_genes: int
    n_labels: int
    tokens_F: Int64
    cells_F: Int64
    units: CountRun
    levels: CountRun

    @classmethod
    def empty(cls, n_features: int, n_genes: int, n_labels: int) -> Activity:
        counts = np.zeros((2, n_features), np.int64)
        return cls(n_genes, n_labels, counts[0], counts[1], empty_counts(), empty_counts())

    @property
    def n_features(self) -> int:
        return len(self.tokens_F)

    def add(
        self,
        fired: Activations,
        codes: CellCodes,
        gene_T: Int64,
        label_C: Int64 | None,
        bins: CellBins,
        unit: float,
    ) -> None:
        """Fold in whole cells that were not added before; label_C: by slot, -1 for a cell without one."""
        self.tokens_F += np.bincount(fired.feature_N, minlength=self.n_features)
        self.cells_F += np.bincount(codes.feature_P, minlength=self.n_features)
        self.units = merge_counts([self.units, self._gene_units(fired, gene_T, unit)])
        if label_C is None or not self.n_labels:
            return
        label_P = label_C[codes.slot_P]
        known = np.flatnonzero(label_P != NO_LABEL)
        feature_P, peak_P = codes.feature_P[known], codes.peak_P[known]
        pair_P = feature_P * self.n_labels + label_P[known]
        key_P = pair_P * bins.n_levels + bins(feature_P, peak_P)
        n_keys = self.n_features * self.n_labels * bins.n_levels
        self.levels = merge_counts([self.levels, counted(key_P, n_keys)])

    def _gene_units(self, fired: Activations, gene_T: Int64, unit: float) -> CountRun:
        key_N = fired.feature_N * np.int64(self.n_genes) + gene_T[fired.token_N]
        order = np.argsort(key_N, kind="stable")
        key_N = key_N[order]
        units_N = np.rint(fired.value_N[order].astype(np.float64) / unit).astype(np.int64)
        starts = segments(key_N)
        return CountRun(key_N[starts], segment_sums(units_N, starts))

    def merge(self, other: Activity) -> None:
        """Add the counts of other cells."""
        self.tokens_F += other.tokens_F
        self.cells_F += other.cells_F
        self.units = merge_counts([self.units, other.units])
        self.levels = merge_counts([self.levels, other.levels])

    def gene_entropy(self) -> np.ndarray:
        """Entropy in bits of each feature's activation over genes, float64 [F]; NaN where it never fires."""
        feature_K = self.units.key_K // self.n_genes
        total_F = np.bincount(feature_K, weights=self.units.count_K, minlength=self.n_features)
        share_K = self.units.count_K / np.maximum(total_F, 1)[feature_K]
        bits_K = -share_K * np.log2(share_K, where=share_K > 0, out=np.zeros_like(share_K))
        entropy_F = np.bincount(feature_K, weights=bits_K, minlength=self.n_features)
        return np.where(total_F > 0, entropy_F, np.nan)
