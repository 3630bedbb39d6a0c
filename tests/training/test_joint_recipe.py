"""The joint recipe on real cells of two donors: which pairs it sees, learning, judging, resuming."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import models
from engine.captions import CaptionSource
from engine.models import joint
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipe import Batch, Share
from engine.training.recipes.joint import (
    JointRecipe,
    Split,
    Values,
    features,
    make_features,
    plan,
    require_features,
)
from engine.training.recipes.joint.pairs import Pairs, pairs_of
from engine.training.run import run_training
from storage.cells import CellStore
from storage.commits import Dataset, MemberPlan
from storage.embeddings import Embeddings
from storage.errors import InputError
from storage.locations import Location
from tests.training.test_run import Interruption, interrupt_at

MAKE_MEMBER = features.make_text_member
BY_DONOR = Split(hold_out=Values("donor", ("107",)))


@pytest.fixture
def towers(donor_cells: str, cell_tower: str, text_tower: str) -> tuple[str, str, str]:
    return donor_cells, cell_tower, text_tower


def recipe_of(
    towers: tuple[str, str, str], output: Path, caption: str = "cell_type", **others: Any
) -> JointRecipe:
    given = {"width": 16, "dims": (4, 16), "split": BY_DONOR, "judge_every": 20, **others}
    cells, cell_tower, text_tower = towers
    return plan(cells, CaptionSource(caption), cell_tower, text_tower, Location.of(output), **given).recipe


def options(**changes: Any) -> TrainingOptions:
    given = {"steps": 60, "batch": 64, "workers": 0, "learning_rate": 5e-3, "warmup_steps": 4, **changes}
    return TrainingOptions(**given)


def batches(recipe: JointRecipe, share: Share, start_step: int, count: int) -> list[Batch]:
    module = recipe.build(seed=0)
    return list(islice(recipe.batches(module, start_step, share, torch.device("cpu")), count))


def test_pairs_are_cells_with_their_captions_and_none_that_is_held_out(
    towers: tuple[str, str, str], tmp_path: Path
) -> None:
    recipe = recipe_of(towers, tmp_path, locking="uu", leave_out=(Values("cell_type", ("B cell",)),))
    pairs, obs = Pairs(recipe), CellStore.open(towers[0]).obs()
    assert set(obs["donor"].iloc[pairs.learnt]) == {"101"}
    assert set(obs["donor"].iloc[pairs.held_out]) == {"107"}
    assert "B cell" not in set(obs["cell_type"].iloc[np.r_[pairs.learnt, pairs.held_out]])
    batch = batches(recipe, Share(0, 1, len(pairs.learnt), 1, seed=0), 0, 1)[0]
    order = pairs.reading(len(pairs.learnt), 0).order.cells(0, len(pairs.learnt))
    assert np.array_equal(np.sort(order), pairs.learnt)
    said = [pairs.captions.texts[number] for number in batch["captions_B"]]
    assert said == obs["cell_type"].iloc[order].tolist()
    assert len(batch["text_ids_BS"]) == len(set(said))  # each text once
    tokens = pairs.cells(recipe.build(0).model, order[:3])
    n_tokens = int(tokens["offsets"][-1])
    assert torch.equal(batch["ids_T"][:n_tokens], tokens["ids_T"])


def test_batches_go_on_where_another_stopped_and_workers_share_them_out(
    towers: tuple[str, str, str], tmp_path: Path
) -> None:
    recipe = recipe_of(towers, tmp_path, locking="uu", thinning=0.5)
    whole = batches(recipe, Share(0, 1, 32, 1, seed=3), 0, 6)
    parts = [batches(recipe, Share(rank, 2, 32, 1, seed=3), 4, 2) for rank in range(2)]
    for step in range(2):
        together = torch.cat([part[step]["ids_T"] for part in parts])
        assert torch.equal(together, whole[4 + step]["ids_T"])


def test_locked_towers_learn_from_stored_features(
    towers: tuple[str, str, str], cell_features: str, tmp_path: Path
) -> None:
    output = Location.of(tmp_path)
    recipe = recipe_of(towers, tmp_path, cell_features=cell_features, weigh_by_radius=True)
    require_features(recipe, cell_features)
    make_features(recipe, output)
    module = recipe.build(seed=0)
    assert not any("tower" in name for name, _ in module.named_parameters())
    run_training(recipe, options(checkpoint_every=1000), output)
    table = read_metrics(output)
    assert table is not None
    judged = [row for row in table.to_pylist() if row["held_out_score"] is not None]
    assert [row["step"] for row in judged] == [19, 39, 59]
    assert judged[-1]["held_out_loss"] < judged[0]["held_out_loss"]
    model, obs = joint.load(tmp_path), CellStore.open(towers[0]).obs()
    pairs = pairs_of(recipe)
    held = pairs.held_out
    assert pairs.cell_features is not None
    of_cells = torch.from_numpy(pairs.cell_features.rows(held))
    labels = pairs.captions.texts
    scores = joint.scores(model.embed_texts(labels), model.project_cells(of_cells))
    right = np.array(labels)[scores.argmax(0)] == obs["cell_type"].iloc[held]
    best = max(row["held_out_score"] for row in judged)
    published = next(row for row in judged if row["held_out_score"] == best)
    # The published model, folded and read again, answers as the best checkpoint did.
    assert right.mean() == pytest.approx(published["held_out_cell_to_text_at_1"], abs=0.011)
    assert right.mean() > obs["cell_type"].iloc[held].value_counts(normalize=True).iloc[0] + 0.1
    tower, kept = models.load(towers[1]).state_dict(), model.cell_tower.state_dict()
    assert all(torch.equal(tower[name], kept[name]) for name in tower)


@pytest.mark.parametrize(("locking", "lora", "zero"), [("uU", 0, 0), ("UU", 2, 3)])
def test_a_killed_run_goes_on_exactly(
    towers: tuple[str, str, str], tmp_path: Path, locking: str, lora: int, zero: int
) -> None:
    others: dict[str, Any] = {"locking": locking, "head": "residual", "projection_steps": 2, "judge_every": 4}
    others |= {"cell_lora": lora, "text_lora": lora}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    given = options(steps=6, batch=32, zero=zero, checkpoint_every=3)
    run_training(recipe_of(towers, whole, **others), given, Location.of(whole))
    with pytest.raises(Interruption):
        run_training(recipe_of(towers, cut, **others), given, Location.of(cut), progress=interrupt_at(5))
    report = run_training(recipe_of(towers, cut, **others), given, Location.of(cut))
    assert report.first_step == 4
    columns = ["step", "loss", "gradient_norm", "held_out_loss", "held_out_score"]
    curves = [read_metrics(Location.of(place)) for place in (whole, cut)]
    assert curves[0] is not None
    assert curves[1] is not None
    assert curves[0].select(columns).equals(curves[1].select(columns))
    one, other = joint.load(whole).state_dict(), joint.load(cut).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_does_not_go_on_with_frozen_weights_that_are_others(
    towers: tuple[str, str, str], tmp_path: Path
) -> None:
    cells, cell_tower, text_tower = towers
    copied, output = tmp_path / "tower", tmp_path / "out"
    shutil.copytree(text_tower, copied)
    recipe = recipe_of((cells, cell_tower, str(copied)), output, locking="UU", text_lora=2)
    given = options(steps=2, warmup_steps=0, batch=16, checkpoint_every=1)
    with pytest.raises(Interruption):
        run_training(recipe, given, Location.of(output), progress=interrupt_at(1))
    weights = {name: weight.clone() for name, weight in load_file(copied / "model.safetensors").items()}
    weights["encoder.layer.0.attention.self.query.weight"][0, 0] += 1
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(InputError, match="weights that do not learn are not those this run began with"):
        run_training(recipe, given, Location.of(output))


def test_towers_stand_still_while_heads_warm_up(towers: tuple[str, str, str], tmp_path: Path) -> None:
    before = models.load(towers[1]).state_dict()
    for steps, moved in ((2, False), (3, True)):
        output = tmp_path / str(steps)
        recipe = recipe_of(towers, output, locking="UL", projection_steps=2, patience=0)
        make_features(recipe, Location.of(output))
        run_training(
            recipe, options(steps=steps, warmup_steps=0, batch=16, decay="constant"), Location.of(output)
        )
        after = joint.load(output).cell_tower.state_dict()
        changed = any(not torch.equal(before[name], after[name]) for name in before)
        assert changed == moved


def test_features_of_captions_are_committed_a_member_at_a_time(
    towers: tuple[str, str, str], cell_features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "TEXTS_PER_MEMBER", 2)
    monkeypatch.setattr(features, "MEMBERS_FOR_TASKS", 100)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    recipe = recipe_of(towers, whole, locking="LL", cell_features=cell_features)
    make_features(recipe, Location.of(whole))
    made = make_counted(monkeypatch, fails_at=2)
    with pytest.raises(Interruption):
        make_features(recipe_of(towers, cut, locking="LL", cell_features=cell_features), Location.of(cut))
    again = make_counted(monkeypatch)
    make_features(recipe_of(towers, cut, locking="LL", cell_features=cell_features), Location.of(cut))
    assert len(made) + len(again) == 3  # five captions, each once
    one, other = (Embeddings.open(str(place / "features" / "texts")).X for place in (whole, cut))
    assert np.array_equal(one, other)


def make_counted(monkeypatch: pytest.MonkeyPatch, fails_at: int | None = None) -> list[str]:
    """What members of the captions' features are made from now on; the run may be killed instead of one."""
    made: list[str] = []

    def make(text_tower: str, max_tokens: int, dataset: Dataset, member: MemberPlan, texts: list[str]) -> int:
        if len(made) == fails_at:
            raise Interruption
        made.append(member.key)
        return MAKE_MEMBER(text_tower, max_tokens, dataset, member, texts)

    monkeypatch.setattr(features, "make_text_member", make)
    return made


def test_training_ends_when_held_out_cells_are_found_no_better(
    towers: tuple[str, str, str], cell_features: str, tmp_path: Path
) -> None:
    recipe = recipe_of(towers, tmp_path, cell_features=cell_features, judge_every=5, patience=2, locking="LL")
    make_features(recipe, Location.of(tmp_path))
    given = options(steps=500, learning_rate=1e-12, warmup_steps=0, keep=1)  # nothing is learnt
    report = run_training(recipe, given, Location.of(tmp_path))
    assert report.steps < 60
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert kept == [f"step_{report.steps - 10:08d}", f"step_{report.steps:08d}"]  # the best, and the newest
    assert not run_training(recipe, given, Location.of(tmp_path)).did_work


def test_what_cannot_be_meant_is_refused(
    towers: tuple[str, str, str], cell_features: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has no obs column 'colour'"):
        recipe_of(towers, tmp_path, caption="colour")
    with pytest.raises(InputError, match="a cell tower that learns"):
        recipe_of(towers, tmp_path, locking="UL", cell_features=cell_features)
    with pytest.raises(InputError, match="needs the features of a locked tower"):
        recipe_of(towers, tmp_path, locking="UU", weigh_by_radius=True)
    with pytest.raises(InputError, match=r"--thinning 0\.5"):
        recipe_of(towers, tmp_path, thinning=0.5)
    with pytest.raises(InputError, match="no cell has donor 999"):
        recipe_of(towers, tmp_path, split=Split(hold_out=Values("donor", ("999",))))
    with pytest.raises(InputError, match=r"embeddings differ"):
        require_features(recipe_of(towers, tmp_path, cell_layer=1), cell_features)
