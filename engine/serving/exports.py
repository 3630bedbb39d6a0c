"""A selection as a file: annotations and scores as CSV, or with counts, vectors and the map as h5ad."""

from __future__ import annotations

import asyncio
import csv
import io
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import IO, Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.serving.doors import Doors
from engine.serving.problems import Problem

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

_BLOCK_CELLS = 8_192
_CHUNK_BYTES = 1 << 20
CELL = "syncytium_cell"
"""Column with the id that a cell has in the index."""
# Keys of obsm.
VECTORS, MAP = "X_embedding", "X_map"


async def csv_lines(doors: Doors, ids: Int64, scores: Mapping[str, Float32]) -> AsyncGenerator[str, None]:
    """Header and rows: name, id, annotations, a column a score."""
    for start in range(0, len(ids), _BLOCK_CELLS):
        block = slice(start, start + _BLOCK_CELLS)
        obs = await doors.cells.obs.remote(ids[block])
        own = {column: values[block] for column, values in scores.items()}
        yield await asyncio.to_thread(_rows, table_of(obs, ids[block], own), start == 0)


def _rows(table: pd.DataFrame, has_header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if has_header:
        writer.writerow(["name", *table.columns])
    shown = table.astype(object).where(table.notna(), "")
    writer.writerows(
        [name, *row] for name, row in zip(shown.index, shown.itertuples(index=False), strict=True)
    )
    return text.getvalue()


def table_of(obs: pd.DataFrame, ids: Int64, scores: Mapping[str, Float32]) -> pd.DataFrame:
    """Annotations with the cells' ids and scores beside them."""
    table = obs.copy()
    table.index = table.index.astype(str)
    table.index.name = None
    table[CELL] = ids
    for column, values in scores.items():
        table[column] = values
    return table


async def h5ad_of(doors: Doors, name: str, ids: Int64, scores: Mapping[str, Float32]) -> IO[bytes]:
    """An h5ad as an open file that has no name any more: it is gone when it is closed.

    Raises Problem for more cells than fit, before anything is read.
    """
    most = doors.settings.limits.exported_cells
    if len(ids) > most:
        detail = f"{len(ids):,} cells; at most {most:,} go into one h5ad. As CSV there is no such limit"
        raise Problem(413, "too_many_cells", detail)
    everyone, facts = await doors.cells.ids.remote(None), await doors.cells.facts.remote()
    places = np.frombuffer(await doors.cells.layout.remote(), "<u2").reshape(-1, 2)
    cells = anndata.AnnData(
        obs=table_of(await doors.cells.obs.remote(ids), ids, scores),
        obsm={
            VECTORS: await doors.cells.vectors.remote(ids),
            MAP: places[np.searchsorted(everyone, ids)].astype(np.float32),
        },
        uns={
            "syncytium": {
                "selection": name,
                **{key: facts[key] for key in ("index", "dataset_id", "version", "model")},
            }
        },
    )
    if doors.counts is not None:
        counts_CG, genes = await doors.counts.counts.remote(ids)
        cells = anndata.AnnData(counts_CG, obs=cells.obs, var=genes, obsm=cells.obsm, uns=cells.uns)
    return await asyncio.to_thread(_written, cells)


def _written(cells: anndata.AnnData) -> IO[bytes]:
    with tempfile.TemporaryDirectory(prefix="syncytium-export-") as folder:
        path = Path(folder) / "cells.h5ad"
        cells.write_h5ad(path, compression="gzip")
        return path.open("rb")


async def chunks(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    """A file to its end; it is closed then, and when nobody reads on."""
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


def score_columns(texts: list[str], scores: list[Any]) -> dict[str, Float32]:
    """A column a text, named after it."""
    return {f"score: {text}": values for text, values in zip(texts, scores, strict=True)}
