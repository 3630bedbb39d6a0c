"""Searching an index: the best cells for a vector, with or without a condition; or the score of every cell.

Shape legend: N rows, D width, K results.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.retrieval import conditions, scan
from engine.retrieval.conditions import Mask
from engine.retrieval.found import Found, ranked
from engine.retrieval.half_products import Positions
from engine.retrieval.ivf import InvertedLists
from engine.retrieval.plan import RECALL, Shortlist, Way, probes_for, way_of
from storage.errors import InputError
from storage.index import Segment, VectorIndex
from storage.index.cell_tables import ROW

Metric = Literal["cosine", "dot"]
Asked = Literal["auto", "exact", "shortlist", "ivf"]

# Conditions whose rows are remembered: one byte a row each.
_REMEMBERED = 16
_LOWEST = np.int32(np.iinfo(np.int32).min)


class Searcher:
    """Searches some segments (all, unless told otherwise) of one version of an index; not thread-safe.

    most_threads: of one scan, None for as many as torch is set to.
    """

    def __init__(
        self,
        index: VectorIndex,
        segments: Sequence[Segment] | None = None,
        *,
        most_threads: int | None = None,
    ) -> None:
        self.index, self._most_threads = index, most_threads
        self.segments = list(index.segments if segments is None else segments)
        measured = index.facts["shortlist"]
        recalls = {int(length): recall for length, recall in measured["recalls"].items()}
        self._shortlist = Shortlist(measured["n_rows"], recalls)
        self._probes = {int(probes): recall for probes, recall in measured.get("probes", {}).items()}
        self._n_rows = sum(segment.n_rows for segment in index.segments)
        self._masks: OrderedDict[str, list[Mask]] = OrderedDict()
        self._lists: dict[str, InvertedLists] = {}

    def search(
        self,
        query_D: npt.NDArray[np.float32],
        k: int = 10,
        *,
        where: str | None = None,
        metric: Metric = "cosine",
        how: Asked = "auto",
        shortlist: int | None = None,
        probes: int = 32,
    ) -> Found:
        """The k best cells for a vector (any length; it is scaled to 1), among those that pass `where`.

        `how`: "exact" compares every row; "shortlist" goes by the short codes first, and scores `shortlist`
        rows exactly; "ivf" looks into `probes` inverted lists, where there are such and nothing is excluded;
        "auto" takes the cheapest way that loses nothing measurable, and as many lists as that takes. Inner
        products with vectors as they came (`metric="dot"`) are always exact. Raises InputError for a query of
        another width or without length, a condition that cannot be read, and a shortlist where none is good
        enough.
        """
        query_D = self.unit(query_D)
        if k < 1:
            raise InputError(f"{k} results asked for; at least one makes sense")
        masks = self.passing(where)
        counts = [
            segment.n_rows if mask is None else int(mask.sum())
            for segment, mask in zip(self.segments, masks, strict=True)
        ]
        length = self._length(k, how, metric, shortlist)
        if how == "auto":
            enough = None if metric == "dot" or shortlist else probes_for(self._probes, k)
        else:
            enough = probes if how == "ivf" else None
        ways = [
            self._way(segment, n_passing, how, length, None if mask is not None else enough)
            for segment, n_passing, mask in zip(self.segments, counts, masks, strict=True)
        ]
        chosen = self._shortlisted(query_D, masks, ways, length or 0)
        scores, cells = [], []
        for number, (segment, mask, way) in enumerate(zip(self.segments, masks, ways, strict=True)):
            if way == "scan":
                rows, score = self._scanned(segment, query_D, k, mask, metric)
            else:
                if way == "shortlist":
                    rows = chosen[number]
                elif way == "ivf" and enough is not None:
                    rows = self._inverted(segment).near(query_D, 4 * k, enough)
                else:
                    rows = np.arange(segment.n_rows) if mask is None else np.flatnonzero(mask)
                score = _scored(segment, query_D, rows, metric)
            kept = scan.best(score, k)
            scores.append(score[kept])
            cells.append(segment.arrays.ids[rows[kept]])
        score, cell = ranked(scores, cells, k)
        return Found(score, cell, sum(counts), self.index.version, dict(Counter(ways)))

    def scores(self, query_D: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Cosine of every row, in the order of `index.ids` (deleted rows included): what colours a map of all
        cells.
        """
        query_D = self.unit(query_D)
        parts = [self._row_scores(segment, query_D) for segment in self.segments]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def scores_by_cell(self, query_D: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """As `scores`, by cell id: `[next_id]` of the index, NaN for cells that are deleted or were never in
        it because they have no vector. For cells indexed at once that is the order they came in.
        """
        by_cell = np.full(self.index.facts["next_id"], np.nan, np.float32)
        query_D = self.unit(query_D)
        for segment in self.segments:
            score = self._row_scores(segment, query_D)
            rows = slice(None) if segment.live is None else segment.live
            by_cell[segment.arrays.ids[rows]] = score[rows]
        return by_cell

    def cells(self, where: str | None) -> npt.NDArray[np.int64]:
        """Ids of the cells that pass, ascending."""
        found = [
            segment.arrays.ids if mask is None else segment.arrays.ids[mask]
            for segment, mask in zip(self.segments, self.passing(where), strict=True)
        ]
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)

    def mean(self, where: str | None) -> tuple[npt.NDArray[np.float32], int]:
        """Mean of the unit vectors of the cells that pass, `[D]`, and their number. Its length says how much
        alike they are: 1 the same, near 0 nothing in common.
        """
        total, n = np.zeros(self.index.width), 0
        for segment, mask in zip(self.segments, self.passing(where), strict=True):
            rows = np.arange(segment.n_rows) if mask is None else np.flatnonzero(mask)
            for start in range(0, len(rows), 65_536):
                some = segment.arrays.vectors[rows[start : start + 65_536]]
                total += some.sum(axis=0, dtype=np.float64)
            n += len(rows)
        return (total / max(n, 1)).astype(np.float32), n

    def warm(self) -> None:
        """Read what a search may read, so that the first ones are not slow."""
        self.index.warm()
        anywhere_D = np.full(self.index.width, self.index.width**-0.5, np.float32)
        for segment in self.segments:
            # What multiplies is compiled when first asked, be it for no row.
            scan.scores_at(segment.arrays.vectors, anywhere_D, np.arange(0))
            if segment.ivf_name is not None:
                # Lists are mapped by faiss, and touched by looking into all of them.
                lists = self._inverted(segment)
                lists.near(anywhere_D, 1, lists.n_lists)

    def unit(self, query_D: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The query's direction. Raises InputError for one of another width, or without a direction."""
        query_D = np.asarray(query_D, np.float32)
        if query_D.shape != (self.index.width,):
            raise InputError(
                f"a query of shape {query_D.shape}; the index holds {self.index.width}-d vectors"
            )
        norm = float(np.linalg.norm(query_D))
        if not 0 < norm < np.inf:
            raise InputError(f"a query of length {norm} has no direction: a cell without tokens, perhaps")
        return query_D / np.float32(norm)

    def passing(self, where: str | None) -> list[Mask | None]:
        """For each segment the rows that may be found; None stands for all."""
        if where is None or not where.strip():
            return [segment.live for segment in self.segments]
        if where not in self._masks:
            self._masks[where] = self._compiled(where)
            if len(self._masks) > _REMEMBERED:
                self._masks.popitem(last=False)
        self._masks.move_to_end(where)
        return list(self._masks[where])

    def _compiled(self, where: str) -> list[Mask]:
        condition = conditions.parse(where)
        tables = [segment.arrays.obs for segment in self.segments]
        asked = conditions.columns_of(condition)
        known = {ROW}.union(*(table.column_names for table in tables))
        if asked - known:
            raise InputError(
                f"condition {where!r}: no column {', '.join(sorted(asked - known))}; there are "
                f"{', '.join(sorted(known))}"
            )
        masks = []
        for segment, table in zip(self.segments, tables, strict=True):
            if ROW in asked:
                table = table.append_column(ROW, [segment.arrays.ids])
            mask = conditions.passing(condition, table)
            masks.append(mask if segment.live is None else mask & segment.live)
        return masks

    def _length(self, k: int, how: Asked, metric: Metric, asked: int | None) -> int | None:
        """How long the shortlist is to be; None for none."""
        if how in ("exact", "ivf") or (metric == "dot" and how == "auto"):
            return None
        if metric == "dot":
            raise InputError("a shortlist orders by cosine; inner products need an exact search")
        length = asked or self._shortlist.length(self._n_rows, k)
        if length is None and how == "shortlist":
            raise InputError(
                f"{self.index.snapshot.location}: no shortlist held {RECALL:.0%} of the true neighbours when "
                "this index was built; give its length, or search exactly"
            )
        return None if length is None else max(length, k)

    def _way(
        self, segment: Segment, n_passing: int, how: Asked, length: int | None, probes: int | None
    ) -> Way:
        """probes: lists to look into; None where rows are excluded, of which lists know nothing: near the
        query there may be nothing that passes.
        """
        if how == "shortlist":
            return "shortlist"
        if probes is None or segment.ivf_name is None:
            return way_of(segment.n_rows, n_passing, length)
        if how == "ivf":
            return "ivf"
        lists = self._inverted(segment).n_lists, probes
        return way_of(segment.n_rows, n_passing, length, lists)

    def _shortlisted(
        self,
        query_D: npt.NDArray[np.float32],
        masks: Sequence[Mask | None],
        ways: Sequence[Way],
        length: int,
    ) -> dict[int, Positions]:
        """Segment number -> its rows in the one shortlist over all segments that are searched by code."""
        numbers = [number for number, way in enumerate(ways) if way == "shortlist"]
        if not numbers:
            return {}
        code_S = self.index.codes.encode_query(query_D)
        rows, scores = {}, {}
        for number in numbers:
            mask, short = masks[number], self.segments[number].arrays.short
            score = scan.short_scores(short, code_S, self._most_threads)
            if mask is not None:
                score = np.where(mask, score, _LOWEST)
            kept = scan.best(score, length)
            rows[number] = kept if mask is None else kept[mask[kept]]
            scores[number] = score[rows[number]]
        together = np.concatenate([scores[number] for number in numbers])
        if len(numbers) == 1 or len(together) <= length:
            return rows
        smallest = np.partition(together, len(together) - length)[len(together) - length]
        return {number: rows[number][scores[number] >= smallest] for number in numbers}

    def _scanned(
        self,
        segment: Segment,
        query_D: npt.NDArray[np.float32],
        k: int,
        mask: Mask | None,
        metric: Metric,
    ) -> tuple[Positions, npt.NDArray[np.float32]]:
        """The rows of the k best, and their scores."""
        score = self._row_scores(segment, query_D)
        if metric == "dot":
            score *= segment.arrays.norms
        if mask is not None:
            score = np.where(mask, score, np.float32(-np.inf))
        rows = scan.best(score, k)
        rows = rows if mask is None else rows[mask[rows]]
        return rows, score[rows]

    def _row_scores(self, segment: Segment, query_D: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return scan.scores(segment.arrays.vectors, query_D, self._most_threads)

    def _inverted(self, segment: Segment) -> InvertedLists:
        if segment.key not in self._lists:
            self._lists[segment.key] = InvertedLists.open(self.index, segment)
        return self._lists[segment.key]


def _scored(
    segment: Segment, query_D: npt.NDArray[np.float32], rows: Positions, metric: Metric
) -> npt.NDArray[np.float32]:
    score = scan.scores_at(segment.arrays.vectors, query_D, rows)
    return score if metric == "cosine" else score * segment.arrays.norms[rows]
