"""On Ray: a killed worker and a killed driver each leave the result of an undisturbed run, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.models import sae
from engine.models.errors import ModelError
from engine.training.activation_sources import StreamedActivations
from engine.training.checkpoint import Checkpoints
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipe import Share
from engine.training.recipes.sae import SparseRecipe
from engine.training.run import run_training
from storage.errors import InputError
from storage.locations import Location
from tests.conftest import REPOSITORY
from tests.training.test_run import assert_same_run
from tests.training.tiny import TinyRecipe

STEPS, BATCH = 12, 8


@dataclass(frozen=True)
class RefusingRecipe(TinyRecipe):
    """Finds out in the worker that its input is bad; counts how often it is tried."""

    error: type[Exception] = InputError
    attempts: str = ""

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        with open(self.attempts, "a") as tried:
            tried.write("1")
        raise self.error("gene 7 is not in the table")


def options(**changes: int) -> TrainingOptions:
    given = {"steps": STEPS, "batch": BATCH, "workers": 2, "zero": 2, "checkpoint_every": 4, **changes}
    return TrainingOptions(**given)


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    shown: list[tuple[int, int, str]] = []
    report = run_training(TinyRecipe(), options(), Location.of(output), progress=lambda *at: shown.append(at))
    assert report.did_work
    assert shown[-1] == (STEPS, STEPS, "steps")
    return output


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_is_lost(undisturbed: Path, tmp_path: Path) -> None:
    # The last example of the seventh step, which the second worker computes.
    recipe = TinyRecipe(kill_at=7 * BATCH - 1, kill_once=str(tmp_path / "killed"))
    run_training(recipe, options(), Location.of(tmp_path / "out"))
    assert (tmp_path / "killed").exists()
    assert_same_run(undisturbed, tmp_path / "out")


@pytest.mark.slow
def test_a_killed_driver_is_resumed(undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    driver = subprocess.Popen([sys.executable, "-m", "tests.training.test_ray", str(output)], cwd=REPOSITORY)
    deadline = time.monotonic() + 240
    while driver.poll() is None and time.monotonic() < deadline:
        newest = Checkpoints(Location.of(output), keep=2).newest()
        if newest is not None and newest.step < STEPS:
            break
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _wait_for_free_workers()
    assert not (output / "training.json").exists()
    report = run_training(TinyRecipe(), options(), Location.of(output))
    assert report.did_work
    assert report.first_step >= 4
    assert_same_run(undisturbed, output)


@pytest.mark.slow
@pytest.mark.parametrize("error", [InputError, ModelError])
def test_input_that_a_worker_refuses_ends_the_run_at_once(
    ray_cluster: None, tmp_path: Path, error: type[Exception]
) -> None:
    recipe = RefusingRecipe(error=error, attempts=str(tmp_path / "attempts"))
    with pytest.raises(error, match="gene 7 is not in the table"):
        run_training(recipe, options(workers=1), Location.of(tmp_path / "out"))
    assert (tmp_path / "attempts").read_text() == "1"


def test_more_workers_than_the_machine_has_are_refused(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="64 cores; Ray has"):
        run_training(TinyRecipe(), options(workers=64, batch=64), Location.of(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_workers_with_half_the_features_each_train_what_one_process_trains(
    ray_cluster: None, cells: str, encoder_directory: Path, tmp_path: Path
) -> None:
    source = StreamedActivations.plan(
        cells, str(encoder_directory), "resid_post_0", tokens_per_cell=16, actors=1
    )
    recipe = SparseRecipe(source=source, architecture="batchtopk", width=32, k=4, dead_after_tokens=128)
    outputs = {}
    for workers, shared in ((0, 1), (2, 2)):
        options = TrainingOptions(
            steps=6, batch=128, workers=workers, feature_parallel=shared, learning_rate=3e-3
        )
        outputs[shared] = tmp_path / str(shared)
        run_training(recipe, options, Location.of(outputs[shared]))
    curves = [read_metrics(Location.of(output)) for output in outputs.values()]
    for column in ("loss", "gradient_norm", "dead_fraction", "tokens", "threshold"):
        alone, together = (curve[column].to_pylist() for curve in curves if curve is not None)
        assert together == pytest.approx(alone, rel=1e-5), column
    one, other = (sae.load(output) for output in outputs.values())
    for name, weight in one.state_dict().items():
        assert torch.allclose(other.state_dict()[name], weight, atol=1e-5), name


def _wait_for_free_workers() -> None:
    """The killed driver's workers hold their CPUs until Ray has noticed."""
    import ray

    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)


if __name__ == "__main__":
    # The driver to be killed: slow enough to be caught between its first checkpoint and its end.
    run_training(
        TinyRecipe(seconds=0.5), options(), Location.of(sys.argv[1]), address=os.environ["RAY_ADDRESS"]
    )
