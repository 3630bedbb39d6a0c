"""Finding cells by texts and texts by cells, by class and by the very pair.

Legend: C cells, P captions, Q queries, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval.evaluation.inputs import Float32, Int64, MeasuredCells
from engine.retrieval.recalls import class_ranks, class_recall

KS = (1, 5, 10, 50)
QUERIES = 1000
# CellWhisperer measures 1,000 pairs; a recall without its number of candidates says nothing.
CANDIDATES = (1_000, 10_000, 50_000)
TIES = "pessimistic: a candidate that is no answer but scores the same comes first"


def both_levels(
    cells: MeasuredCells, caption_PU: Float32, seed: int, candidates: Sequence[int] = CANDIDATES
) -> dict[str, Any]:
    """Recalls by class and by instance, text to cell and cell to text, and the same with captions shuffled
    among the cells.
    """
    shuffled_C = np.random.default_rng(seed).permutation(cells.caption_C)
    return {
        "ties": TIES,
        "class": by_class(cells, caption_PU, cells.caption_C, seed),
        "class_shuffled_captions": by_class(cells, caption_PU, shuffled_C, seed),
        "instance": by_instance(cells, caption_PU, cells.caption_C, seed, candidates),
        "instance_shuffled_captions": by_instance(cells, caption_PU, shuffled_C, seed, candidates[:1]),
    }


def by_class(cells: MeasuredCells, caption_PU: Float32, caption_C: Int64, seed: int) -> dict[str, Any]:
    """An answer is any candidate of the query's label. At most 1,000 queries; candidates are all cells, or
    the captions of the cells drawn as queries.
    """
    drawn = _drawn(len(cells), QUERIES, seed)
    texts_QU, cells_QU = caption_PU[caption_C[drawn]], cells.e_CU[drawn]
    own = cells.label_C[drawn]
    return {
        "positives": "candidates of the query's label",
        "text_to_cell": class_recall(texts_QU @ cells.e_CU.T, own, cells.label_C, KS),
        "cell_to_text": class_recall(cells_QU @ texts_QU.T, own, own, KS),
    }


def by_instance(
    cells: MeasuredCells, caption_PU: Float32, caption_C: Int64, seed: int, candidates: Sequence[int]
) -> list[dict[str, Any]]:
    """The answer is the query's own pair, among fixed numbers of candidates. Cells that share a caption share
    its rank: `ceiling` is what a model that knew all captions would reach from cell to text.
    """
    found = []
    for n in candidates:
        if n > len(cells) and n != candidates[0]:
            continue
        drawn = _drawn(len(cells), min(n, len(cells)), seed)
        queries = np.arange(min(QUERIES, len(drawn)))
        texts_NU, cells_NU = caption_PU[caption_C[drawn]], cells.e_CU[drawn]
        _, repeats = np.unique(caption_C[drawn], return_counts=True)
        found.append(
            {
                "candidates": len(drawn),
                "queries": len(queries),
                "distinct_captions": len(repeats),
                "ceiling_recall@1": float((repeats == 1).sum() / len(drawn)),
                "text_to_cell": _own_pair(texts_NU[queries] @ cells_NU.T, queries),
                "cell_to_text": _own_pair(cells_NU[queries] @ texts_NU.T, queries),
            }
        )
    return found


def label_recall(
    score_LC: npt.NDArray[np.floating], label_C: Int64, present_L: Int64
) -> dict[str, dict[str, float]]:
    """Recalls where the text is the label itself: for whatever scores labels, baselines too."""
    return {
        "text_to_cell": class_recall(score_LC[present_L], present_L, label_C, KS),
        "cell_to_text": class_recall(score_LC.T, label_C, np.arange(len(score_LC)), KS),
    }


def _own_pair(score_QN: npt.NDArray[np.floating], own_Q: Int64) -> dict[str, float]:
    rank_Q = class_ranks(score_QN, own_Q, np.arange(score_QN.shape[1]))
    return {
        **{f"recall@{k}": float((rank_Q <= k).mean()) for k in KS},
        "median_rank": float(np.median(rank_Q)),
    }


def _drawn(n_cells: int, n: int, seed: int) -> Int64:
    """n of the cells in random order, the same for every direction."""
    return np.random.default_rng(seed).permutation(n_cells)[:n].astype(np.int64)
