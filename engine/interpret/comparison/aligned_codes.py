"""Codes of two autoencoders on the same tokens: the same gene of the same cell, whichever model saw it.

Tokens of different models align by gene within a cell, which is what words of a text cannot do.

Shape legend: T tokens both have, C cells, F and G features, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy import sparse

from engine.interpret.codes import sparse_codes
from engine.interpret.comparison.subjects import Compared, Source
from engine.interpret.runs import Float32, Int64
from engine.models import sae
from engine.models.sae.gene_means import load_gene_means, without_gene_means
from storage.activations.aligned import SharedGenes

# done, total, unit
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Pooled:
    """Means over the aligned tokens of each cell: codes [C, F] and the activations they are of [C, D]."""

    codes_CF: sparse.csr_matrix
    raw_CD: Float32


@dataclass(frozen=True)
class AlignedCodes:
    """Of some cells: row t of both sides is about the same gene of the same cell `cell_T`."""

    cell_T: Int64
    one_TF: sparse.csr_matrix
    other_TG: sparse.csr_matrix
    one: Pooled
    other: Pooled


@dataclass(frozen=True)
class _Tokens:
    """Gene tokens of wanted cells, sorted by key: cell and gene in one number."""

    key_T: Int64
    x_TD: torch.Tensor


def aligned_codes(
    one: Compared, other: Compared, cells: Int64, device: str, report: Progress | None = None
) -> AlignedCodes:
    """All gene tokens of these cells (ascending rows of the store) that both sides have.

    Memory is that of the sparse codes and of one member of each cache. Raises ValueError without a cache.
    """
    if one.source is None or other.source is None:
        raise ValueError("codes are read from caches")
    encoders = [sae.load(side.directory).to(device) for side in (one, other)]
    genes = SharedGenes.of((one.source.cache, other.source.cache))
    n_genes = max(genes.n, 1)
    readers = [
        _Reader(side.source, cells, number_G, n_genes, load_gene_means(side.directory))
        for side, number_G in zip((one, other), genes.number_G, strict=True)
        if side.source
    ]
    parts: list[tuple[Int64, list[sparse.csr_matrix], list[Float32]]] = []
    for stop, key_T, x_TD, y_TD in _aligned(readers, cells):
        cell_T = key_T // n_genes
        codes = [
            sparse_codes(encoder, acts.to(device), encoder.d_sae)
            for encoder, acts in zip(encoders, (x_TD, y_TD), strict=True)
        ]
        means = [_means_by_cell(cell_T, acts.float().numpy()) for acts in (x_TD, y_TD)]
        parts.append((cell_T, codes, means))
        if report:
            report(int(np.searchsorted(cells, stop)), len(cells), "cells")
    cell_T = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
    sides = []
    for number, encoder in enumerate(encoders):
        empty = sparse.csr_matrix(np.empty((0, encoder.d_sae), np.float32))
        codes_TF = sparse.vstack([empty, *(part[1][number] for part in parts)], format="csr")
        raw_CD = np.concatenate(
            [np.empty((0, encoder.d_in), np.float32), *(part[2][number] for part in parts)]
        )
        sides.append((codes_TF, Pooled(_mean_codes(cell_T, codes_TF), raw_CD)))
    (one_TF, one_pooled), (other_TG, other_pooled) = sides
    return AlignedCodes(cell_T, one_TF, other_TG, one_pooled, other_pooled)


def chosen_cells(one: Source, other: Source, most_tokens: int, max_cells: int | None) -> Int64:
    """Cells of both caches, evenly spaced, as many as have about `most_tokens` gene tokens together."""
    caches = one.cache, other.cache
    n_cells = min(max(int(record.facts["stop"]) for record in cache.members) for cache in caches)
    n_cells = min(n_cells, max_cells or n_cells)
    tokens_of_a_cell = max(1.0, min(cache.n_tokens / max(cache.n_cells, 1) for cache in caches))
    wanted = min(n_cells, max(1, int(most_tokens / tokens_of_a_cell)))
    return np.unique(np.linspace(0, n_cells - 1, wanted).astype(np.int64))


def _aligned(
    readers: Sequence[_Reader], cells: Int64
) -> Iterator[tuple[int, Int64, torch.Tensor, torch.Tensor]]:
    """(cell it reaches, keys, activations of the one, of the other) of the shared tokens, range by range.

    Members of both caches are consecutive cells; a range ends where a member of either does, so each member
    is read once.
    """
    edges = sorted({edge for reader in readers for edge in reader.edges()})
    for start, stop in pairwise(edges):
        if np.searchsorted(cells, start) == np.searchsorted(cells, stop):
            continue
        mine, theirs = (reader.between(start, stop) for reader in readers)
        if mine is None or theirs is None:
            continue
        key_T, place, other_place = np.intersect1d(mine.key_T, theirs.key_T, return_indices=True)
        if len(key_T):
            yield stop, key_T, mine.x_TD[torch.from_numpy(place)], theirs.x_TD[torch.from_numpy(other_place)]


class _Reader:
    """The wanted tokens of one cache, member after member, as the autoencoder takes them."""

    def __init__(
        self,
        source: Source,
        cells: Int64,
        number_G: Int64,
        n_genes: int,
        gene_means_GD: torch.Tensor | None,
    ) -> None:
        self._gene_means_GD = gene_means_GD
        self._source, self._cells, self._number_G, self._n_genes = source, cells, number_G, n_genes
        self._key, self._tokens = "", _Tokens(np.empty(0, np.int64), torch.empty(0))

    def edges(self) -> list[int]:
        return [
            int(record.facts[edge]) for record in self._source.cache.members for edge in ("start", "stop")
        ]

    def between(self, start: int, stop: int) -> _Tokens | None:
        """Tokens of the cells from start on and before stop; None where no member holds them."""
        for record in self._source.cache.members:
            if int(record.facts["start"]) <= start and stop <= int(record.facts["stop"]):
                tokens = self._member(record.key)
                low, high = np.searchsorted(tokens.key_T, [start * self._n_genes, stop * self._n_genes])
                return _Tokens(tokens.key_T[low:high], tokens.x_TD[low:high])
        return None

    def _member(self, key: str) -> _Tokens:
        if key != self._key:
            tokens = self._source.cache.read(self._source.hook, key)
            number_T, cell_T = self._number_G[tokens.gene], tokens.cell.astype(np.int64)
            rows = np.flatnonzero((number_T >= 0) & np.isin(cell_T, self._cells))
            key_T = cell_T[rows] * self._n_genes + number_T[rows]
            order = np.argsort(key_T, kind="stable")
            x_TD = tokens.acts[torch.from_numpy(rows[order])]
            if self._gene_means_GD is not None:
                ids_T = torch.from_numpy(tokens.gene[rows[order]].astype(np.int64))
                x_TD = without_gene_means(x_TD.float(), ids_T, self._gene_means_GD)
            self._tokens = _Tokens(key_T[order], x_TD)
            self._key = key
        return self._tokens


def _cell_starts(cell_T: Int64) -> Int64:
    """Where each cell's tokens begin; cells are ascending."""
    return np.flatnonzero(np.r_[True, np.diff(cell_T) > 0][: len(cell_T)])


def _means_by_cell(cell_T: Int64, x_TD: Float32) -> Float32:
    starts = _cell_starts(cell_T)
    lengths = np.diff(np.r_[starts, len(cell_T)])
    means: Float32 = np.add.reduceat(x_TD, starts, axis=0) / lengths[:, None].astype(np.float32)
    return means


def _mean_codes(cell_T: Int64, codes_TF: sparse.csr_matrix) -> sparse.csr_matrix:
    starts = _cell_starts(cell_T)
    lengths = np.diff(np.r_[starts, len(cell_T)])
    row_T = np.repeat(np.arange(len(starts)), lengths)
    weights = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    average = sparse.csr_matrix((weights, (row_T, np.arange(len(cell_T)))), shape=(len(starts), len(cell_T)))
    pooled: sparse.csr_matrix = average @ codes_TF
    return pooled
