"""Where the captions of a cell store's cells are: a column, a template over columns, or a file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from engine.captions.templates import as_texts, columns_of, is_template, render
from storage.cells import CellStore
from storage.errors import InputError
from storage.locations import Location

CELL, CAPTION = "cell", "caption"
FILE = "captions.parquet"


@dataclass(frozen=True)
class Captions:
    """texts: distinct captions, sorted. of_cell_C: each cell's number among them, -1 for none; int32."""

    texts: list[str]
    of_cell_C: npt.NDArray[np.int32]

    @property
    def lineage(self) -> str:
        """Hash of every cell's caption."""
        digest = xxhash.xxh3_128("\n".join(self.texts).encode())
        digest.update(self.of_cell_C.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class CaptionSource:
    """One of both. caption: an obs column, or a template with columns in braces. file: parquet with the
    columns `cell` (its name in the store) and `caption`, in any order, or a directory with such a file in it,
    as `syncytium captions` writes it."""

    caption: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if bool(self.caption) == bool(self.file):
            raise InputError("give --caption COLUMN or TEMPLATE, or --captions FILE: one of them.")

    def read(self, store: CellStore, n_cells: int) -> Captions:
        """Of the first cells of a store. Raises InputError when columns or cells are missing."""
        if self.file:
            texts = _from_file(self.file, list(store.obs([]).index[:n_cells]))
        else:
            caption = str(self.caption)
            columns = columns_of(caption) if is_template(caption) else [caption]
            obs = require_columns(store, columns, "--caption").iloc[:n_cells]
            texts = render(caption, obs) if is_template(caption) else as_texts(obs[caption])
        numbers, distinct = pd.factorize(texts.to_numpy(dtype=object), sort=True)
        if not len(distinct):
            raise InputError(f"{store.location}: no cell has a caption by {self.caption or self.file}.")
        return Captions([str(text) for text in distinct], numbers.astype(np.int32))


def require_columns(store: CellStore, columns: list[str], flag: str) -> pd.DataFrame:
    """Columns of obs. Raises InputError naming those that are missing."""
    missing = [name for name in columns if name not in store.obs_columns]
    if missing:
        raise InputError(
            f"{flag}: {store.location} has no obs column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(store.obs_columns)}."
        )
    return store.obs(list(dict.fromkeys(columns)))


def encode_captions(cells: list[str], captions: pd.Series) -> bytes:
    """The content of a captions file. A caption that many cells share is stored once."""
    table = pa.table(
        {
            CELL: pa.array(cells, pa.string()),
            CAPTION: pa.array(captions.to_numpy(dtype=object), pa.string()).dictionary_encode(),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _from_file(path: str, cells: list[str]) -> pd.Series:
    content = _content(path, Location.of(path))
    try:
        table = pq.read_table(io.BytesIO(content))
    except pa.ArrowInvalid as error:
        raise InputError(f"--captions {path}: is not a parquet file ({error}).") from error
    missing = [name for name in (CELL, CAPTION) if name not in table.column_names]
    if missing:
        raise InputError(
            f"--captions {path}: has no column {', '.join(missing)}; expected {CELL} (names of the store's "
            f"cells) and {CAPTION}; found {', '.join(table.column_names)}."
        )
    found: Any = table.select([CELL, CAPTION]).to_pandas()
    if found[CELL].duplicated().any():
        twice = found[CELL][found[CELL].duplicated()].iloc[0]
        raise InputError(f"--captions {path}: cell {twice!r} is there twice.")
    texts = as_texts(found.set_index(CELL)[CAPTION]).reindex(cells)
    return texts.where(texts.notna(), None)


def _content(path: str, location: Location) -> bytes:
    """Of the file itself, or of the one in the directory."""
    try:
        return location.read() if path.endswith(".parquet") else location.read(FILE)
    except FileNotFoundError as error:
        raise InputError(
            f"--captions {path}: is not there; expected a parquet file, or a directory with {FILE}."
        ) from error
