"""The table of cells: one schema over all input files, written beside each member and as parquet.

Each member's obs lets AnnData open it; `_obs/part-*.parquet` holds the same columns for fast selection,
with the cell's address (member, row), number of genes and total counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from storage.errors import InputError

PARQUET_ROW_GROUP = 1 << 16
NAME, MEMBER, ROW, N_GENES, TOTAL = "_cell_name", "_member", "_row", "_n_genes", "_total_counts"
RESERVED = (NAME, MEMBER, ROW, N_GENES, TOTAL)
SOURCE_FILE = "source_file"


@dataclass(frozen=True)
class ObsColumn:
    """One column of the store: a pandas dtype name, or `category` with its categories in order."""

    name: str
    dtype: str
    categories: tuple[Any, ...] | None = None
    ordered: bool = False

    def conform(self, values: Any, n: int) -> Any:
        """A Series as values of this column's type; None, a file without the column, as `n` missing
        values.
        """
        target: Any = self.dtype
        if self.categories is not None:
            cells = [None] * n if values is None else values
            return pd.Categorical(cells, categories=list(self.categories), ordered=self.ordered)
        if self.dtype == "string":
            return pd.Series([None] * n if values is None else _strings(values), dtype="string").array
        if values is None:
            if self.dtype in _NULLABLE:
                return pd.Series([pd.NA] * n, dtype=target).array
            return np.full(n, np.nan)
        if self.dtype == "str":
            return np.asarray(_strings(values), dtype=object)
        return values.astype(target).array


_NULLABLE = {"Int64", "Float64", "boolean"}


def union_of_columns(heads: Sequence[pd.DataFrame], wanted: Sequence[str] | None) -> list[ObsColumn]:
    """Columns over all files in order of first appearance. `heads` are the files' obs without rows.

    `wanted` selects columns by name. Raises InputError for a name no file has, and for our own names.
    """
    names = list(dict.fromkeys(str(name) for head in heads for name in head.columns))
    if wanted is not None:
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise InputError(f"--obs-columns: no file has {unknown}; there are {names}.")
        names = [name for name in names if name in wanted]
    clash = [name for name in names if name in RESERVED]
    if clash:
        raise InputError(
            f"obs columns {clash}: these names are the store's own; rename them or use --obs-columns."
        )
    return [
        _column(name, [head[name].dtype if name in head.columns else None for head in heads])
        for name in names
    ]


def _column(name: str, dtypes: Sequence[Any]) -> ObsColumn:
    present = [dtype for dtype in dtypes if dtype is not None]
    gaps = len(present) < len(dtypes)
    if all(isinstance(dtype, pd.CategoricalDtype) for dtype in present):
        same = all(dtype == present[0] for dtype in present)
        together = [value for dtype in present for value in np.asarray(dtype.categories).tolist()]
        return ObsColumn(name, "category", tuple(dict.fromkeys(together)), bool(same and present[0].ordered))
    if any(not pd.api.types.is_numeric_dtype(dtype) for dtype in present):  # truth values count as numeric
        return ObsColumn(name, "string" if gaps or any(_may_miss(dtype) for dtype in present) else "str")
    plain = np.result_type(*[np.dtype(getattr(dtype, "numpy_dtype", dtype)) for dtype in present])
    if not gaps and not any(pd.api.types.is_extension_array_dtype(dtype) for dtype in present):
        return ObsColumn(name, str(plain))
    return ObsColumn(name, {"b": "boolean", "i": "Int64", "u": "Int64", "f": str(plain)}[plain.kind])


def _may_miss(dtype: Any) -> bool:
    return isinstance(dtype, pd.CategoricalDtype | pd.StringDtype)


def _strings(values: Any) -> list[str | None]:
    return [None if value is None or value is pd.NA or value != value else str(value) for value in values]


def conform(table: pd.DataFrame, columns: Sequence[ObsColumn]) -> pd.DataFrame:
    """A file's obs rows with exactly the store's columns, in order and type."""
    n = len(table)
    made = {column.name: column.conform(table.get(column.name), n) for column in columns}
    for name, values in made.items():
        # A file may turn out to have gaps in a column of strings; only the nullable type can hold them.
        if (
            isinstance(values, np.ndarray)
            and values.dtype == object
            and any(value is None for value in values)
        ):
            made[name] = pd.Series(list(values), dtype="string").array
    return pd.DataFrame(made, index=table.index)


def encode_part(
    obs: pd.DataFrame, member: int, n_genes: npt.NDArray[np.int32], totals: npt.NDArray[np.int64]
) -> bytes:
    """One member's cells as a parquet file."""
    columns: dict[str, pa.Array] = {NAME: pa.array([str(name) for name in obs.index], pa.string())}
    for name in obs.columns:
        values = obs[name]
        if isinstance(values.dtype, pd.CategoricalDtype):
            columns[str(name)] = pa.array(values.astype(object).where(values.notna(), None), from_pandas=True)
        else:
            columns[str(name)] = pa.array(values, from_pandas=True)
    columns[MEMBER] = pa.array(np.full(len(obs), member, np.int32))
    columns[ROW] = pa.array(np.arange(len(obs), dtype=np.int32))
    columns[N_GENES], columns[TOTAL] = pa.array(n_genes), pa.array(totals)
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink, row_group_size=PARQUET_ROW_GROUP, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def decode_parts(
    parts: Sequence[bytes], columns: Sequence[ObsColumn], wanted: Sequence[str] | None = None
) -> pd.DataFrame:
    """obs in store order from the parquet parts; `wanted` selects columns in the order given."""
    chosen = [column for column in columns if wanted is None or column.name in wanted]
    names = [NAME, *(column.name for column in chosen)]
    tables = [parquet.read_table(pa.BufferReader(part), columns=names).to_pandas() for part in parts]
    together = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
    index = pd.Index(together[NAME].to_numpy(dtype=object))
    obs = conform(together.drop(columns=NAME), chosen).set_axis(index, axis=0)
    return obs if wanted is None else obs[list(wanted)]


def decode_numbers(parts: Sequence[bytes], name: str) -> npt.NDArray[Any]:
    """One of the store's own numeric columns, concatenated over all parts."""
    return np.concatenate(
        [parquet.read_table(pa.BufferReader(part), columns=[name])[name].to_numpy() for part in parts]
    )


def columns_as_json(columns: Sequence[ObsColumn]) -> bytes:
    entries = [
        {
            "name": column.name,
            "dtype": column.dtype,
            "categories": None if column.categories is None else list(column.categories),
            "ordered": column.ordered,
        }
        for column in columns
    ]
    return json.dumps(entries, ensure_ascii=False).encode()


def columns_from_json(content: bytes) -> list[ObsColumn]:
    entries: list[Mapping[str, Any]] = json.loads(content)
    return [
        ObsColumn(
            entry["name"],
            entry["dtype"],
            None if entry["categories"] is None else tuple(entry["categories"]),
            entry["ordered"],
        )
        for entry in entries
    ]
