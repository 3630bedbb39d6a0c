"""Tables of cells and genes as AnnData stores them in HDF5 and zarr, read by row range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from storage.sources.source import UnreadableSource, reading


class TableFrame:
    """A table already in memory: barcodes and features of 10x files, and layouts older than AnnData 0.7."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table, self.n = table, len(table)
        self.columns = [str(column) for column in table.columns]

    def rows(self, start: int, stop: int, columns: list[str] | None = None) -> pd.DataFrame:
        part = self._table.iloc[start:stop]
        return part if columns is None else part[columns]


class StoredFrame:
    """A dataframe group: one array (or group, for categories and missing values) per column."""

    def __init__(self, where: str, group: Any) -> None:
        self.where, self._group = where, group
        with reading(where):
            self._index = str(group.attrs["_index"])
            self.columns = [str(name) for name in group.attrs["column-order"]]
            self.n = int(_length(group[self._index]))
            for name in self.columns:
                if _length(group[name]) != self.n:
                    found = f"{_length(group[name]):,} values for {self.n:,} rows"
                    raise UnreadableSource(f"{where}/{name}: {found}; the file is damaged or incomplete.")

    def rows(self, start: int, stop: int, columns: list[str] | None = None) -> pd.DataFrame:
        wanted = self.columns if columns is None else columns
        with reading(self.where):
            # AnnData writes an index without a name as `_index`.
            name = None if self._index == "_index" else self._index
            index = pd.Index(_as_index(_column(self._group[self._index], start, stop)), name=name)
            return pd.DataFrame(
                {name: _column(self._group[name], start, stop) for name in wanted}, index=index
            )


def open_frame(where: str, element: Any) -> TableFrame | StoredFrame:
    """Frame over an obs or var element. Raises UnreadableSource."""
    with reading(where):
        if isinstance(element, h5py.Dataset):  # AnnData before 0.7: one compound dataset
            return TableFrame(_from_records(element[:]))
        if element.attrs.get("encoding-type") == "dataframe" and "__categories" not in element:
            return StoredFrame(where, element)
        return TableFrame(anndata.io.read_elem(element))


def _length(element: Any) -> int:
    if hasattr(element, "shape"):
        return int(element.shape[0])
    return int(element["codes" if "codes" in element else "values"].shape[0])


def _column(element: Any, start: int, stop: int) -> Any:
    """One column's rows as what AnnData would read them to."""
    reader = _READERS.get(str(element.attrs.get("encoding-type", "")))
    if reader is not None:
        return reader(element, start, stop)
    if hasattr(element, "shape"):
        return _array(element, start, stop)
    return anndata.io.read_elem(element)[start:stop]


def _array(element: Any, start: int, stop: int) -> Any:
    if isinstance(element, h5py.Dataset) and h5py.check_string_dtype(element.dtype):
        return element.asstr()[start:stop]
    values = np.asarray(element[start:stop])
    return values.astype(object) if values.dtype.kind in "TUS" else values


def _categorical(element: Any, start: int, stop: int) -> pd.Categorical:
    categories = anndata.io.read_elem(element["categories"])
    codes = np.asarray(element["codes"][start:stop])
    return pd.Categorical.from_codes(codes, categories, ordered=bool(element.attrs.get("ordered", False)))


def _nullable(make: Callable[[Any, Any], Any]) -> Callable[[Any, int, int], Any]:
    return lambda element, start, stop: make(
        np.asarray(element["values"][start:stop]), np.asarray(element["mask"][start:stop])
    )


def _nullable_strings(element: Any, start: int, stop: int) -> Any:
    values = _array(element["values"], start, stop)
    values[np.asarray(element["mask"][start:stop])] = None
    return pd.array(values, dtype="string")


_READERS: dict[str, Callable[[Any, int, int], Any]] = {
    "categorical": _categorical,
    "nullable-integer": _nullable(pd.arrays.IntegerArray),
    "nullable-boolean": _nullable(pd.arrays.BooleanArray),
    "nullable-string-array": _nullable_strings,
}


def _as_index(values: Any) -> Any:
    return np.asarray(values, dtype=object) if not isinstance(values, np.ndarray) else values


def _from_records(records: Any) -> pd.DataFrame:
    table = pd.DataFrame(records)
    for name in table.columns:
        if table[name].dtype == object:
            table[name] = [value.decode() if isinstance(value, bytes) else value for value in table[name]]
    key = "index" if "index" in table.columns else table.columns[0]
    return table.set_index(key)
