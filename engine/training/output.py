"""What is in a training output: the plan at the start, the model directory and the record of the end.

OUTPUT/checkpoints/plan.json    lineage, created first: a resume with another one is refused
OUTPUT/checkpoints/step_...     see `engine.training.checkpoint`
OUTPUT/metrics.parquet          see `engine.training.metrics`
OUTPUT/features/                what a recipe computes once before its first step
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
from storage.locations import Location
from storage.protocol.lineage import plan_body, require_same_plan

PLAN = "checkpoints/plan.json"
RECORD = "training.json"
FEATURES = "features/"


def is_finished(output: Location, recipe: Recipe, options: TrainingOptions, *, overwrite: bool) -> bool:
    """Whether exactly this run is already finished in `output`. Writes nothing.

    Raises LineageMismatch when another run is there (unless `overwrite`), InputError when something else is.
    """
    if output.root.startswith("memory://") and options.workers:
        raise InputError(
            f"{output}: other processes cannot read this; train into a directory or an object store."
        )
    found = _read_json(output, PLAN) or _read_json(output, RECORD)
    if found is None:
        _refuse_foreign_files(output)
        return False
    if overwrite:
        return False
    require_same_plan(output, found, plan_of(recipe, options))
    return output.exists(RECORD)


def begin(output: Location, recipe: Recipe, options: TrainingOptions, *, overwrite: bool) -> None:
    """Create the plan, after removing an earlier run if `overwrite`. Raises what `is_finished` raises."""
    if overwrite and (output.exists(PLAN) or output.exists(RECORD)):
        output.delete_all()
    plan = plan_of(recipe, options)
    if not output.create(PLAN, _as_bytes(plan)):
        require_same_plan(output, json.loads(output.read(PLAN)), plan)


def plan_of(recipe: Recipe, options: TrainingOptions) -> dict[str, Any]:
    """What the run is made from, with its hash under `lineage_id`."""
    lineage = {"recipe": type(recipe).__name__, **recipe.lineage(), "training": options.lineage()}
    return plan_body("training", lineage, [])


def publish_model(
    recipe: Recipe, state: Mapping[str, torch.Tensor], output: Location, options: TrainingOptions
) -> None:
    """Write the model directory files into `output`, all of them or none visible."""
    publish(lambda directory: recipe.export(state, directory, options), str(output))


def record_end(
    output: Location,
    recipe: Recipe,
    options: TrainingOptions,
    *,
    steps: int,
    published_step: int,
    peak_memory_bytes: int,
) -> None:
    """Create the record that marks the run as finished after `steps`; published_step: of the model."""
    table = read_metrics(output)
    rows = table.to_pylist() if table is not None else []
    record = {
        **plan_of(recipe, options),
        "steps": steps,
        "published_step": published_step,
        "published": next((row for row in rows if row["step"] == published_step - 1), {}),
        "tokens": round(sum(row["tokens"] for row in rows)),
        "seconds": sum(row["seconds"] for row in rows),
        "final": rows[-1] if rows else {},
        "peak_memory_bytes": peak_memory_bytes,
    }
    output.create(RECORD, _as_bytes(record))


def read_end(output: Location) -> dict[str, Any]:
    """The record of a finished run, as `record_end` wrote it. Raises InputError when there is none."""
    record = _read_json(output, RECORD)
    if record is None:
        raise InputError(f"{output}: holds no finished training run ({RECORD} is missing).")
    return record


def _refuse_foreign_files(output: Location) -> None:
    """A path that holds something that no training wrote is most likely a mistake, --overwrite or not."""
    ours = (TABLE, f"{EVENTS}/", "checkpoints/", FEATURES, "run.json")
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
