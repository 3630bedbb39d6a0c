from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.perturbation.predictor import Predictor
from engine.training.options import TrainingOptions
from engine.training.recipe import Share
from engine.training.recipes.perturbation import PerturbationRecipe, plan
from engine.training.recipes.perturbation.measured import ScreenSource
from engine.training.run import run_training
from storage.errors import InputError
from storage.locations import Location
from tests.perturbation.screens import small_store

SIZES = {
    "d_model": 16,
    "n_layers": 1,
    "d_state": 8,
    "headdim": 8,
    "condition_dim": 16,
    "gene_identity_dim": 8,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ScreenSource:
    return ScreenSource(small_store(tmp_path_factory.mktemp("cells")), "target", "non-targeting", "line")


def _recipe(source: ScreenSource, **more: Any) -> PerturbationRecipe:
    return plan(source, "perturbation", held_out=["G1"], sizes=SIZES, n_codes=4, **more)


def _first(recipe: PerturbationRecipe, share: Share, n: int, step: int = 0) -> list[dict[str, torch.Tensor]]:
    module = recipe.build(0)
    stream: Iterator[dict[str, torch.Tensor]] = recipe.batches(module, step, share, torch.device("cpu"))
    return list(islice(stream, n))


def test_batches_hold_no_held_out_target_and_every_condition_once_an_epoch(source: ScreenSource) -> None:
    recipe = _recipe(source)
    module = recipe.build(0)
    held = module.models[0].target_ids(["G1"])[0]  # type: ignore[operator, index, union-attr]
    batches = _first(recipe, Share(0, 1, 2, 1, 0), 4)
    seen = torch.cat([batch["targets_BK"] for batch in batches])
    assert held not in seen.flatten().tolist()
    assert len(seen) == 8  # G0, G2, G3, X1 in two contexts
    contexts = torch.cat([batch["context_B"] for batch in batches])
    assert len({(*row, context) for row, context in zip(seen.tolist(), contexts.tolist(), strict=True)}) == 8


def test_workers_cut_the_same_stream(source: ScreenSource) -> None:
    recipe = _recipe(source, head="probabilistic", cells_per_condition=5)
    alone = _first(recipe, Share(0, 1, 4, 1, 0), 2)
    halves = [_first(recipe, Share(rank, 2, 4, 1, 0), 2) for rank in (0, 1)]
    for step, whole in enumerate(alone):
        for name in ("basal_BG", "counts_CG"):
            parts = torch.cat([half[step][name] for half in halves])
            torch.testing.assert_close(whole[name], parts, rtol=0, atol=0)
    later = _first(recipe, Share(0, 1, 4, 1, 0), 1, step=1)[0]
    torch.testing.assert_close(later["counts_CG"], alone[1]["counts_CG"], rtol=0, atol=0)
    assert (whole["counts_CG"] == whole["counts_CG"].round()).all()


def test_a_resumed_run_ends_with_the_same_model_and_scores_what_was_held_out(
    source: ScreenSource, tmp_path: Path
) -> None:
    recipe = _recipe(source, members=2)
    options = TrainingOptions(steps=4, batch=4, workers=0, checkpoint_every=2, seed=1)
    whole = Location.of(tmp_path / "whole")
    run_training(recipe, options, whole)
    part = tmp_path / "part"

    def stop(done: int, total: int, unit: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(recipe, options, Location.of(part), progress=stop)
    assert run_training(recipe, options, Location.of(part)).first_step == 2
    ours, theirs = (Predictor.load(str(path)) for path in (tmp_path / "whole", part))
    for one, other in zip(ours.models, theirs.models, strict=True):
        for name, weight in one.state_dict().items():
            torch.testing.assert_close(weight, other.state_dict()[name], rtol=0, atol=0)
    control = recipe.source.measured().controls["left"]
    effects = ours.predict(control, [("G1",), ("G0", "G1")], "left")
    assert effects.mean_QG.shape == (2, 24)
    assert (effects.mean_QG >= 0).all()
    assert (effects.uncertainty_QG > 0).all()
    # The target's own gene falls though it was never perturbed in training.
    assert effects.delta_QG[0, 1] < -1
    with pytest.raises(InputError, match="nothing of: NOPE"):
        ours.predict(control, [("NOPE",)], "left")
    with pytest.raises(InputError, match="context middle"):
        ours.predict(control, [("G1",)], "middle")
    metrics = whole.read("metrics.json").decode()
    for name in ("model", "prior", "control", "mean_delta", "ridge", "replicate"):
        assert f'"{name}"' in metrics


def test_pathway_features_are_standardised_and_in_the_checkpoint(source: ScreenSource) -> None:
    recipe = _recipe(source)
    module = recipe.build(0)
    recipe.prepare(module, Share(0, 1, 2, 1, 0), torch.device("cpu"))
    stored = module.state_dict()["members.0.model.gene_tokens.pathways_GP"].numpy()
    assert stored.shape == (25, 4)
    np.testing.assert_allclose(stored[:24].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(stored[:24].std(axis=0), 1, atol=1e-4)
    assert (stored[24] == 0).all()  # X1, which nobody measured


def test_the_mean_of_all_cells_is_no_example_for_counts(source: ScreenSource) -> None:
    with pytest.raises(InputError, match="cells-per-condition 0"):
        _recipe(source, head="probabilistic", cells_per_condition=0)
