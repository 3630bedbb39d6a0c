"""The index of the cells: finding them, scoring all of them, their annotations and a map of them.

Everything that is one number a cell is in the order of `ids`: ascending cell id, deleted cells left out.
Legend: N cells, D width, K hits.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.retrieval.search import Asked, Metric
from engine.serving.problems import Problem
from engine.serving.rooms.cell_view import CellView, Column, Float32, Scores, levels_of
from engine.serving.rooms.index_versions import log, newest_sound, sound
from engine.serving.settings import Settings
from storage.errors import DamagedDataset, InputError
from storage.index import VectorIndex
from storage.index.cell_tables import NAME

# Of one scan, where nothing else is said: beyond that, memory is what it waits for.
SEARCH_THREADS = min(8, len(os.sched_getaffinity(0)))


class CellRoom:
    """One version of an index; `reconfigure` swaps it for another when that one is ready."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if settings.index_version is None:
            index, self._refused = newest_sound(settings.index)
        else:
            index, self._refused = sound(settings.index, settings.index_version), None
        self._view = self._seen(index)

    def _seen(self, index: VectorIndex) -> CellView:
        view = CellView(index, self._settings.map, self._settings.search_threads or SEARCH_THREADS)
        view.searcher.warm()
        return view

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Of the deployment's `user_config`: `index_version`, None for the newest. A version that is damaged
        or not there is refused by name, and the one before stays: Serve would end a replica that raised.
        """
        try:
            view = await asyncio.to_thread(self._asked_for, config.get("index_version"))
        except (DamagedDataset, InputError) as error:
            log.error("version not taken, %d stays: %s", self._view.index.version, error)
            self._refused = str(error)
            return
        self._view, self._refused = view, None

    def _asked_for(self, version: int | None) -> CellView:
        """Beside the room's thread, which goes on answering."""
        asked = VectorIndex.open(self._settings.index, version)
        if asked.version == self._view.index.version:
            return self._view
        return self._seen(sound(self._settings.index, asked.version))

    def check_health(self) -> None:
        """Raises DamagedDataset when an object of the index is gone or has another size."""
        self._view.index.snapshot.check_sizes()

    def facts(self) -> dict[str, Any]:
        index = self._view.index
        return {
            "index": str(index.snapshot.location),
            "version": index.version,
            "refused": self._refused,
            "dataset_id": index.snapshot.dataset_id,
            "n_cells": len(self._view.ids),
            "width": index.width,
            "model": index.facts["model"],
            "joint": index.facts.get("joint"),
            "calibration": index.facts["calibration"],
            "sources": index.facts["sources"],
            "columns": [{"name": name, "kind": kind} for name, kind in self._view.columns.items()],
            "layouts": list(self._view.layouts),
        }

    def search(
        self,
        query_D: Float32,
        k: int,
        where: str | None,
        metric: Metric,
        how: Asked,
        shortlist: int | None,
        probes: int = 32,
    ) -> dict[str, Any]:
        """The k best cells, their annotations, and how they were found."""
        found = self._view.searcher.search(
            query_D, k, where=where, metric=metric, how=how, shortlist=shortlist, probes=probes
        )
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

    def scores_by_cell(self, query_D: Float32, factor: float) -> Float32:
        """As `all_scores`, but by id: NaN for ids that are no cells of this version."""
        return self._view.searcher.scores_by_cell(query_D) * np.float32(factor)

    def ids(self, where: str | None) -> npt.NDArray[np.int64]:
        return self._view.searcher.cells(where)

    def known(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of these ids are cells of this version."""
        return np.isin(ids, self._view.ids)

    def mean(self, ids: npt.NDArray[np.int64]) -> tuple[Float32, float]:
        """Mean of the cells' unit vectors `[D]`, and its length: 1 for cells that are all the same."""
        mean_D = self._view.mean(ids)
        return mean_D, float(np.linalg.norm(mean_D))

    def vectors(self, ids: npt.NDArray[np.int64]) -> Float32:
        """Unit vectors `[len(ids), D]`, in the order asked."""
        view = self._view
        return view.vectors(ids)[np.argsort(np.argsort(view.rows_of(ids)))]

    def obs(self, ids: npt.NDArray[np.int64]) -> pd.DataFrame:
        """Annotations by the cells' names, in the order asked; what is a category is one."""
        view = self._view
        table = view.annotations(ids)
        for name, kind in view.columns.items():
            if kind == "category":
                table[name] = table[name].astype("category")
        return table.set_index(NAME)

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

    def layout(self, name: str | None = None) -> bytes:
        """x and y of every cell, uint16 each, interleaved: of the map of this name, else of the first that
        was given, or the plane in which the vectors spread most.
        """
        layouts = self._view.layouts
        if name is not None and name not in layouts:
            raise Problem(404, "no_layout", f"no layout {name!r}; there are {', '.join(layouts)}")
        return layouts[next(iter(layouts)) if name is None else name]

    def names(self, ids: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        return self._rows(ids, None)

    def _rows(self, ids: npt.NDArray[np.int64], score: Float32 | None) -> list[dict[str, Any]]:
        names, values = self._view.described(ids)
        rows = []
        for number, cell in enumerate(ids.tolist()):
            obs = {column: _plain(values[column][number]) for column in values}
            row = {"cell": cell, "name": names[number], "obs": obs}
            rows.append(row if score is None else {**row, "score": round(float(score[number]), 5)})
        return rows


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
