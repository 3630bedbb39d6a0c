"""How much of the true ten nearest is in shortlists of several lengths, and in some inverted lists:
measured on an index itself, so that a search takes no way that loses answers (`plan`).

Legend: D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval import scan
from engine.retrieval.plan import LENGTHS, PROBES
from engine.retrieval.search import Searcher
from storage.index import VectorIndex

_QUERIES, _TRUE = 48, 10


def measured_shortlist(index: VectorIndex, seed: int) -> dict[str, Any]:
    """How many of the ten nearest cells shortlists of several lengths hold, and how many inverted lists, if
    there are any: the cells nearest to cells of the index (themselves left out), and to points half way
    between two cells, where no cell need be.
    """
    searcher, generator = Searcher(index), np.random.default_rng(seed)
    live = searcher.cells(None)
    if len(live) <= 2 * _TRUE:
        return {"n_rows": len(live), "recalls": {}}
    ranks, held = [], []
    for number in range(min(_QUERIES, len(live) // 2)):
        drawn = generator.choice(live, 2, replace=False)[: 1 + number % 2]
        query_D, _ = searcher.mean(f"row in ({', '.join(map(str, drawn))})")
        if not np.linalg.norm(query_D) > 0:
            continue
        nearest = searcher.search(query_D, _TRUE + len(drawn), how="exact").cell
        nearest = nearest[~np.isin(nearest, drawn)][:_TRUE]
        ranks.append(_short_ranks(index, query_D, nearest))
        held.append(_held(searcher, query_D, nearest, _TRUE + len(drawn)))
    return {**_recalls(ranks, len(live)), **_probes(held)}


def shortlist_for(
    index: VectorIndex, queries: Sequence[npt.NDArray[np.float32]] | npt.NDArray[np.float32]
) -> dict[str, Any]:
    """The measured shortlist of an index, made to hold for these queries too: texts lie on another part of
    the sphere than cells do, and a shortlist that is long enough for cells may not be for them.
    """
    searcher, known = Searcher(index), index.facts["shortlist"]
    if not known["recalls"]:
        return dict(known)
    ranks, held = [], []
    for query_D in queries:
        nearest = searcher.search(query_D, _TRUE, how="exact").cell
        ranks.append(_short_ranks(index, query_D, nearest))
        held.append(_held(searcher, query_D, nearest, _TRUE))
    found = {**_recalls(ranks, index.n_cells), **_probes(held)}
    return {
        **known,
        **{part: _least(known[part], found.get(part, {})) for part in ("recalls", "probes") if part in known},
    }


def _least(known: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    return {n: min(recall, found.get(n, 1.0)) for n, recall in known.items()}


def _held(
    searcher: Searcher, query_D: npt.NDArray[np.float32], nearest: npt.NDArray[np.int64], k: int
) -> list[float]:
    """Share of these cells among the k best of each number of inverted lists; none for an index without."""
    if any(segment.ivf_name is None for segment in searcher.index.segments):
        return []
    found = [searcher.search(query_D, k, how="ivf", probes=probes).cell for probes in PROBES]
    return [float(np.isin(nearest, cells).mean()) for cells in found]


def _probes(held: Sequence[Sequence[float]]) -> dict[str, Any]:
    if not any(held):
        return {}
    means = np.mean(held, axis=0)
    return {"probes": {str(n): round(float(mean), 4) for n, mean in zip(PROBES, means, strict=True)}}


def _recalls(ranks: Sequence[npt.NDArray[np.int64]], n_rows: int) -> dict[str, Any]:
    found = np.concatenate(ranks) if ranks else np.zeros(1)
    lengths = [length for length in LENGTHS if length < n_rows]
    return {"n_rows": n_rows, "recalls": {str(n): round(float((found < n).mean()), 4) for n in lengths}}


def _short_ranks(
    index: VectorIndex, query_D: npt.NDArray[np.float32], cells: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many rows come before each of these cells when ordered by short codes."""
    code_S = index.codes.encode_query(query_D)
    scores = np.concatenate([scan.short_scores(s.arrays.short, code_S) for s in index.segments])
    own = scores[np.isin(index.ids, cells)]
    ordered = np.sort(scores)
    return len(ordered) - np.searchsorted(ordered, own, side="right")
