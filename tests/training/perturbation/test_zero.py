"""Two workers, whatever ZeRO shares out between them, end where one process ends."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from engine.perturbation.predictor import Predictor
from engine.training.checkpoint import Checkpoints
from engine.training.loop import train
from engine.training.options import TrainingOptions
from engine.training.output import begin
from engine.training.recipes.perturbation import PerturbationRecipe, plan
from engine.training.recipes.perturbation.measured import ScreenSource
from engine.training.sharding import Worker, join_workers
from storage.locations import Location
from tests.perturbation.screens import small_store
from tests.training.processes import start_processes

STEPS, STAGES = 3, (0, 1, 2, 3)
SIZES = {"d_model": 8, "n_layers": 2, "d_state": 4, "headdim": 8, "condition_dim": 8, "gene_identity_dim": 4}


@dataclass(frozen=True)
class Case:
    output: Path
    recipe: PerturbationRecipe
    zero: int


def train_case(case: Case, worker: Worker) -> None:
    options = TrainingOptions(
        steps=STEPS, batch=4, workers=worker.world, zero=case.zero, learning_rate=1e-2, weight_decay=0.1
    )  # type: ignore[arg-type]
    output = Location.of(case.output)
    if worker.leads:
        begin(output, case.recipe, options, overwrite=False)
    dist.barrier()
    train(case.recipe, options, output, worker, lambda *_: None, lambda *_: None)


def run_rank(rank: int, rendezvous: str, cases: list[Case]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    worker = join_workers(rank, 2, 1)
    for case in cases:
        train_case(case, worker)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages by the same two processes, and `one` by this one."""
    folder = tmp_path_factory.mktemp("zero")
    source = ScreenSource(small_store(folder), "target", "non-targeting", "line")
    recipe = plan(source, "perturbation", held_out=["G1"], sizes=SIZES, n_codes=0, members=2)
    train_case(Case(folder / "one", recipe, 0), join_workers(0, 1, 1))
    cases = [Case(folder / str(zero), recipe, zero) for zero in STAGES]
    start_processes(run_rank, (str(folder / "rendezvous"), cases), 2)
    return folder


@pytest.mark.parametrize("zero", STAGES)
def test_two_workers_equal_one_process(folder: Path, zero: int) -> None:
    states = []
    for name in (str(zero), "one"):
        checkpoints = Checkpoints(Location.of(folder / name), 2)
        newest = checkpoints.newest()
        assert newest is not None
        assert newest.step == STEPS
        states.append(checkpoints.stored(newest))
    ours, theirs = states
    assert set(ours) == set(theirs)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    control = {"left": torch.zeros(24).numpy()}["left"] + 1
    found = [
        Predictor.load(str(folder / name)).predict(control, [("G1",)], "left") for name in (str(zero), "one")
    ]
    torch.testing.assert_close(*(torch.from_numpy(one.mean_QG) for one in found), rtol=0, atol=1e-5)
