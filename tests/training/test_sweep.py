"""A sweep: each autoencoder is bit for bit what it would be alone, also after an interruption."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from engine.training.activation_sources import CachedActivations, StreamedActivations
from engine.training.checkpoint import Checkpoints
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipes.sae import Member, SparseRecipe, run_sweep
from engine.training.run import run_training
from storage.errors import InputError
from storage.locations import Location
from tests.conftest import REPOSITORY
from tests.training.test_run import Interruption, interrupt_at

OPTIONS = TrainingOptions(steps=12, batch=128, workers=0, checkpoint_every=4, learning_rate=3e-3)


def recipe(source: CachedActivations | StreamedActivations, **changes: object) -> SparseRecipe:
    given = {"width": 32, "k": 4, "dead_after_tokens": 300, "anneal_steps": 5} | changes
    return SparseRecipe(source=source, **given)  # type: ignore[arg-type]


def members_on(cache: str) -> list[Member]:
    source = CachedActivations.plan(cache, None)
    slower = replace(OPTIONS, learning_rate=1e-3)
    return [
        Member("topk", recipe(source), OPTIONS),
        Member("matryoshka", recipe(source, architecture="matryoshka", width=48, k=3), slower),
        Member("jumprelu", recipe(source, architecture="jumprelu", init_seed=7), OPTIONS),
        Member("residual", recipe(source, gene_residual=True, outlier_norm=1.05), OPTIONS),
    ]


@pytest.fixture(scope="module")
def members(cache: str) -> list[Member]:
    return members_on(cache)


@pytest.fixture(scope="module")
def swept(members: list[Member], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sweep") / "out"
    reports = run_sweep(members, Location.of(output))
    assert all(report.did_work and report.first_step == 0 for report in reports.values())
    return output


def assert_same_model(one: Path, other: Path) -> None:
    assert (one / "cfg.json").read_text() == (other / "cfg.json").read_text()
    weights, others = (load_file(path / "sae_weights.safetensors") for path in (one, other))
    assert set(weights) == set(others)
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
    curves = [read_metrics(Location.of(path)) for path in (one, other)]
    rows = [
        curve.drop_columns(["seconds", "tokens_per_second"]).to_pylist()
        for curve in curves
        if curve is not None
    ]
    assert rows[0] == rows[1]


def test_an_autoencoder_of_a_sweep_is_what_it_is_alone(
    members: list[Member], swept: Path, tmp_path: Path
) -> None:
    for member in members:
        run_training(member.recipe, member.options, Location.of(tmp_path / member.name))
        assert_same_model(swept / member.name, tmp_path / member.name)


def test_the_table_says_how_each_ended(members: list[Member], swept: Path) -> None:
    rows = {row["name"]: row for row in pq.read_table(swept / "sweep.parquet").to_pylist()}
    assert list(rows) == [member.name for member in members]
    assert rows["topk"]["l0"] <= 4
    assert (rows["jumprelu"]["init_seed"], rows["matryoshka"]["width"]) == (7, 48)
    assert all(0 < row["fvu"] < 2 and row["steps"] == 12 for row in rows.values())


def test_an_interrupted_sweep_goes_on_where_each_member_is(
    members: list[Member], swept: Path, tmp_path: Path
) -> None:
    output = Location.of(tmp_path)
    # Two are done alone, one of them not to the end: they are found ahead of the others.
    run_training(members[0].recipe, OPTIONS, output / "topk")
    with pytest.raises(Interruption):
        run_training(members[2].recipe, OPTIONS, output / "jumprelu", progress=interrupt_at(9))
    with pytest.raises(Interruption):
        run_sweep(members, output, progress=interrupt_at(6))
    reports = run_sweep(members, output)
    assert {name: report.first_step for name, report in reports.items()} == {
        "topk": 0,
        "matryoshka": 4,
        "jumprelu": 8,
        "residual": 4,
    }
    assert not reports["topk"].did_work
    for member in members:
        assert_same_model(swept / member.name, tmp_path / member.name)
    assert not any(report.did_work for report in run_sweep(members, output).values())


def test_hooks_of_one_encoder_pass(cells: str, encoder_directory: Path, tmp_path: Path) -> None:
    hooks = [
        StreamedActivations.plan(cells, str(encoder_directory), f"resid_post_{layer}", tokens_per_cell=8)
        for layer in (0, 1)
    ]
    options = replace(OPTIONS, steps=3)
    both = [Member(source.hook, recipe(source), options) for source in hooks]
    run_sweep(both, Location.of(tmp_path / "sweep"))
    run_training(both[1].recipe, options, Location.of(tmp_path / "alone"))
    assert_same_model(tmp_path / "sweep" / "resid_post_1", tmp_path / "alone")


def test_a_killed_sweep_is_resumed(members: list[Member], swept: Path, tmp_path: Path, cache: str) -> None:
    """SIGKILL at any moment after the first checkpoint, here by the process itself."""
    killed = subprocess.run([sys.executable, "-m", __name__, cache, str(tmp_path)], cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*/training.json"))
    reports = run_sweep(members[:2], Location.of(tmp_path))
    assert [report.first_step for report in reports.values()] == [8, 4]
    for member in members[:2]:
        assert_same_model(swept / member.name, tmp_path / member.name)


def test_what_cannot_be_swept_is_refused(members: list[Member], tmp_path: Path) -> None:
    output = Location.of(tmp_path / "out")
    with pytest.raises(InputError, match="different names"):
        run_sweep([members[0], members[0]], output)
    other = Member("other", members[0].recipe, replace(OPTIONS, batch=64))
    with pytest.raises(InputError, match="may differ in their sizes"):
        run_sweep([members[0], other], output)
    assert not (tmp_path / "out").exists()


def killing_save() -> Any:
    """Stands in for Checkpoints.save: the process ends when the first member has its second checkpoint."""
    save = Checkpoints.save

    def saved(self: Checkpoints, *arguments: Any) -> Any:
        committed = save(self, *arguments)
        if committed.step == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return committed

    return saved


if __name__ == "__main__":
    Checkpoints.save = killing_save()  # type: ignore[method-assign]
    run_sweep(members_on(sys.argv[1])[:2], Location.of(sys.argv[2]))
