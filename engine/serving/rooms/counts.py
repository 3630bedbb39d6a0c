"""The counts behind the cells: what a selection expresses more than others, and one gene in every cell.

Legend: C cells, G genes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from engine.interpret.expression import PER_CELL
from engine.perturbation.normalise import log_normalised
from engine.perturbation.rank_sum import win_share
from engine.retrieval.annotation.expression import ClusterSums, normalised
from engine.serving.chat.top_genes import top_genes
from engine.serving.problems import Problem
from engine.serving.rooms.cell_view import Scores, levels_of
from engine.serving.rooms.cells import sample_of
from engine.serving.settings import Settings
from storage.cells import CellStore
from storage.shuffled_cells import read_cells

Int64 = npt.NDArray[np.int64]

# Cells of each side that are compared. A gene in one of a hundred cells is still seen in twenty.
COMPARED = 2_000
# Of many groups together, and of each of them at least.
_COMPARED_TOGETHER, _LEAST_COMPARED = 20_000, 50
# Genes in fewer cells of the selection than this are not named as markers.
_LEAST_SHARE = 0.1
_REMEMBERED_GENES = 64
_BLOCK = 16_384


class CountRoom:
    """Reads a cell store whose rows are the ids of the index."""

    def __init__(self, settings: Settings) -> None:
        if settings.cells is None:
            raise ValueError("a room of counts needs a cell store")
        self._store = CellStore.open(settings.cells)
        genes = self._store.genes
        self._names = gene_names_of(genes)
        self._column = {str(gene).upper(): number for number, gene in enumerate(genes.index)}
        self._column |= {name.upper(): number for number, name in enumerate(self._names)}
        self._genes: OrderedDict[int, Scores] = OrderedDict()
        self._normaliser: npt.NDArray[np.float64] | None = None

    def facts(self) -> dict[str, Any]:
        return {
            "cells": str(self._store.location),
            "dataset_id": self._store.dataset_id,
            "n_cells": self._store.n_cells,
            "n_genes": self._store.n_genes,
        }

    def gene_names(self, text: str, most: int) -> list[str]:
        """Names that begin with the text, shortest first."""
        found = {name for name in self._names if name.upper().startswith(text.upper())}
        return sorted(found, key=lambda name: (len(name), name))[:most]

    def known_genes(self, words: list[str]) -> list[str]:
        """Those of these words that are names of genes here, as they are written here."""
        return [
            str(self._names[self._column[word.upper()]]) for word in words if word.upper() in self._column
        ]

    def gene(self, name: str, ids: Int64) -> Scores:
        """log(1 + counts per ten thousand) of one gene in these cells, a byte each. Reads the whole store
        once; the last genes asked for are remembered.
        """
        column = self._column.get(name.upper())
        if column is None:
            raise Problem(404, "no_gene", f"no gene {name!r} in {self._store.location}")
        if column not in self._genes:
            self._genes[column] = levels_of(self._expression(column)[self._rows(ids)])
            while len(self._genes) > _REMEMBERED_GENES:
                self._genes.popitem(last=False)
        return self._genes[column]

    def markers(self, ids: Int64, rest: Int64, most: int) -> dict[str, Any]:
        """Genes that these cells express more than the rest, by effect size.

        log2_fold: of mean counts per ten thousand, one added to both. share, share_of_rest: of cells with a
        count. auc: chance that a cell of the selection expresses more of it than one of the rest (ties half).
        """
        ours, theirs = sample_of(ids, COMPARED), sample_of(rest, COMPARED, seed=1)
        a_CG, b_CG = self._scaled(ours), self._scaled(theirs)
        mean_a, mean_b = _mean(a_CG), _mean(b_CG)
        share_a, share_b = _share(a_CG), _share(b_CG)
        fold_G = np.log2((mean_a + 1) / (mean_b + 1))
        candidates = np.flatnonzero((share_a >= _LEAST_SHARE) & (fold_G > 0))
        # The area needs every number of a gene, so only genes with a large fold or share are looked at.
        strong = candidates[np.argsort(-(fold_G * (share_a - share_b + 1))[candidates], kind="stable")]
        strong = strong[: 4 * most]
        shares = win_share(a_CG[:, strong], b_CG[:, strong])
        area = dict(zip(strong.tolist(), shares.tolist(), strict=True))
        kept = sorted(strong.tolist(), key=lambda g: (-area[g], -fold_G[g]))[:most]
        return {
            "compared": {"selection": len(ours), "rest": len(theirs)},
            "genes": [
                {
                    "gene": str(self._names[g]),
                    "log2_fold": round(float(fold_G[g]), 3),
                    "auc": round(area[g], 3),
                    "share": round(float(share_a[g]), 3),
                    "share_of_rest": round(float(share_b[g]), 3),
                }
                for g in kept
            ],
        }

    def gene_columns(self) -> list[str]:
        """The names of all genes, in the order of every G."""
        return [str(name) for name in self._names]

    def counts(self, ids: Int64) -> tuple[sparse.csr_matrix, pd.DataFrame]:
        """Raw counts of some cells in the order asked, and the table of the genes."""
        return self._counts(ids), self._store.genes

    def cluster_sums(self, groups: Sequence[Int64]) -> ClusterSums:
        """Expression of groups of cells, estimated from at most 20,000 cells of all groups together: sums of
        a group's sample stand for the whole group.
        """
        most = min(COMPARED, max(_LEAST_COMPARED, _COMPARED_TOGETHER // max(len(groups), 1)))
        sums = ClusterSums.zeros(len(groups), self._store.n_genes)
        for number, ids in enumerate(groups):
            if len(ids):
                own = ClusterSums.zeros(1, self._store.n_genes)
                sample = sample_of(ids, most)
                logged_CG = normalised(self._counts(sample))
                own.add(sparse.csr_matrix(np.ones((1, len(sample)))), logged_CG)
                share = len(sample) / len(ids)
                sums.sum_NG[number], sums.square_NG[number] = own.sum_NG[0] / share, own.square_NG[0] / share
                sums.cells_NG[number], sums.size_N[number] = own.cells_NG[0] / share, len(ids)
        return sums

    def top_genes(self, ids: Int64, most: int) -> list[str]:
        """By CellWhisperer's rule, with cells in general a sample of the whole store."""
        if self._normaliser is None:
            all_CG = self._counts(sample_of(np.arange(self._store.n_cells), COMPARED, seed=1))
            all_CG.data = np.log1p(all_CG.data)
            self._normaliser = _mean(all_CG)
        own_CG = self._counts(sample_of(self._rows(ids), COMPARED))
        return [str(self._names[g]) for g in top_genes(own_CG, self._normaliser, most)]

    def profile(self, ids: Int64, genes: Sequence[str]) -> tuple[npt.NDArray[np.float64], list[str]]:
        """Mean log(1 + counts per ten thousand) of some genes in these cells (at most 2,000 of them), 0 for
        genes that are not measured here; and which those are.
        """
        columns = np.array([self._column.get(gene.upper(), -1) for gene in genes])
        missing = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
        if len(missing) == len(genes):
            raise Problem(400, "no_gene", f"none of the model's genes is in {self._store.location}")
        mean_G = _mean(log_normalised(self._counts(sample_of(ids, COMPARED))))
        return np.where(columns >= 0, mean_G[columns], 0.0), missing

    def _rows(self, ids: Int64) -> Int64:
        if len(ids) and int(ids.max()) >= self._store.n_cells:
            detail = (
                f"cell {int(ids.max())} is not in {self._store.location}: it was added to the index later"
            )
            raise Problem(400, "no_counts", detail)
        return ids

    def _counts(self, rows: Int64) -> sparse.csr_matrix:
        return read_cells(self._store, self._rows(rows)).to_csr()

    def _scaled(self, rows: Int64) -> sparse.csr_matrix:
        """Counts per ten thousand `[C, G]`."""
        counts_CG = self._counts(rows)
        totals_C = np.asarray(counts_CG.sum(axis=1)).ravel()
        counts_CG.data *= np.repeat(PER_CELL / np.maximum(totals_C, 1), np.diff(counts_CG.indptr))
        return counts_CG

    def _expression(self, column: int) -> npt.NDArray[np.float32]:
        """`[store cells]`"""
        totals, found = self._store.total_counts, np.zeros(self._store.n_cells, np.float32)
        for start, stop in self._store.row_blocks(_BLOCK):
            block = self._store.read(start, stop)
            at = np.flatnonzero(block.indices == column)
            cells = np.searchsorted(block.indptr, at, side="right") - 1 + start
            found[cells] = np.log1p(block.counts[at] * PER_CELL / np.maximum(totals[cells], 1))
        return found


def gene_names_of(genes: pd.DataFrame) -> npt.NDArray[np.str_]:
    """What the genes of a store are called: their names, and their ids where they have none."""
    names = genes["gene_name"].astype(str) if "gene_name" in genes else genes.index.astype(str)
    return np.where(names.isin(["", "nan"]), genes.index.astype(str), names).astype(str)


def _mean(x_CG: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    return np.asarray(x_CG.sum(axis=0)).ravel() / max(x_CG.shape[0], 1)


def _share(x_CG: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    return np.bincount(x_CG.indices, minlength=x_CG.shape[1]) / max(x_CG.shape[0], 1)
