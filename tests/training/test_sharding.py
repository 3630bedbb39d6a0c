"""Several training processes without Ray: ZeRO stages agree; a run continues on more or fewer of them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from engine.models.bimamba import Mamba1
from engine.training.activation_sources import CachedActivations
from engine.training.checkpoint import Committed
from engine.training.loop import train
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.output import begin
from engine.training.recipes.encoder import EncoderSize, plan
from engine.training.recipes.sae import SparseRecipe
from engine.training.sharding import join_workers, parameter_groups
from storage.locations import Location
from tests.training.processes import start_processes
from tests.training.tiny import TinyRecipe

STEPS = 8
# Dropout draws by rank, so that workers in another number draw otherwise.
TINY = TinyRecipe(dropout=0.0)


class Run(NamedTuple):
    """One training; `stop`: end it after the checkpoint of that step, as if killed."""

    output: Path
    recipe: Any
    zero: int
    stop: int | None = None


class Killed(Exception):
    """Raised on every worker at once."""


def _train_all(rank: int, world: int, rendezvous: str, runs: list[Run]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    worker = join_workers(rank, world, 1)
    for run in runs:
        options = TrainingOptions(
            steps=STEPS, batch=12, workers=world, zero=run.zero, checkpoint_every=4, weight_decay=0.1
        )

        def kill(metrics: dict[str, float], committed: Committed, run: Run = run) -> None:
            if committed.step == run.stop:
                raise Killed

        output = Location.of(run.output)
        if worker.leads:
            begin(output, run.recipe, options, overwrite=False)
        dist.barrier()
        try:
            train(run.recipe, options, output, worker, lambda done, total, unit: None, kill)
        except Killed:
            assert run.stop is not None
    dist.destroy_process_group()


def train_in_processes(tmp_path: Path, world: int, runs: list[Run]) -> None:
    start_processes(_train_all, (world, str(tmp_path / f"rendezvous-{world}"), runs), world)


def assert_close_runs(one: Path, other: Path) -> None:
    tables = [read_metrics(Location.of(output)) for output in (one, other)]
    for column, tolerance in (("loss", 1e-5), ("gradient_norm", 1e-4)):
        ours, theirs = ([row[column] for row in table.to_pylist()] for table in tables if table is not None)
        assert ours == pytest.approx(theirs, rel=tolerance)
        assert len(ours) == STEPS
    # As one vector: where there is no gradient (attention's key bias) Adam makes steps of rounding noise.
    one_vector, other_vector = whole_vector(one), whole_vector(other)
    assert (one_vector - other_vector).norm() < 1e-4 * one_vector.norm()


def whole_vector(output: Path) -> torch.Tensor:
    (weights,) = output.glob("*.safetensors")
    return torch.cat([weight.flatten().float() for _, weight in sorted(load_file(weights).items())])


@pytest.mark.slow
def test_stages_agree_on_every_model(cells: str, cache: str, tmp_path: Path) -> None:
    recipes = {
        "tahoe": plan(cells, "tahoe", size=EncoderSize(n_layers=1, d_model=16, n_heads=2, max_tokens=64)),
        "sae": SparseRecipe(source=CachedActivations.plan(cache, None), width=32, k=4, dead_after_tokens=24),
    }
    runs = [
        Run(tmp_path / f"{name}-{zero}", recipe, zero)
        for name, recipe in recipes.items()
        for zero in range(4)
    ]
    train_in_processes(tmp_path, 2, runs)
    for name in recipes:
        for zero in range(1, 4):
            assert_close_runs(tmp_path / f"{name}-0", tmp_path / f"{name}-{zero}")


@pytest.mark.slow
def test_runs_continue_on_more_and_fewer_workers(tmp_path: Path) -> None:
    halves = [Run(tmp_path / f"half-{zero}", TINY, zero, stop=4) for zero in range(4)]
    train_in_processes(tmp_path, 2, [Run(tmp_path / "whole", TINY, 0), *halves])
    # The stage may change too: none -> 3, 1 -> none and 3 -> 1 on one worker, 2 -> 3 on three.
    others = {0: 3, 1: 0, 3: 1}
    train_in_processes(tmp_path, 1, [Run(tmp_path / f"half-{old}", TINY, new) for old, new in others.items()])
    train_in_processes(tmp_path, 3, [Run(tmp_path / "half-2", TINY, 3)])
    for half in halves:
        assert_close_runs(tmp_path / "whole", half.output)


def test_a_state_is_not_decayed_though_it_is_a_matrix() -> None:
    block = Mamba1(4, 2)
    decayed, kept = (group["params"] for group in parameter_groups(block, 0.1))
    assert any(weight is block.A_log for weight in kept)
    assert any(weight is block.x_proj.weight for weight in decayed)
