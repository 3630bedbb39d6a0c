"""Which feature of one autoencoder is which of another: best partners both ways, and a one-to-one assignment.

One sweep over blocks of pairs keeps a few candidates of every feature of either side; nothing else of the
F x G similarities survives it. The assignment is the best one among the candidate pairs.

Shape legend: F features of the one side, G of the other, C candidates kept, P pairs, f and g features of a
block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from engine.interpret.comparison.similarity import Similarity
from engine.interpret.runs import Float32, Int64

Bool = npt.NDArray[np.bool_]

CANDIDATES = 8
"""Partners kept of every feature: enough that the assignment rarely wants one beyond them."""
BLOCK = 2048
"""Features of either side looked at together: 16 MB of similarities, enough for a product at its peak."""
NOBODY = -1


class Partners(NamedTuple):
    """Candidates of every feature of one side, most alike first: index_FC int64 (of the other side),
    similarity_FC float32."""

    index_FC: Int64
    similarity_FC: Float32


@dataclass(frozen=True)
class Matching:
    """Pairs of features of two autoencoders; `NOBODY` (similarity 0) where nothing is at all alike.

    best_F, best_G: most alike feature of the other side. assigned_F: partner in the one-to-one assignment
    with the largest sum of similarities; features may stay alone.
    """

    best_F: Int64
    best_similarity_F: Float32
    best_G: Int64
    best_similarity_G: Float32
    assigned_F: Int64
    assigned_similarity_F: Float32

    @property
    def mutual(self) -> Bool:
        """Whether a feature and its best partner are each other's best, [F]."""
        found_F = self.best_F != NOBODY
        return np.asarray(found_F & (self.best_G[self.best_F] == np.arange(len(self.best_F))))

    def reversed(self) -> Matching:
        """The same pairs seen from the other side."""
        assigned_G = np.full(len(self.best_G), NOBODY, np.int64)
        similarity_G = np.zeros(len(self.best_G), np.float32)
        kept = np.flatnonzero(self.assigned_F != NOBODY)
        assigned_G[self.assigned_F[kept]] = kept
        similarity_G[self.assigned_F[kept]] = self.assigned_similarity_F[kept]
        return Matching(
            self.best_G,
            self.best_similarity_G,
            self.best_F,
            self.best_similarity_F,
            assigned_G,
            similarity_G,
        )


def match(similarity: Similarity, *, candidates: int = CANDIDATES, block: int = BLOCK) -> Matching:
    """Best partners both ways and the assignment. Memory: (F + G) x candidates, and one block of pairs."""
    of_one, of_other = partners(similarity, candidates=candidates, block=block)
    assigned_F, assigned_similarity_F = assign(of_one, of_other)
    return Matching(*_best(of_one), *_best(of_other), assigned_F, assigned_similarity_F)


def partners(
    similarity: Similarity, *, candidates: int = CANDIDATES, block: int = BLOCK
) -> tuple[Partners, Partners]:
    """The most alike features of the other side, for every feature of the one and of the other."""
    n_one, n_other = similarity.shape
    of_one = _Leaders(n_one, min(candidates, n_other))
    of_other = _Leaders(n_other, min(candidates, n_one))
    for row in range(0, n_one, block):
        rows = slice(row, min(row + block, n_one))
        for column in range(0, n_other, block):
            columns = slice(column, min(column + block, n_other))
            s_fg = similarity.block(rows, columns)
            of_one.add(rows, s_fg, column)
            of_other.add(columns, s_fg.T, row)
    return of_one.partners(), of_other.partners()


def assign(of_one: Partners, of_other: Partners) -> tuple[Int64, Float32]:
    """(partner, similarity) of every feature of the one side: the largest sum over candidate pairs of
    similarity above 0, each feature in one pair at most.

    Jonker and Volgenant's method on sparse costs (scipy). It wants everyone matched, so that every feature
    gets, beside its candidates, the choice to stay alone at the cost of similarity 0.
    """
    n_one, n_other = len(of_one.index_FC), len(of_other.index_FC)
    row_P, column_P, similarity_P = _candidate_pairs(of_one, of_other)
    alone = np.arange(n_one)
    # Costs from 1 to 2: scipy takes a cost of 0 for a pair that is not there.
    cost_P = np.concatenate([2.0 - similarity_P.astype(np.float64), np.full(n_one, 2.0)])
    places = np.concatenate([row_P, alone]), np.concatenate([column_P, n_other + alone])
    costs = sparse.csr_matrix((cost_P, places), shape=(n_one, n_other + n_one))
    row_F, column_F = min_weight_full_bipartite_matching(costs)
    assigned_F = np.full(n_one, NOBODY, np.int64)
    similarity_F = np.zeros(n_one, np.float32)
    paired = column_F < n_other
    assigned_F[row_F[paired]] = column_F[paired]
    chosen_F = np.asarray(costs[row_F[paired], column_F[paired]]).ravel()
    similarity_F[row_F[paired]] = 2.0 - chosen_F
    return assigned_F, similarity_F


def _candidate_pairs(of_one: Partners, of_other: Partners) -> tuple[Int64, Int64, Float32]:
    """(row, column, similarity) of all pairs that are candidates of either of the two, each pair once."""
    (index_FC, similarity_FC), (index_GC, similarity_GC) = of_one, of_other
    row = np.repeat(np.arange(len(index_FC)), index_FC.shape[1])
    column = np.repeat(np.arange(len(index_GC)), index_GC.shape[1])
    one_P = np.concatenate([row, index_GC.ravel()])
    other_P = np.concatenate([index_FC.ravel(), column])
    similarity_P = np.concatenate([similarity_FC.ravel(), similarity_GC.ravel()])
    key_P, first = np.unique(one_P * len(index_GC) + other_P, return_index=True)
    alike = similarity_P[first] > 0
    row_P, column_P = np.divmod(key_P[alike], len(index_GC))
    return row_P, column_P, similarity_P[first][alike]


def _best(side: Partners) -> tuple[Int64, Float32]:
    index_F, similarity_F = side.index_FC[:, 0], side.similarity_FC[:, 0]
    alike_F = similarity_F > 0
    return np.where(alike_F, index_F, NOBODY), np.where(alike_F, similarity_F, np.float32(0))


class _Leaders:
    """The candidates of every feature among the blocks seen so far."""

    def __init__(self, n_features: int, n_candidates: int) -> None:
        self._similarity_FC = torch.full((n_features, n_candidates), -torch.inf)
        self._index_FC = torch.zeros((n_features, n_candidates), dtype=torch.int64)

    def add(self, features: slice, s_fg: torch.Tensor, first: int) -> None:
        """s_fg: of these features to those of the other side from `first` on. Of equals the earlier stay."""
        kept = self._similarity_FC.shape[1]
        best_fC, place_fC = s_fg.topk(min(kept, s_fg.shape[1]), dim=1)
        similarity = torch.cat([self._similarity_FC[features], best_fC.cpu()], dim=1)
        index = torch.cat([self._index_FC[features], place_fC.cpu() + first], dim=1)
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        self._similarity_FC[features] = similarity[:, :kept]
        self._index_FC[features] = index.gather(1, order)[:, :kept]

    def partners(self) -> Partners:
        return Partners(self._index_FC.numpy(), self._similarity_FC.numpy())
