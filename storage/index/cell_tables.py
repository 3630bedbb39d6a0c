"""The cells' annotations beside a segment: an Arrow table that is mapped into memory, not read.

Text with few distinct values is dictionary-encoded, so a condition on it is decided once per value. The
column `name` holds the cells' names; obs columns called `name` or `row` (what a condition calls the cell id)
are called `obs_name` and `obs_row`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

NAME, ROW = "name", "row"

# Text with at most this share of distinct values is worth a dictionary.
_WORTH_A_DICTIONARY = 0.5
# Of the columns to sort by: more values than this split a segment too finely to help a condition.
_MOST_VALUES = 1_000
_SORT_COLUMNS = 3


def table_of(obs: pd.DataFrame) -> pa.Table:
    """obs as an Arrow table, names first. The same obs gives the same bytes."""
    columns = {NAME: pa.array([str(name) for name in obs.index], pa.string())}
    for column in obs.columns:
        name = f"obs_{column}" if column in (NAME, ROW) else str(column)
        columns[name] = _encoded(obs[column])
    return pa.table(columns)


def _encoded(values: pd.Series) -> pa.Array:
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes = np.asarray(values.cat.codes)
        names = pa.array([str(value) for value in values.cat.categories], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), names)
    if pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values):
        text = pa.array([None if value is None or value != value else str(value) for value in values])
        if text.type == pa.null():
            text = text.cast(pa.string())
        encoded = text.dictionary_encode()
        return encoded if len(encoded.dictionary) <= _WORTH_A_DICTIONARY * len(text) else text
    return pa.array(values, from_pandas=True)


def to_bytes(table: pa.Table) -> memoryview:
    """Arrow IPC file, one batch, uncompressed."""
    table = table.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(len(table), 1))
    return memoryview(sink.getvalue())


def from_buffer(buffer: npt.NDArray[np.uint8]) -> pa.Table:
    """The table in these bytes, as views of them."""
    return ipc.open_file(pa.py_buffer(buffer)).read_all()


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of several segments one after the other; a column that one lacks is missing there."""
    text = [_decoded(table) for table in tables]
    together = pa.concat_tables(text, promote_options="permissive")
    return table_of(together.drop_columns([NAME]).to_pandas().set_axis(together[NAME].to_pandas()))


def _decoded(table: pa.Table) -> pa.Table:
    columns = {
        field.name: table[field.name].cast(field.type.value_type)
        if pa.types.is_dictionary(field.type)
        else table[field.name]
        for field in table.schema
    }
    return pa.table(columns)


def columns_to_sort_by(obs: pd.DataFrame) -> list[str]:
    """Columns that conditions are commonly about: text of few values, the coarsest first."""
    counts = {}
    for column in obs.columns:
        values = obs[column]
        is_text = isinstance(values.dtype, pd.CategoricalDtype) or pd.api.types.is_object_dtype(values)
        if is_text and 1 < (n_values := values.nunique()) <= _MOST_VALUES:
            counts[str(column)] = n_values
    return sorted(counts, key=lambda column: (counts[column], column))[:_SORT_COLUMNS]


def order_of(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """Row numbers sorted by the columns, rows of equal values in their old order."""
    present = [column for column in columns if column in table.column_names]
    keys = []
    for column in reversed(present):
        values = table[column].combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        keys.append(pc.rank(values, "ascending", tiebreaker="dense").to_numpy())
    if not keys:
        return np.arange(len(table))
    return np.lexsort(keys)
