"""The sparse autoencoder recipe: statistics, dead features, learning, and a directory that SAELens opens."""

from pathlib import Path

import pytest
import torch
from sae_lens import SAE

from engine.models import sae
from engine.training.activation_sources import CachedActivations
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipe import Share
from engine.training.recipes.sae import SparseRecipe, activation_statistics
from engine.training.run import run_training
from storage.activations import ActivationCache
from storage.locations import Location

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(cache: str) -> SparseRecipe:
    return SparseRecipe(source=CachedActivations.plan(cache, None), width=64, k=4, dead_after_tokens=4000)


@pytest.fixture(scope="module")
def acts(cache: str) -> torch.Tensor:
    opened = ActivationCache.open(cache)
    return torch.cat([opened.read("resid_post_0", member.key).acts for member in opened.members])


@pytest.fixture(scope="module")
def trained(recipe: SparseRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sae") / "out"
    options = TrainingOptions(
        steps=250, batch=256, workers=0, learning_rate=3e-3, decay="linear", decay_from=0.8
    )
    run_training(recipe, options, Location.of(output))
    return output


def unexplained(acts: torch.Tensor, reconstruction: torch.Tensor) -> float:
    return float((acts - reconstruction).square().sum() / (acts - acts.mean(0)).square().sum())


def test_statistics_centre_and_scale_to_the_width(recipe: SparseRecipe, acts: torch.Tensor) -> None:
    found = activation_statistics(recipe.source, Share(0, 1, 500, 1, 0), CPU)
    assert torch.allclose(found.mean_D, acts.mean(0), atol=2e-3)
    centred = (acts - found.shift_D) * found.scale
    assert centred.square().sum(1).mean().item() == pytest.approx(24, rel=2e-3)


def test_training_explains_the_activations(trained: Path) -> None:
    table = read_metrics(Location.of(trained))
    assert table is not None
    rows = table.to_pylist()
    assert rows[0]["fvu"] > 0.5
    assert rows[-1]["fvu"] < 0.25
    assert rows[-1]["l0"] <= 4
    assert rows[0]["mse"] == pytest.approx(rows[0]["fvu"], rel=0.1)  # the loss is in units of the variance


def test_the_directory_takes_raw_activations_in_saelens_and_here(trained: Path, acts: torch.Tensor) -> None:
    theirs, ours = SAE.load_from_disk(str(trained), device="cpu"), sae.load(trained)
    assert theirs.cfg.architecture() == "topk"
    assert theirs.cfg.metadata.hook_name == "resid_post_0"
    with torch.no_grad():
        reconstruction = theirs(acts)
        assert unexplained(acts, reconstruction) < 0.25
        assert torch.allclose(theirs.encode(acts), ours.encode(acts), atol=1e-4)
        assert torch.allclose(reconstruction, ours(acts), atol=1e-4)


def test_features_are_dead_after_a_silence_in_tokens(recipe: SparseRecipe) -> None:
    module = recipe.build(seed=0)
    module.objective.sae.b_enc.data[:32] = -1e6  # the first half can never fire
    batch = {
        "x_BD": torch.randn(1000, 24, generator=torch.Generator().manual_seed(0)),
        "gene_B": torch.zeros(1000, dtype=torch.int64),
        "step": torch.tensor(0),
    }
    dead = [float(module(batch).metrics["dead_fraction"]) for _ in range(6)]
    assert dead == [0, 0, 0, 0, 0.5, 0.5]  # 4000 tokens have passed before the fifth batch
    assert module.silent_tokens[:32].eq(6000).all()
    assert module.silent_tokens[32:].eq(0).all()


@pytest.mark.parametrize("zero", [1, 3])
def test_sharded_training_gives_the_same_autoencoder(recipe: SparseRecipe, tmp_path: Path, zero: int) -> None:
    for stage in (0, zero):
        options = TrainingOptions(steps=10, batch=256, workers=0, learning_rate=3e-3, zero=stage)  # type: ignore[arg-type]
        run_training(recipe, options, Location.of(tmp_path / str(stage)))
    one, other = sae.load(tmp_path / "0"), sae.load(tmp_path / str(zero))
    for name, weight in one.state_dict().items():
        assert torch.allclose(weight, other.state_dict()[name], atol=1e-5), name
