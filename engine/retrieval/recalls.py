"""Class-level retrieval: whether a query finds a candidate of its own label among the first k.

Captions of one label are alike, so finding the very pair of a query is mostly a matter of ties; finding its
label is not. Legend: Q queries, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ties = Literal["pessimistic", "mean"]
Labels = Sequence[str] | npt.NDArray[Any]


def class_recall(
    scores_QN: npt.NDArray[np.floating[Any]],
    query_labels: Labels,
    candidate_labels: Labels,
    ks: Sequence[int] = (1, 5, 10, 50),
    *,
    ties: Ties = "pessimistic",
) -> dict[str, float]:
    """Shares of queries with a candidate of their label among the k best scored.

    `recall@k` over queries; `macro_recall@k` the mean over labels of each label's share; `median_rank` of
    the first candidate of the label, from 1; `queries`, `candidates`, and `unanswerable`: queries whose
    label no candidate has, which the shares leave out.
    ties: "pessimistic", a candidate of another label with the same score comes first; "mean", the rank
        expected of a random order of those with the same score.
    Raises ValueError when labels do not fit the scores, or no query can be answered.
    """
    rank_Q = class_ranks(scores_QN, query_labels, candidate_labels, ties=ties)
    answerable_Q = np.isfinite(rank_Q)
    if not answerable_Q.any():
        raise ValueError("no candidate has the label of any query")
    rank_Q, labels_Q = rank_Q[answerable_Q], np.asarray(query_labels)[answerable_Q]
    _, class_Q = np.unique(labels_Q, return_inverse=True)
    found: dict[str, float] = {}
    for k in ks:
        hit_Q = (rank_Q <= k).astype(np.float64)
        found[f"recall@{k}"] = float(hit_Q.mean())
        found[f"macro_recall@{k}"] = float((np.bincount(class_Q, hit_Q) / np.bincount(class_Q)).mean())
    return {
        **found,
        "median_rank": float(np.median(rank_Q)),
        "queries": len(answerable_Q),
        "candidates": scores_QN.shape[1],
        "unanswerable": int((~answerable_Q).sum()),
    }


def class_ranks(
    scores_QN: npt.NDArray[np.floating[Any]],
    query_labels: Labels,
    candidate_labels: Labels,
    *,
    ties: Ties = "pessimistic",
) -> npt.NDArray[np.float64]:
    """Rank, from 1, of the best candidate of each query's label `[Q]`; infinite where there is none.

    A score of NaN is below all others. Ties and errors as in `class_recall`.
    """
    if scores_QN.shape != (len(query_labels), len(candidate_labels)):
        raise ValueError(
            f"scores {scores_QN.shape}: expected ({len(query_labels)} queries, "
            f"{len(candidate_labels)} candidates)"
        )
    if ties not in ("pessimistic", "mean"):
        raise ValueError(f"ties {ties!r}: expected pessimistic or mean")
    queries, candidates = np.asarray(query_labels), np.asarray(candidate_labels)
    rank_Q = np.full(len(queries), np.inf)
    # By label: one mask of candidates at a time, not one for every query.
    for label in np.unique(queries):
        rows, own_N = np.flatnonzero(queries == label), candidates == label
        if own_N.any():
            rank_Q[rows] = _first_ranks(scores_QN[rows], own_N, ties)
    return rank_Q


def _first_ranks(
    scores_QN: npt.NDArray[np.floating[Any]], own_N: npt.NDArray[np.bool_], ties: Ties
) -> npt.NDArray[np.float64]:
    known_QN = np.where(np.isnan(scores_QN), -np.inf, scores_QN)
    own, others = known_QN[:, own_N], known_QN[:, ~own_N]
    best_Q = own.max(axis=1)
    above_Q = (others > best_Q[:, None]).sum(axis=1)
    level_Q = (others == best_Q[:, None]).sum(axis=1)
    # Of n others among p own in random order, n / (p + 1) come before the first own.
    share_Q = 1.0 / ((own == best_Q[:, None]).sum(axis=1) + 1.0) if ties == "mean" else 1.0
    rank_Q: npt.NDArray[np.float64] = 1.0 + above_Q + level_Q * share_Q
    return rank_Q
