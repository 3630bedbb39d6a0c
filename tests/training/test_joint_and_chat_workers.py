"""Two workers, whatever ZeRO shares out between them, train the joint and the chat model of one process."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from engine.captions import CaptionSource
from engine.models import chat, joint
from engine.training.checkpoint import Checkpoints
from engine.training.loop import train
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.output import begin
from engine.training.recipes.chat import ChatRecipe
from engine.training.recipes.joint import JointRecipe, Split, Values, plan
from engine.training.run import room_for, train_on_ray
from engine.training.sharding import Worker, join_workers
from storage.locations import Location
from tests.retrieval.blood import Blood, blood, small_counts
from tests.training.chat_inputs import language_model_for, recipe_of, spoken
from tests.training.processes import start_processes

__all__ = ["blood", "small_counts"]

Alone = Callable[[str], Path]
Stage = Literal[0, 1, 2, 3]
ON_RAY: dict[str, tuple[Stage, ...]] = {"lora": (3,), "towers": (0,), "projector": (1,), "whole": (2,)}
STEPS = 3
# Relative differences that rounding makes; the norm is of gradients that cancel out in sums.
CURVE = {"loss": 2e-5, "gradient_norm": 1e-4, "held_out_loss": 2e-5, "held_out_score": 2e-5}
JOINT: dict[str, dict[str, Any]] = {
    # Low-rank towers after the heads' warm-up.
    "lora": {"locking": "UU", "cell_lora": 2, "text_lora": 2, "projection_steps": 1},
    # Whole towers, one from random numbers; heads with BatchNorm.
    "towers": {"locking": "uU", "head": "residual"},
}
# Five captions: a worker whose pairs have all of them reads two chunks of texts, others one.
OBJECTIVES = {
    "lora": joint.ObjectiveOptions(kind="siglip", chunk=4),
    "towers": joint.ObjectiveOptions(kind="infonce", chunk=4),
}
CHAT: dict[str, dict[str, Any]] = {
    "projector": {"stage": "projector"},
    "additions": {"stage": "full", "lora": 2},
    "whole": {"stage": "full"},
}


@dataclass(frozen=True)
class Case:
    """One training. kill_after: end it after the checkpoint of that step, as if killed."""

    output: Path
    recipe: JointRecipe | ChatRecipe
    zero: Stage
    kill_after: int | None = None

    def options(self, workers: int) -> TrainingOptions:
        # Weights with no gradient but rounding's (attention's biases of keys) are not to be moved by it.
        return TrainingOptions(
            steps=STEPS, batch=16, workers=workers, zero=self.zero, learning_rate=5e-3, epsilon=1e-4, keep=1
        )


class Killed(Exception):
    """Raised on every worker at once."""


def train_case(case: Case, worker: Worker) -> None:
    def after_checkpoint(metrics: dict[str, float], committed: Any) -> None:
        if committed.step == case.kill_after:
            raise Killed

    options, output = case.options(worker.world), Location.of(case.output)
    if worker.leads:
        begin(output, case.recipe, options, overwrite=False)
    dist.barrier()
    try:
        train(case.recipe, options, output, worker, ignore, after_checkpoint)
    except Killed:
        dist.barrier()


def run_rank(rank: int, rendezvous: str, cases: list[Case]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    worker = join_workers(rank, 2, 1)
    train_cases(cases, worker)
    dist.destroy_process_group()


def train_cases(cases: list[Case], worker: Worker, *_: Any) -> None:
    for case in cases:
        train_case(case, worker)


def ignore(*_: Any) -> None:
    """Nobody to report to."""


@pytest.fixture(scope="module")
def still_towers(
    cell_tower: str, text_tower: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """The towers without dropout, whose masks are others on another number of workers.

    The text tower's random layers are made larger: behind small ones texts differ by rounding, which
    standardisation and BatchNorm then make large.
    """
    folder = tmp_path_factory.mktemp("still")
    for name, tower in (("cell", cell_tower), ("text", text_tower)):
        shutil.copytree(tower, folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (folder / name / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "text" / "model.safetensors")
    larger = {name: weight * (10 if "encoder.layer" in name else 1) for name, weight in weights.items()}
    save_file(larger, folder / "text" / "model.safetensors")
    return str(folder / "cell"), str(folder / "text")


@pytest.fixture(scope="module")
def joint_recipes(
    donor_cells: str, still_towers: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, JointRecipe]:
    """Of cells of one donor, judged by the other's."""
    output, (cell, text) = Location.of(tmp_path_factory.mktemp("features")), still_towers
    split = Split(hold_out=Values("donor", ("107",)))
    given: dict[str, Any] = {"width": 16, "dims": (4, 16), "split": split, "judge_every": 2, "patience": 0}
    return {
        name: plan(
            donor_cells,
            CaptionSource("cell_type"),
            cell,
            text,
            output,
            objective=OBJECTIVES[name],
            **given,
            **how,
        ).recipe
        for name, how in JOINT.items()
    }


@pytest.fixture(scope="module")
def chat_recipes(blood: Blood, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatRecipe]:
    """Of conversations about real cells."""
    folder = tmp_path_factory.mktemp("chat")
    language_model = language_model_for(blood.store, folder / "language")
    talk = spoken(blood.store, folder / "talk", pairs=40)
    given = {"embeddings": blood.embeddings, "held_out_share": 0.1, "judge_every": 2, "patience": 0}
    return {
        name: recipe_of(talk, blood.joint, language_model, folder, **given, **how)
        for name, how in CHAT.items()
    }


@pytest.fixture(scope="module")
def recipes(
    joint_recipes: dict[str, JointRecipe], chat_recipes: dict[str, ChatRecipe]
) -> dict[str, JointRecipe | ChatRecipe]:
    return {**joint_recipes, **chat_recipes}


@pytest.fixture(scope="module")
def alone(recipes: dict[str, JointRecipe | ChatRecipe], tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """What each recipe ends as in this process, trained when it is asked for."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def train_alone(name: str) -> Path:
        train_case(Case(folder / name, recipes[name], 0), join_workers(0, 1, 1))
        return folder / name

    return train_alone


def trained_state(output: Path) -> dict[str, torch.Tensor]:
    """What learnt, as the last checkpoint has it."""
    checkpoints = Checkpoints(Location.of(output), keep=1)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == STEPS
    return dict(checkpoints.stored(newest))


def published_state(directory: Path) -> dict[str, torch.Tensor]:
    """Of the whole model, towers or language model and all."""
    if not chat.is_chat(directory):
        return joint.load(directory).state_dict()
    model = chat.load(directory)
    return {**model.projector.state_dict(), **model.language_model.state_dict()}


def assert_same_training(one: Path, other: Path) -> None:
    curves = [read_metrics(Location.of(output)) for output in (one, other)]
    for column, tolerance in CURVE.items():
        ours, theirs = (curve[column].drop_null().to_pylist() for curve in curves if curve is not None)
        assert len(ours) in (STEPS, STEPS // 2 + 1)  # judged after every second step and the last one
        assert theirs == pytest.approx(ours, rel=tolerance, nan_ok=True), f"{column} of {other}"
    ours, theirs = trained_state(one), trained_state(other)
    assert set(ours) == set(theirs)
    for key, weight in ours.items():
        torch.testing.assert_close(theirs[key], weight, rtol=1e-5, atol=2e-5, msg=f"{key} of {other}")
    ours, theirs = published_state(one), published_state(other)
    assert set(ours) == set(theirs)
    for key, weight in ours.items():
        # Heads have small deviations of features folded in, and so large numbers.
        most = max(float(weight.abs().max()), 1.0)
        torch.testing.assert_close(
            theirs[key] / most, weight / most, rtol=0, atol=1e-4, msg=f"{key} of {other}"
        )


def test_workers_train_what_one_process_trains(
    recipes: dict[str, JointRecipe | ChatRecipe], alone: Alone, tmp_path: Path
) -> None:
    """Two are begun by two workers with ZeRO-3, killed, and ended by one without."""
    cut = [Case(tmp_path / name, recipes[name], 3, kill_after=2) for name in ("lora", "additions")]
    cases = [*cut, Case(tmp_path / "towers", recipes["towers"], 2)]
    start_processes(run_rank, (str(tmp_path / "rendezvous"), cases), 2)
    for case in cut:
        # The language model, and the towers, are read from where they came from.
        record = json.loads((case.output / "checkpoints/step_00000002/committed.json").read_text())
        of_towers = [key for key in record["names"] if "tower" in key or "language_model" in key]
        assert of_towers
        assert all(key.endswith(("a_RI", "b_OR")) for key in of_towers)
        train_case(replace(case, zero=0, kill_after=None), join_workers(0, 1, 1))
    for case in cases:
        assert_same_training(alone(case.output.name), case.output)


@pytest.mark.slow
def test_workers_of_ray_train_what_one_process_trains(
    ray_cluster: None, recipes: dict[str, JointRecipe | ChatRecipe], alone: Alone, tmp_path: Path
) -> None:
    """A recipe with each stage of ZeRO, one after the other in the same workers."""
    cases = [
        Case(tmp_path / f"{name}{zero}", recipes[name], zero)
        for name, stages in ON_RAY.items()
        for zero in stages
    ]
    options = cases[0].options(2)
    train_on_ray(
        partial(train_cases, cases), options, Location.of(tmp_path / "ray"), room_for(0, options), ignore
    )
    for case in cases:
        assert_same_training(alone(case.output.name[:-1]), case.output)
