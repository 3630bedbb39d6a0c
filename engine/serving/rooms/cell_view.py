"""What is derived from one version of an index: its cells by ascending id, annotations, a map of them.

Legend: N cells, D width.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from engine.retrieval.search import Searcher
from engine.serving.problems import Problem
from engine.serving.rooms.layouts import read_maps
from storage.index import VectorIndex
from storage.index.cell_tables import NAME

Float32 = npt.NDArray[np.float32]

# The layout that there always is.
PLANE = "plane of most spread"
# Cells that the plane is fitted to.
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


class CellView:
    """What is derived from one version, each on first use."""

    def __init__(
        self, index: VectorIndex, map_path: str | None = None, search_threads: int | None = None
    ) -> None:
        self.index, self.searcher = index, Searcher(index, most_threads=search_threads)
        live = [
            np.ones(segment.n_rows, bool) if segment.live is None else segment.live
            for segment in index.segments
        ]
        rows = np.flatnonzero(np.concatenate(live))
        self.order = rows[np.argsort(index.ids[rows], kind="stable")]
        """`[N]` row of each cell, by ascending id."""
        self.ids = index.ids[self.order]
        maps = {} if map_path is None else read_maps(map_path, self._names())
        self.layouts = {name: _points(at_N2) for name, at_N2 in {**maps, PLANE: self.plane()}.items()}
        self.columns = {field.name: _kind(field.type) for field in self._table.schema if field.name != NAME}

    @cached_property
    def _table(self) -> pa.Table:
        """Annotations of all rows, mapped, segment after segment."""
        return pa.concat_tables([s.arrays.obs for s in self.index.segments], promote_options="default")

    def _names(self) -> list[str]:
        """Of every cell, by ascending id."""
        return [str(name) for name in self._table[NAME].take(pa.array(self.order)).to_pylist()]

    def described(self, ids: npt.NDArray[np.int64]) -> tuple[list[str], dict[str, list[Any]]]:
        """Names of some cells, and what each column says of them, in the order asked."""
        rows = pa.array(self.rows_of(ids))
        # Column by column from the mapped table: a data frame of ten rows takes longer than a search.
        values = {name: self._table[name].take(rows).to_pylist() for name in self._table.column_names}
        return values.pop(NAME), values

    def rows_of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        places = np.searchsorted(self.ids, ids)
        places = np.minimum(places, max(len(self.ids) - 1, 0))
        missing = ids[self.ids[places] != ids] if len(self.ids) else ids
        if len(missing):
            raise Problem(400, "unknown_cell", f"cell {missing[0]} is not in version {self.index.version}")
        return self.order[places]

    def annotations(self, ids: npt.NDArray[np.int64]) -> pd.DataFrame:
        """In the order asked. Raises Problem for cells that are not in this version."""
        self.rows_of(ids)
        return self.index.annotations(ids)

    def vectors(self, ids: npt.NDArray[np.int64]) -> Float32:
        """Unit vectors `[len(ids), D]`, in the order of their rows."""
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
    low, high = float(values_N.min(initial=np.inf)), float(values_N.max(initial=-np.inf))
    finite = None
    if not np.isfinite(high - low):
        finite = np.isfinite(values_N)
        if not finite.any():
            return Scores(bytes(len(values_N)), 0.0, 0.0)
        low, high = float(values_N[finite].min()), float(values_N[finite].max())
        values_N = np.where(finite, values_N, np.float32(low))
    # In place: for a million cells every further array costs as much as the arithmetic.
    scaled = values_N - np.float32(low)
    scaled *= np.float32(254 / max(high - low, 1e-12))
    levels = (np.rint(scaled, out=scaled) + 1).astype(np.uint8)
    if finite is not None:
        levels[~finite] = 0
    return Scores(levels.tobytes(), low, high)


def _split(scores: Scores) -> tuple[bytes, list[str], float, float]:
    return scores.levels, [], scores.low, scores.high


def _kind(of: pa.DataType) -> str:
    if pa.types.is_integer(of) or pa.types.is_floating(of):
        return "number"
    return "category" if pa.types.is_dictionary(of) or pa.types.is_boolean(of) else "text"
