"""What is in a training output: the plan at the start, the model directory and the record of the end.

OUTPUT/checkpoints/plan.json    lineage, created first: a resume with another one is refused
OUTPUT/checkpoints/step_...     see `engine.training.checkpoint`
OUTPUT/metrics.parquet          see `engine.training.metrics`
OUTPUT/<model files>            published together when the last step is done
OUTPUT/training.json            created last: the run is finished
"""

import json
from collections.abc import Mapping
from typing import Any

import torch

from engine.training.metrics import EVENTS, TABLE, read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipe import Recipe
from storage.checkpoints import publish
from storage.errors import InputError
from storage.lineage import plan_body, require_same_plan
from storage.locations import Location

PLAN = "checkpoints/plan.json"
RECORD = "training.json"


def begin(output: Location, recipe: Recipe, options: TrainingOptions, *, overwrite: bool) -> bool:
    """Plan the run in `output`; False when the same run is already finished there.

    Raises LineageMismatch when another run is there, InputError when something else is.
    """
    if "://" in output.root and output.root.startswith("memory://"):
        raise InputError(
            f"{output}: other processes cannot read this; train into a directory or an object store."
        )
    plan = plan_of(recipe, options)
    found = _read_json(output, PLAN) or _read_json(output, RECORD)
    if found is None:
        _refuse_foreign_files(output)
    elif overwrite:
        output.delete_all()
        found = None
    if found is None and not output.create(PLAN, _as_bytes(plan)):
        found = _read_json(output, PLAN)  # another driver was faster
    if found is not None:
        require_same_plan(output, found, plan)
    return not output.exists(RECORD)


def plan_of(recipe: Recipe, options: TrainingOptions) -> dict[str, Any]:
    """What the run is made from, with its hash under `lineage_id`."""
    lineage = {"recipe": type(recipe).__name__, **recipe.lineage(), "training": options.lineage()}
    return plan_body("training", lineage, [])


def publish_model(recipe: Recipe, state: Mapping[str, torch.Tensor], output: Location) -> None:
    """Write the model directory files into `output`, all of them or none visible."""
    publish(lambda directory: recipe.export(state, directory), str(output))


def record_end(output: Location, recipe: Recipe, options: TrainingOptions, *, peak_memory_bytes: int) -> None:
    """Create the record that marks the run as finished."""
    record = {
        **plan_of(recipe, options),
        "steps": options.steps,
        "final": final_metrics(output),
        "peak_memory_bytes": peak_memory_bytes,
    }
    output.create(RECORD, _as_bytes(record))


def read_end(output: Location) -> dict[str, Any]:
    """The record of a finished run: `lineage`, `lineage_id`, `steps`, `final` (metrics), `peak_memory_bytes`."""
    record = _read_json(output, RECORD)
    if record is None:
        raise InputError(f"{output}: holds no finished training run ({RECORD} is missing).")
    return record


def final_metrics(output: Location) -> dict[str, float]:
    """The last row of the training curve."""
    table = read_metrics(output)
    return {} if table is None else dict(table.slice(table.num_rows - 1).to_pylist()[0])


def _refuse_foreign_files(output: Location) -> None:
    """A path that holds something that no training wrote is most likely a mistake, --overwrite or not."""
    ours = (TABLE, f"{EVENTS}/", "checkpoints/", "run.json")
    foreign = [name for name in output.list() if not name.startswith(ours)]
    if foreign:
        raise InputError(
            f"{output}: already holds {foreign[0]}"
            + (f" and {len(foreign) - 1} more files" * (len(foreign) > 1))
            + ", which no training run wrote; give another --output."
        )


def _read_json(output: Location, name: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(output.read(name)))
    except FileNotFoundError:
        return None


def _as_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
