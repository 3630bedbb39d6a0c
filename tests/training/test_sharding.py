"""Several training processes without Ray: ZeRO stages agree; a run continues on more or fewer of them."""

import os
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from engine.training.checkpoint import Committed
from engine.training.loop import train
from engine.training.options import TrainingOptions
from engine.training.output import begin
from engine.training.sharding import join_workers
from storage.locations import Location
from tests.training.test_run import curve, weights
from tests.training.tiny import TinyRecipe

STEPS = 8


class Interruption(Exception):
    """Raised on every worker at once."""


def _train_all(rank: int, world: int, rendezvous: str, runs: list[tuple[int, str, int | None]]) -> None:
    """In one process group: each run is (ZeRO stage, output, steps after which to stop or None)."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    worker = join_workers(rank, world, 1)
    for zero, output, stop in runs:
        options = TrainingOptions(
            steps=STEPS,
            batch=12,
            workers=world,
            zero=zero,
            checkpoint_every=4,
            weight_decay=0.1,
        )

        def interrupt(metrics: dict[str, float], committed: Committed, stop: int | None = stop) -> None:
            if committed.step == stop:
                raise Interruption

        recipe = TinyRecipe(dropout=0.0)  # dropout draws by rank: other worlds draw otherwise
        if worker.leads:
            begin(Location.of(output), recipe, options, overwrite=False)
        dist.barrier()
        try:
            train(recipe, options, Location.of(output), worker, lambda done, total, unit: None, interrupt)
        except Interruption:
            assert stop is not None
    dist.destroy_process_group()


def train_in_processes(tmp_path: Path, world: int, runs: list[tuple[int, str, int | None]]) -> None:
    mp.spawn(_train_all, (world, str(tmp_path / f"rendezvous-{world}"), runs), nprocs=world)


def assert_close_runs(one: Path, other: Path) -> None:
    losses = [[row["loss"] for row in curve(output)] for output in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    norms = [[row["gradient_norm"] for row in curve(output)] for output in (one, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for name, weight in weights(one).items():
        assert weight.numpy() == pytest.approx(weights(other)[name].numpy(), abs=1e-5), name


@pytest.mark.slow
def test_stages_agree_and_runs_continue_on_more_and_fewer_workers(tmp_path: Path) -> None:
    outputs = {zero: str(tmp_path / f"zero{zero}") for zero in range(4)}
    halves = {zero: str(tmp_path / f"half{zero}") for zero in range(4)}
    train_in_processes(
        tmp_path,
        2,
        [(zero, outputs[zero], None) for zero in range(4)] + [(zero, halves[zero], 4) for zero in range(4)],
    )
    for zero in range(1, 4):
        assert_close_runs(Path(outputs[0]), Path(outputs[zero]))
    # 2 -> 1 without ZeRO and with stages 1 and 3; 2 -> 3 from stage 2 to 1, which share their files
    train_in_processes(tmp_path, 1, [(zero, halves[zero], None) for zero in (0, 1, 3)])
    train_in_processes(tmp_path, 3, [(1, halves[2], None)])
    for zero in range(4):
        assert_close_runs(Path(outputs[0]), Path(halves[zero]))
        assert not list(Path(halves[zero], "checkpoints").glob("*universal*"))
