"""The training curve: one row a step, as a parquet table and as TensorBoard events."""

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from storage.errors import DamagedDataset
from storage.locations import Location

TABLE = "metrics.parquet"
EVENTS = "tensorboard"


class MetricsTable:
    """Rows of `metrics.parquet`, held by rank 0 and written whole (atomically) at every checkpoint.

    A resumed run keeps the rows before its first step and measures the others again, so that no step appears
    twice. Values stay on the device until they are written: reading them every step would stall a GPU.
    """

    def __init__(self, output: Location, start_step: int) -> None:
        self._output = output
        self._rows: list[dict[str, Any]] = []
        self._written = _rows_before(output, start_step)
        self._events = _event_writer(output, start_step)

    def add(self, step: int, values: Mapping[str, torch.Tensor | float]) -> None:
        self._rows.append({"step": step, **values})

    def write(self) -> None:
        """Make every row so far visible: the table, and its new rows as TensorBoard events."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self._rows]
        self._rows = []
        if not rows:
            return
        if self._events is not None:
            _add_events(self._events, rows)
        parts = [pa.Table.from_pylist(rows)]
        if self._written is not None:
            parts.insert(0, self._written)
        self._written = pa.concat_tables(parts, promote_options="default")
        sink = io.BytesIO()
        pq.write_table(self._written, sink, compression="zstd")
        self._output.put(TABLE, sink.getvalue())

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


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


def _event_writer(output: Location, start_step: int) -> Any:
    """A TensorBoard writer on local disk; None elsewhere, since event files are appended to."""
    if output.local is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    # purge_step: TensorBoard hides what a crashed run logged of the steps that this run does again.
    return SummaryWriter(str(output.local / EVENTS), purge_step=start_step)


def _add_events(writer: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, row["step"])
    writer.flush()
