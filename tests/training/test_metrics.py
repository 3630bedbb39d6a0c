"""The training curve: one row a step, whole after a crash, and TensorBoard events beside it."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.training.metrics import TABLE, MetricsTable, read_metrics
from storage.errors import DamagedDataset
from storage.locations import Location


def steps_of(output: Location) -> list[int]:
    table = read_metrics(output)
    return [] if table is None else table["step"].to_pylist()


def test_rows_become_visible_when_written(tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    table = MetricsTable(output, 0)
    table.add(0, {"loss": torch.tensor(2.0), "seconds": 0.5})
    assert read_metrics(output) is None
    table.write()
    table.add(1, {"loss": torch.tensor(1.0), "seconds": 0.5})
    table.write()
    table.close()
    found = read_metrics(output)
    assert found is not None
    assert found.to_pylist() == [
        {"step": 0, "loss": 2.0, "seconds": 0.5},
        {"step": 1, "loss": 1.0, "seconds": 0.5},
    ]


def test_a_resumed_run_repeats_no_step(tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    crashed = MetricsTable(output, 0)
    for step in range(6):
        crashed.add(step, {"loss": 9.0})
    crashed.write()
    crashed.close()
    resumed = MetricsTable(output, 4)  # the newest checkpoint was older than the newest row
    for step in range(4, 8):
        resumed.add(step, {"loss": 1.0})
    resumed.write()
    resumed.close()
    assert steps_of(output) == list(range(8))
    found = read_metrics(output)
    assert found is not None
    assert found["loss"].to_pylist() == [9.0] * 4 + [1.0] * 4
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (step, 9.0 if step < 4 else 1.0) for step in range(8)
    ]


def test_a_run_from_the_start_forgets_what_was_there(tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    for value in (1.0, 2.0):
        table = MetricsTable(output, 0)
        table.add(0, {"loss": value})
        table.write()
        table.close()
    found = read_metrics(output)
    assert found is not None
    assert found["loss"].to_pylist() == [2.0]


def test_object_stores_get_the_table_without_events() -> None:
    output = Location.of("memory://metrics-test")
    table = MetricsTable(output, 0)
    table.add(0, {"loss": 1.0})
    table.write()
    table.close()
    assert list(output.list()) == [TABLE]
    output.delete_all()


def test_a_cut_table_is_named(tmp_path: Path) -> None:
    (tmp_path / TABLE).write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedDataset, match=r"metrics\.parquet"):
        read_metrics(Location.of(tmp_path))
