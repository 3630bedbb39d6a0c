"""The encoder recipe: which cells and tokens a step sees, learning, and the model directory it leaves."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import models
from engine.models.errors import ModelError
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipe import Batch, Share
from engine.training.recipes.encoder import Architecture, EncoderRecipe, EncoderSize, plan
from engine.training.run import run_training
from storage.errors import InputError
from storage.locations import Location
from tests.training.inputs import gene_ids

SMALL = EncoderSize(n_layers=1, d_model=16, n_heads=2, max_tokens=64)
MEDIANS = {gene: 1.0 + number % 7 for number, gene in enumerate(gene_ids())}
CPU = torch.device("cpu")


def recipe_of(cells: str, architecture: Architecture = "tahoe", **others: Any) -> EncoderRecipe:
    return plan(cells, architecture, size=SMALL, medians=MEDIANS, **others)


def batches(recipe: EncoderRecipe, share: Share, start_step: int, count: int) -> list[Batch]:
    module = recipe.build(seed=0)
    return list(islice(recipe.batches(module, start_step, share, CPU), count))


def test_batches_go_on_where_another_stopped(cells: str) -> None:
    recipe, share = recipe_of(cells), Share(1, 2, batch=16, accumulation=2, seed=3)
    whole = batches(recipe, share, 0, 14)
    for one, other in zip(whole[10:], batches(recipe, share, 5, 4), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_workers_and_micro_batches_share_out_the_same_cells(cells: str) -> None:
    recipe = recipe_of(cells)
    whole = batches(recipe, Share(0, 1, batch=16, accumulation=1, seed=3), 4, 1)[0]
    first, second = (batches(recipe, Share(rank, 2, 16, 2, 3), 4, 2) for rank in range(2))
    parts = [first[0], second[0], first[1], second[1]]
    assert torch.equal(torch.cat([part["targets_T"] for part in parts]), whole["targets_T"])
    assert all(len(part["offsets"]) == 5 for part in parts)


def test_an_epoch_sees_every_cell_and_the_next_draws_other_genes(cells: str) -> None:
    recipe, share = recipe_of(cells, max_tokens=8), Share(0, 1, batch=300, accumulation=1, seed=0)
    first, second = batches(recipe, share, 0, 2)
    assert recipe.tokens(first) == recipe.tokens(second) <= 300 * 8
    assert not torch.equal(first["targets_T"].sort().values, second["targets_T"].sort().values)


def test_max_cells_limits_the_cells(cells: str) -> None:
    recipe = recipe_of(cells, max_cells=10)
    share = Share(0, 1, batch=10, accumulation=1, seed=0)
    first, second = batches(recipe, share, 0, 2)
    assert first["offsets"][-1] == second["offsets"][-1]  # the same ten cells in another order


def test_balanced_batches_hold_other_cells(cells: str) -> None:
    share = Share(0, 1, batch=60, accumulation=1, seed=0)
    plain, even = (recipe_of(cells, balance=balance) for balance in (None, "kind"))
    assert plain.lineage() != even.lineage()
    assert not torch.equal(*(batches(recipe, share, 0, 1)[0]["ids_T"][:200] for recipe in (plain, even)))
    with pytest.raises(InputError, match="it has kind"):
        recipe_of(cells, balance="tissue")
    with pytest.raises(InputError, match="at least 1"):
        recipe_of(cells, balance="kind", balance_temperature=0.1)


@pytest.mark.parametrize("architecture", ["tahoe", "geneformer"])
def test_training_learns_and_the_directory_loads(
    cells: str, tmp_path: Path, architecture: Architecture
) -> None:
    recipe = recipe_of(cells, architecture)
    options = TrainingOptions(steps=40, batch=32, workers=0, learning_rate=3e-3, warmup_steps=4)
    run_training(recipe, options, Location.of(tmp_path))
    table = read_metrics(Location.of(tmp_path))
    assert table is not None
    losses = table["loss"].to_pylist()
    assert sum(losses[-5:]) < 0.99 * sum(losses[:5])
    encoder = models.load(tmp_path)
    assert encoder.n_layers == 1
    assert set(gene_ids()) <= set(encoder.tokeniser.vocabulary)
    fresh = recipe.build(options.seed).encoder.state_dict()
    assert any(not torch.equal(weight, fresh[name]) for name, weight in encoder.state_dict().items())


def test_training_continues_a_model(cells: str, encoder_directory: Path, tmp_path: Path) -> None:
    recipe = plan(cells, "tahoe", model=str(encoder_directory))
    run_training(
        recipe, TrainingOptions(steps=1, batch=8, workers=0, learning_rate=1e-9), Location.of(tmp_path)
    )
    before, after = models.load(encoder_directory).state_dict(), models.load(tmp_path).state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_lineage_names_the_cells_the_size_and_the_model(cells: str, encoder_directory: Path) -> None:
    fresh = recipe_of(cells).lineage()
    assert fresh["model"] == {"n_layers": 1, "d_model": 16, "n_heads": 2, "max_tokens": 64}
    continued = plan(cells, "tahoe", model=str(encoder_directory)).lineage()
    assert continued["cells"] == fresh["cells"]
    assert continued["model"] != fresh["model"]


def test_what_cannot_be_trained_is_refused(cells: str, encoder_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--arch is geneformer"):
        plan(cells, "geneformer", model=str(encoder_directory))
    with pytest.raises(InputError, match="--max-tokens 5000"):
        plan(cells, "tahoe", model=str(encoder_directory), max_tokens=5000)
    with pytest.raises(ModelError, match="preset '80b'"):
        plan(cells, "tahoe", size=EncoderSize(preset="80b"))
    with pytest.raises(InputError):
        plan(str(tmp_path / "nothing"), "tahoe")
