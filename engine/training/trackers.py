"""Where a training curve is shown while it grows: TensorBoard, Prometheus in workers of Ray, and MLflow and
Weights & Biases where set up.

MLflow is set up by MLFLOW_TRACKING_URI (and MLFLOW_EXPERIMENT_NAME), Weights & Biases by WANDB_API_KEY or
WANDB_MODE (and WANDB_PROJECT, WANDB_ENTITY), in the environment of the training workers. A resumed run goes
on in the same MLflow and W&B run, whose ids lie beside the checkpoints. None of them is needed to resume.
"""

import importlib.util
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Protocol

from engine.training.node_metrics import NodeMetrics
from storage.locations import Location

EVENTS = "tensorboard"
IDS = "checkpoints/tracking.json"
PLAN = "checkpoints/plan.json"
PROJECT = "syncytium"
# What MLflow takes in one request.
METRICS_PER_REQUEST, PARAMETERS_PER_REQUEST, PARAMETER_LENGTH = 1000, 100, 500

Row = Mapping[str, float]
LOG = logging.getLogger(__name__)


class Tracker(Protocol):
    """One place that shows curves."""

    def log(self, rows: Sequence[Row]) -> None:
        """Rows of the curve, each with its `step`, in order."""

    def close(self) -> None:
        """The run is over."""


class Telling:
    """A tracker that is told all rows in time, or later when it cannot be reached: a run does not end
    because a dashboard does."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.pending = tracker, list[Row]()

    def log(self, rows: Sequence[Row]) -> None:
        self.pending += rows
        try:
            self.tracker.log(self.pending)
        except Exception as error:  # noqa: BLE001 - whatever a client raises; told again with the next rows
            name = type(self.tracker).__name__
            LOG.warning("%s was not told of %d steps yet: %s", name, len(self.pending), error)
            return
        self.pending = []

    def close(self) -> None:
        if self.pending:
            self.log([])
        if not self.pending:
            self.tracker.close()


def trackers_of(output: Location, start_step: int) -> list[Telling]:
    """All that are set up, for the run in `output` that is about to take `start_step`."""
    found: list[Tracker] = []
    if output.local is not None:  # event files are appended to, which object stores cannot
        found.append(TensorBoard(output, start_step))
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():  # a worker; not a run without Ray
        found.append(NodeMetrics(output))
    if os.environ.get("MLFLOW_TRACKING_URI") and _installed("mlflow", "MLFLOW_TRACKING_URI"):
        found.append(MLflow(output))
    variable = next((name for name in ("WANDB_API_KEY", "WANDB_MODE") if os.environ.get(name)), None)
    if variable and os.environ.get("WANDB_MODE") != "disabled" and _installed("wandb", variable):
        found.append(WeightsAndBiases(output))
    return [Telling(tracker) for tracker in found]


class TensorBoard:
    """Event files under OUTPUT/tensorboard."""

    def __init__(self, output: Location, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step: TensorBoard hides what a crashed run logged of the steps that this run does again.
        self.writer = SummaryWriter(str(output.local / EVENTS), purge_step=start_step)  # type: ignore[operator]

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for name, value in _values(row).items():
                self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, `syncytium` by default."""

    def __init__(self, output: Location) -> None:
        # By name: an optional package, whose types nobody here has.
        entities = import_module("mlflow.entities")
        self.client: Any = import_module("mlflow").MlflowClient()
        self.metric: Any = entities.Metric
        known = _ids(output).get("mlflow")
        self.run_id = known or self._begin(output, entities.Param)
        if not known:
            _keep_id(output, "mlflow", self.run_id)

    def _begin(self, output: Location, param: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        run = self.client.create_run(experiment_id, run_name=_name(output), tags={"output": str(output)})
        params = [param(key, value[:PARAMETER_LENGTH]) for key, value in _parameters(output).items()]
        for start in range(0, len(params), PARAMETERS_PER_REQUEST):
            self.client.log_batch(run.info.run_id, params=params[start : start + PARAMETERS_PER_REQUEST])
        return str(run.info.run_id)

    def log(self, rows: Sequence[Row]) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self.metric(name, value, now, int(row["step"]))
            for row in rows
            for name, value in _values(row).items()
        ]
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


class WeightsAndBiases:
    """A run of the project WANDB_PROJECT, `syncytium` by default; those of a sweep are one group."""

    def __init__(self, output: Location) -> None:
        import wandb

        run_id = _ids(output).get("wandb")
        if run_id is None:
            run_id = uuid.uuid4().hex[:12]
            _keep_id(output, "wandb", run_id)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=_name(output),
            group=str(PurePosixPath(str(output)).parent.name) or None,
            id=run_id,
            resume="allow",
            config=_parameters(output),
            # A process trains several autoencoders of a sweep at once.
            reinit="create_new",
        )

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.run.log(_values(row), step=int(row["step"]))

    def close(self) -> None:
        self.run.finish()


def _installed(package: str, variable: str) -> bool:
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return True
    LOG.warning("%s is set, but %s is not installed: pip install %s", variable, package, package)
    return False


def _values(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}


def _name(output: Location) -> str:
    return PurePosixPath(str(output)).name


def _parameters(output: Location) -> dict[str, str]:
    """What the run is made from, flat: `training.learning_rate` -> "0.001"."""
    return _flat(json.loads(output.read(PLAN))["lineage"]) if output.exists(PLAN) else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: str(value)}
    return found


def _ids(output: Location) -> dict[str, str]:
    return dict(json.loads(output.read(IDS))) if output.exists(IDS) else {}


def _keep_id(output: Location, tracker: str, run_id: str) -> None:
    output.put(IDS, json.dumps(_ids(output) | {tracker: run_id}).encode())
