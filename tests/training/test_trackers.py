"""Trackers beside the table: what they are told, once a step, also by a resumed run and after an outage."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engine.training.metrics import MetricsTable, read_metrics
from engine.training.trackers import IDS, PLAN
from storage.locations import Location


class FakeWandb(ModuleType):
    """Remembers runs by id: their settings and what was logged, by step."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, Any] = {}
        self.reachable = True

    def init(self, **settings: Any) -> Any:
        run = self.runs.setdefault(settings["id"], SimpleNamespace(settings=settings, logged={}, finished=0))

        def log(values: dict[str, float], step: int) -> None:
            if not self.reachable:
                raise ConnectionError("no route")
            run.logged.setdefault(step, []).append(values)

        def finish() -> None:
            run.finished += 1

        return SimpleNamespace(log=log, finish=finish)


class FakeMlflow(ModuleType):
    """The parts of the client that are used."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.entities = ModuleType("mlflow.entities")
        self.entities.Metric = lambda *parts: ("metric", *parts)  # type: ignore[attr-defined]
        self.entities.Param = lambda *parts: parts  # type: ignore[attr-defined]
        self.metrics: list[Any] = []
        self.params: dict[str, str] = {}
        self.runs: list[str] = []
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name: str) -> None:
        assert name == "cells"

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment_id: str, run_name: str, tags: dict[str, str]) -> Any:
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.runs)}"))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert run_id == "run1"
        self.metrics += metrics
        self.params |= dict(params)

    def set_terminated(self, run_id: str) -> None:
        self.ended = run_id


@pytest.fixture
def output(tmp_path: Path) -> Location:
    location = Location.of(tmp_path / "sweep" / "topk")
    location.put(PLAN, json.dumps({"lineage": {"k": 4, "training": {"steps": 9}}}).encode())
    return location


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return fake


def steps(output: Location, start: int, stop: int) -> None:
    table = MetricsTable(output, start)
    for step in range(start, stop):
        table.add(step, {"loss": float(step)})
        table.write()
    table.close()


def test_wandb_goes_on_in_the_same_run(output: Location, wandb: FakeWandb) -> None:
    steps(output, 0, 3)
    steps(output, 3, 5)
    (run,) = wandb.runs.values()
    assert run.logged == {step: [{"loss": float(step)}] for step in range(5)}
    assert (run.settings["name"], run.settings["group"]) == ("topk", "sweep")
    assert run.settings["config"] == {"k": "4", "training.steps": "9"}
    assert run.finished == 2


def test_an_outage_is_made_up_for(
    output: Location, wandb: FakeWandb, caplog: pytest.LogCaptureFixture
) -> None:
    table = MetricsTable(output, 0)
    wandb.reachable = False
    table.add(0, {"loss": 1.0})
    table.write()
    assert "not told of 1 steps yet: no route" in caplog.text
    wandb.reachable = True
    table.add(1, {"loss": 2.0})
    table.write()
    table.close()
    (run,) = wandb.runs.values()
    assert run.logged == {0: [{"loss": 1.0}], 1: [{"loss": 2.0}]}
    curve = read_metrics(output)
    assert curve is not None
    assert curve.num_rows == 2


def test_mlflow_is_told_parameters_and_steps(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells")
    steps(output, 0, 2)
    steps(output, 2, 3)
    assert fake.runs == ["topk"]
    assert fake.params == {"k": "4", "training.steps": "9"}
    assert [(name, value, step) for _, name, value, _, step in fake.metrics] == [
        ("loss", float(step), step) for step in range(3)
    ]
    assert (fake.ended, json.loads(output.read(IDS))) == ("run1", {"mlflow": "run1"})


def test_what_is_set_up_but_not_installed_is_said(
    output: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    steps(output, 0, 1)
    assert "pip install mlflow" in caplog.text
    assert list((output / "tensorboard").list())
