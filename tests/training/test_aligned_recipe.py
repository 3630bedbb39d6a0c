"""Crosscoders and transcoders through the whole recipe: they learn, and take raw activations when written."""

import json
from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

from engine.models import sae
from engine.models.sae import crosscoder
from engine.training.activation_sources import CachedActivations
from engine.training.aligned_activations import AlignedSource, SeveralCaches, SeveralHooks
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipes.sae import AlignedArchitecture, AlignedRecipe
from engine.training.run import run_training
from storage.activations import ActivationCache
from storage.activations.aligned import AlignedCaches
from storage.errors import InputError
from storage.locations import Location
from tests.training.test_run import Interruption, interrupt_at

OPTIONS = TrainingOptions(
    steps=150, batch=256, workers=0, learning_rate=3e-3, decay="linear", decay_from=0.8, checkpoint_every=60
)


def recipe(
    source: AlignedSource, architecture: AlignedArchitecture = "crosscoder", k: int = 3
) -> AlignedRecipe:
    return AlignedRecipe(
        source=source, architecture=architecture, width=48, k=k, dead_after_tokens=3000, anneal_steps=10
    )


@pytest.fixture(scope="module")
def hooks(two_hooks: str) -> SeveralHooks:
    names = ("resid_post_0", "resid_post_1")
    return SeveralHooks(tuple(CachedActivations.plan(two_hooks, name) for name in names))


@pytest.fixture(scope="module")
def acts(two_hooks: str) -> list[torch.Tensor]:
    opened = ActivationCache.open(two_hooks)
    return [
        torch.cat([opened.read(hook, member.key).acts for member in opened.members]) for hook in opened.hooks
    ]


@pytest.fixture(scope="module")
def trained(hooks: SeveralHooks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("crosscoder") / "out"
    run_training(recipe(hooks), OPTIONS, Location.of(output))
    return output


@torch.no_grad()
def unexplained(x_BD: torch.Tensor, r_BD: torch.Tensor) -> float:
    return float((x_BD - r_BD).square().sum() / (x_BD - x_BD.mean(0)).square().sum())


def test_a_crosscoder_learns_both_hooks_and_takes_raw_activations(
    trained: Path, acts: list[torch.Tensor]
) -> None:
    loaded = crosscoder.load_crosscoder(trained)
    assert [source.name for source in loaded.sources] == ["resid_post_0", "resid_post_1"]
    reported = loaded.metadata["reference_fvu_of_sources"]
    with torch.no_grad():
        rebuilt, active = loaded(acts), loaded.encode(acts) > 0
    for x_BD, r_BD, fvu in zip(acts, rebuilt, reported, strict=True):
        assert unexplained(x_BD, r_BD) == pytest.approx(fvu, rel=0.1)
        assert fvu < 0.3
    assert float(active.sum() / len(active)) == pytest.approx(3, rel=0.05)
    # Every feature of this cache is at both hooks.
    share_F = loaded.shares()[0][active.sum(0) > 50]
    assert float(((share_F > 0.3) & (share_F < 0.7)).float().mean()) > 0.8


def test_the_curve_has_an_fvu_for_each_place(trained: Path) -> None:
    table = read_metrics(Location.of(trained))
    assert table is not None
    first, *_, last = table.to_pylist()
    for name in ("fvu_0_resid_post_0", "fvu_1_resid_post_1"):
        assert last[name] < 0.3 < first[name]
    both = (last["fvu_0_resid_post_0"] + last["fvu_1_resid_post_1"]) / 2
    assert last["fvu"] == pytest.approx(both, rel=0.1)  # each has half of the variance


def test_each_place_is_measured_by_itself(trained: Path, acts: list[torch.Tensor]) -> None:
    metadata = json.loads((trained / "cfg.json").read_text())["metadata"]
    for x_BD, scale in zip(acts, metadata["input_scales"], strict=True):
        assert scale == pytest.approx(float((16 / x_BD.var(0, correction=0).sum()).sqrt()), rel=0.02)
    assert list(metadata["activations"]) == ["0_resid_post_0", "1_resid_post_1"]
    assert [source["model"] for source in metadata["sources"]] == ["a", "a"]


def test_a_resumed_crosscoder_is_the_same(trained: Path, hooks: SeveralHooks, tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    with pytest.raises(Interruption):
        run_training(recipe(hooks), OPTIONS, output, progress=interrupt_at(70))
    assert run_training(recipe(hooks), OPTIONS, output).first_step == 60
    weights, others = (load_file(path / "sae_weights.safetensors") for path in (trained, tmp_path))
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
    assert (trained / "cfg.json").read_text() == (tmp_path / "cfg.json").read_text()


def test_a_crosscoder_of_two_models(two_models: tuple[str, str], tmp_path: Path) -> None:
    run_training(
        recipe(SeveralCaches.plan(two_models, [None, None], blocks_in_buffer=2)),
        OPTIONS,
        Location.of(tmp_path),
    )
    loaded = crosscoder.load_crosscoder(tmp_path)
    assert [(source.name, source.d_in) for source in loaded.sources] == [
        ("a resid_post_3", 20),
        ("b resid_post_5", 12),
    ]
    aligned = AlignedCaches(
        [ActivationCache.open(path) for path in two_models], ["resid_post_3", "resid_post_5"]
    )
    parts = aligned.read(0).acts
    with torch.no_grad():
        rebuilt = loaded(parts)
    for x_BD, r_BD, fvu in zip(parts, rebuilt, loaded.metadata["reference_fvu_of_sources"], strict=True):
        assert unexplained(x_BD, r_BD) == pytest.approx(fvu, rel=0.2)
        assert fvu < 0.4


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_saelens_opens_a_transcoder(
    architecture: AlignedArchitecture, hooks: SeveralHooks, acts: list[torch.Tensor], tmp_path: Path
) -> None:
    run_training(recipe(hooks, architecture), OPTIONS, Location.of(tmp_path))
    ours, theirs = sae.load(tmp_path), SAE.load_from_disk(str(tmp_path), device="cpu")
    source_BD, target_BD = acts
    assert theirs.cfg.architecture() == f"jumprelu_{architecture}"
    assert theirs.cfg.metadata.hook_name == "resid_post_0"
    assert theirs.cfg.metadata.hook_name_out == "resid_post_1"
    with torch.no_grad():
        r_BD = ours(source_BD)
        assert torch.equal(ours.encode(source_BD) > 0, theirs.encode(source_BD) > 0)
        assert torch.allclose(r_BD, theirs(source_BD), atol=1e-4)
    metadata = ours.config.metadata
    assert unexplained(target_BD, r_BD) == pytest.approx(metadata["reference_fvu"], rel=0.1)
    assert metadata["reference_fvu"] < (0.3 if architecture == "transcoder" else 0.1)


def test_sizes_that_cannot_be_are_refused(hooks: SeveralHooks) -> None:
    sizes = {"source": hooks, "architecture": "crosscoder", "width": 8, "k": 2, "dead_after_tokens": 9}
    for changes, reason in (
        ({"k": 9}, "--k 9: give 1 to --width"),
        ({"outlier_norm": 0.5}, "--outlier-norm 0.5"),
        ({"width": 1 << 30}, "at most 33554432 features for 32 dimensions"),
    ):
        with pytest.raises(InputError, match=reason):
            AlignedRecipe(**(sizes | changes))  # type: ignore[arg-type]
