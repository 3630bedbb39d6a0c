"""The index of the cells: finding them, scoring all of them, their annotations and a map of them.

Everything that is one number a cell is in the order of `ids`: ascending cell id, deleted cells left out.
Legend: N cells, D width, K hits.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.retrieval.search import Metric, Searcher
from engine.serving.problems import Problem
from engine.serving.rooms.layouts import read_map
from engine.serving.settings import Settings
from storage.index import VectorIndex
from storage.index.cell_tables import NAME

Float32 = npt.NDArray[np.float32]

# Cells that the plane of the map is fitted to.
_FITTED_TO = 20_000
# Fewer cells have no shape; and a half of fewer than this share is a few outliers.
_FEWEST_SPLIT, _SMALLEST_SIDE = 20, 0.05
# Values a column may have and still be a category; a byte counts to 255, and 0 is "missing".
MOST_CATEGORIES = 254


class Scores(NamedTuple):
    """One byte a cell: 1 is `low`, 255 is `high`, linear between; 0 stands for no number."""

    levels: bytes
    low: float
    high: float


class Column(NamedTuple):
    """An annotation as a byte a cell: number of its category from 1 on, or levels between two numbers."""

    kind: str
    levels: bytes
    categories: list[str]
    low: float
    high: float


class CellRoom:
    """One version of an index; `reconfigure` swaps it for another when that one is ready."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open(settings.index_version)

    def _open(self, version: int | None) -> None:
        index = VectorIndex.open(self._settings.index, version)
        index.warm()
        self._view = _View(index, self._settings.map)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Of the deployment's `user_config`: `index_version`, None for the newest."""
        wanted = config.get("index_version")
        newest = VectorIndex.open(self._settings.index, wanted)
        if newest.version != self._view.index.version:
            self._open(wanted)

    def check_health(self) -> None:
        """Raises DamagedDataset when an object of the index is gone or has another size."""
        self._view.index.snapshot.check_sizes()

    def facts(self) -> dict[str, Any]:
        index = self._view.index
        return {
            "index": str(index.snapshot.location),
            "version": index.version,
            "dataset_id": index.snapshot.dataset_id,
            "n_cells": len(self._view.ids),
            "width": index.width,
            "model": index.facts["model"],
            "joint": index.facts.get("joint"),
            "calibration": index.facts["calibration"],
            "sources": index.facts["sources"],
            "columns": [{"name": name, "kind": kind} for name, kind in self._view.columns.items()],
        }

    def search(
        self, query_D: Float32, k: int, where: str | None, metric: Metric, how: str, shortlist: int | None
    ) -> dict[str, Any]:
        """The k best cells, their annotations, and how they were found."""
        searcher = self._view.searcher
        found = searcher.search(query_D, k, where=where, metric=metric, how=how, shortlist=shortlist)  # type: ignore[arg-type]
        return {
            "hits": self._rows(found.cell, found.score),
            "n_passing": found.n_passing,
            "index_version": found.version,
            "ways": found.ways,
            "partial": found.is_partial,
        }

    def scores(self, query_D: Float32, factor: float) -> Scores:
        """Cosine of every cell with the query's direction, times `factor`."""
        return levels_of(self.all_scores(query_D, factor))

    def all_scores(self, query_D: Float32, factor: float) -> Float32:
        """As `scores`, `[N]` float32."""
        return self._view.searcher.scores(query_D)[self._view.order] * np.float32(factor)

    def ids(self, where: str | None) -> npt.NDArray[np.int64]:
        return self._view.searcher.cells(where)

    def known(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of these ids are cells of this version."""
        return np.isin(ids, self._view.ids)

    def mean(self, ids: npt.NDArray[np.int64]) -> tuple[Float32, float]:
        """Mean of the cells' unit vectors `[D]`, and its length: 1 for cells that are all the same."""
        mean_D = self._view.mean(ids)
        return mean_D, float(np.linalg.norm(mean_D))

    def two_kinds(self, ids: npt.NDArray[np.int64]) -> float:
        """How far apart the halves of the best split in two are, in standard deviations of the halves along
        the line between their means (Ashman et al. 1994): about 2.7 for one round cloud, more for two kinds;
        0 when one half would hold less than a twentieth.
        """
        return self._view.two_kinds(ids)

    def composition(self, ids: npt.NDArray[np.int64]) -> dict[str, list[dict[str, Any]]]:
        """For each categorical column its values among these cells and among all, most frequent first."""
        return self._view.composition(ids)

    def column(self, name: str) -> Column:
        return self._view.column(name)

    def layout(self) -> bytes:
        """x and y of every cell, uint16 each, interleaved: of the map that was given, else the plane in which
        the vectors spread most.
        """
        return self._view.layout

    def names(self, ids: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        return self._rows(ids, None)

    def _rows(self, ids: npt.NDArray[np.int64], score: Float32 | None) -> list[dict[str, Any]]:
        table = self._view.index.annotations(ids)
        if not len(table):
            return []
        names = table.pop(NAME).tolist()
        values = table.astype(object).where(table.notna(), None).to_dict("records")
        rows = []
        for number, cell in enumerate(ids.tolist()):
            row = {
                "cell": cell,
                "name": names[number],
                "obs": {str(k): _plain(v) for k, v in values[number].items()},
            }
            rows.append(row if score is None else {**row, "score": round(float(score[number]), 5)})
        return rows


class _View:
    """What is derived from one version, each on first use."""

    def __init__(self, index: VectorIndex, map_path: str | None = None) -> None:
        self.index, self.searcher = index, Searcher(index)
        live = [
            np.ones(segment.n_rows, bool) if segment.live is None else segment.live
            for segment in index.segments
        ]
        rows = np.flatnonzero(np.concatenate(live))
        self.order = rows[np.argsort(index.ids[rows], kind="stable")]
        """`[N]` row of each cell, by ascending id."""
        self.ids = index.ids[self.order]
        self.layout = _points(self.plane() if map_path is None else read_map(map_path, self._names()))
        self.columns = {field.name: _kind(field.type) for field in self._table.schema if field.name != NAME}

    @cached_property
    def _table(self) -> pa.Table:
        """Annotations of all rows, mapped, segment after segment."""
        return pa.concat_tables([s.arrays.obs for s in self.index.segments], promote_options="default")

    def _names(self) -> list[str]:
        """Of every cell, by ascending id."""
        return [str(name) for name in self._table[NAME].take(pa.array(self.order)).to_pylist()]

    def rows_of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        places = np.searchsorted(self.ids, ids)
        places = np.minimum(places, max(len(self.ids) - 1, 0))
        missing = ids[self.ids[places] != ids] if len(self.ids) else ids
        if len(missing):
            raise Problem(400, "unknown_cell", f"cell {missing[0]} is not in version {self.index.version}")
        return self.order[places]

    def vectors(self, ids: npt.NDArray[np.int64]) -> Float32:
        """Unit vectors `[len(ids), D]`."""
        rows, parts, at = np.sort(self.rows_of(ids)), [], 0
        for segment in self.index.segments:
            own = rows[(rows >= at) & (rows < at + segment.n_rows)] - at
            parts.append(segment.arrays.vectors[own].astype(np.float32))
            at += segment.n_rows
        return np.concatenate(parts)

    def mean(self, ids: npt.NDArray[np.int64]) -> Float32:
        total, n = np.zeros(self.index.width), 0
        for start in range(0, len(ids), 65_536):
            part = self.vectors(ids[start : start + 65_536])
            total, n = total + part.sum(axis=0, dtype=np.float64), n + len(part)
        return (total / max(n, 1)).astype(np.float32)

    def two_kinds(self, ids: npt.NDArray[np.int64]) -> float:
        if len(ids) < _FEWEST_SPLIT:
            return 0.0
        chosen = np.random.default_rng(0).choice(ids, min(len(ids), 4_096), replace=False)
        x_ND = self.vectors(np.sort(chosen))
        x_ND -= x_ND.mean(axis=0)
        side = x_ND @ _main_axis(x_ND) > 0
        for _ in range(20):
            if min(side.sum(), (~side).sum()) < _SMALLEST_SIDE * len(side):
                return 0.0
            between = x_ND[side].mean(axis=0) - x_ND[~side].mean(axis=0)
            along = x_ND @ between
            before, side = side, along > (along[side].mean() + along[~side].mean()) / 2
            if (side == before).all():
                break
        a, b = along[side], along[~side]
        return float(abs(a.mean() - b.mean()) / max(np.sqrt((a.var() + b.var()) / 2), 1e-12))

    def composition(self, ids: npt.NDArray[np.int64]) -> dict[str, list[dict[str, Any]]]:
        rows = self.rows_of(ids)
        found = {}
        for name, kind in self.columns.items():
            if kind != "category":
                continue
            codes, categories = self._codes(name)
            here = np.bincount(codes[rows], minlength=len(categories) + 1)[1:]
            everywhere = np.bincount(codes[self.order], minlength=len(categories) + 1)[1:]
            order = [number for number in np.argsort(-here, kind="stable")[:12] if here[number]]
            found[name] = [
                {
                    "value": categories[number],
                    "cells": int(here[number]),
                    "share": round(float(here[number] / max(len(ids), 1)), 4),
                    "share_of_all": round(float(everywhere[number] / max(len(self.ids), 1)), 4),
                }
                for number in order
            ]
        return found

    def _codes(self, name: str) -> tuple[npt.NDArray[np.int32], list[str]]:
        """Number of each row's category from 1 on, 0 for missing; and the categories."""
        column = self._table[name].unify_dictionaries().combine_chunks()
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], pa.string()).dictionary_encode()
        codes = column.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False) + 1
        return codes, [str(value) for value in column.dictionary.to_pylist()]

    def column(self, name: str) -> Column:
        if name not in self.columns:
            raise Problem(404, "no_column", f"no column {name!r}; there are {', '.join(self.columns)}")
        if self.columns[name] == "number":
            values = self._table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)[self.order]
            return Column("number", *_split(levels_of(values.astype(np.float32))))
        codes, categories = self._codes(name)
        if len(categories) > MOST_CATEGORIES:
            detail = f"column {name!r} has {len(categories):,} values; at most {MOST_CATEGORIES} can be shown"
            raise Problem(400, "too_many_categories", detail)
        return Column("category", codes[self.order].astype(np.uint8).tobytes(), categories, 0.0, 0.0)

    def plane(self) -> Float32:
        """`[N, 2]` the plane in which the vectors spread most."""
        n = len(self.ids)
        sample = self.ids if n <= _FITTED_TO else self.ids[:: -(-n // _FITTED_TO)]
        x_ND = self.vectors(sample)
        mean_D = x_ND.mean(axis=0)
        _, axes = np.linalg.eigh(np.cov((x_ND - mean_D).T))
        plane_D2 = axes[:, ::-1][:, :2].astype(np.float32)
        at_N2 = np.empty((n, 2), np.float32)
        for start in range(0, n, 65_536):
            some = self.ids[start : start + 65_536]
            # `vectors` answers by row; the map is by id.
            order = np.argsort(np.argsort(self.rows_of(some)))
            at_N2[start : start + len(some)] = ((self.vectors(some) - mean_D) @ plane_D2)[order]
        return at_N2


def _points(at_N2: Float32) -> bytes:
    """Places as two uint16 each, between the outermost thousandths; a cell without a place is at a corner."""
    if not len(at_N2):
        return b""
    low, high = np.nanpercentile(at_N2, 0.1, axis=0), np.nanpercentile(at_N2, 99.9, axis=0)
    # One scale both ways: distances on a map mean the same in both directions.
    span = float(max(np.max(high - low), 1e-9))
    unit = np.clip((at_N2 - (low + high) / 2) / span + 0.5, 0, 1)
    points: bytes = np.nan_to_num(unit * 65_535).astype("<u2").tobytes()
    return points


def _main_axis(x_ND: Float32) -> Float32:
    """Direction of most spread of centred rows, by power iteration."""
    axis_D: Float32 = x_ND[np.argmax((x_ND**2).sum(axis=1))]
    for _ in range(20):
        axis_D = x_ND.T @ (x_ND @ axis_D)
        axis_D = axis_D / max(float(np.linalg.norm(axis_D)), 1e-12)
    return axis_D


def levels_of(values_N: Float32) -> Scores:
    """Numbers as a byte each, between the smallest and the largest that are finite."""
    finite = np.isfinite(values_N)
    if not finite.any():
        return Scores(bytes(len(values_N)), 0.0, 0.0)
    low, high = float(values_N[finite].min()), float(values_N[finite].max())
    scaled = (np.where(finite, values_N, low) - low) / max(high - low, 1e-12)
    levels = np.where(finite, 1 + np.rint(scaled * 254), 0).astype(np.uint8)
    return Scores(levels.tobytes(), low, high)


def _split(scores: Scores) -> tuple[bytes, list[str], float, float]:
    return scores.levels, [], scores.low, scores.high


def _kind(of: pa.DataType) -> str:
    if pa.types.is_integer(of) or pa.types.is_floating(of):
        return "number"
    return "category" if pa.types.is_dictionary(of) or pa.types.is_boolean(of) else "text"


def _plain(value: Any) -> Any:
    """JSON knows no numpy numbers and no infinities."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def sample_of(ids: npt.NDArray[np.int64], most: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """At most so many of some cells, ascending, the same ones each time."""
    if len(ids) <= most:
        return np.sort(ids)
    return np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))
