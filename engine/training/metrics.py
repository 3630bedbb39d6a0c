"""The training curve: one row a step, as a parquet table and wherever else curves are shown."""

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from engine.training.trackers import EVENTS, trackers_of
from storage.errors import DamagedDataset
from storage.locations import Location

__all__ = ["EVENTS", "TABLE", "MetricsTable", "read_metrics"]

TABLE = "metrics.parquet"


class MetricsTable:
    """Rows of `metrics.parquet`, held by rank 0 and written whole (atomically) at every checkpoint.

    A resumed run keeps the rows before its first step and measures the others again, so that no step appears
    twice. Values stay on the device until they are written: reading them every step would stall a GPU.
    """

    def __init__(self, output: Location, start_step: int) -> None:
        self._output = output
        self._rows: list[dict[str, Any]] = []
        self._written = _rows_before(output, start_step)
        self._trackers = trackers_of(output, start_step)

    def add(self, step: int, values: Mapping[str, torch.Tensor | float]) -> None:
        self._rows.append({"step": step, **values})

    def write(self) -> None:
        """Make every row so far visible: in the table, and its new rows to all trackers."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self._rows]
        self._rows = []
        if not rows:
            return
        # Some steps have more to tell than others; pyarrow would take the first row's columns for all.
        names = list(dict.fromkeys(name for row in rows for name in row))
        parts = [pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])]
        if self._written is not None:
            parts.insert(0, self._written)
        self._written = pa.concat_tables(parts, promote_options="default")
        sink = io.BytesIO()
        pq.write_table(self._written, sink, compression="zstd")
        self._output.put(TABLE, sink.getvalue())
        for tracker in self._trackers:
            tracker.log(rows)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def read_metrics(output: Location) -> pa.Table | None:
    """The training curve in a training output: `step`, `loss`, ..., or None before the first checkpoint."""
    try:
        content = output.read(TABLE)
    except FileNotFoundError:
        return None
    try:
        return pq.read_table(io.BytesIO(content))
    except pa.ArrowInvalid as error:
        raise DamagedDataset(f"{output}/{TABLE}: is not a readable parquet file ({error}).") from error


def _rows_before(output: Location, start_step: int) -> pa.Table | None:
    table = read_metrics(output) if start_step else None
    return None if table is None else table.filter(pc.less(table["step"], start_step))


def _plain(value: torch.Tensor | float) -> float:
    return value if isinstance(value, int | float) else float(value)
