"""What is measured before training: centre and scale, outliers, gene means; what training does with it."""

from pathlib import Path

import pytest
import torch

from engine.models import sae
from engine.models.sae.gene_means import load_gene_means, without_gene_means
from engine.training.activation_sources import CachedActivations
from engine.training.options import TrainingOptions
from engine.training.recipe import Share
from engine.training.recipes.sae import SparseRecipe, SparseTraining, activation_statistics
from engine.training.recipes.sae.statistics import PRIOR_TOKENS
from engine.training.run import run_training
from storage.activations import ActivationCache
from storage.locations import Location

CPU = torch.device("cpu")
SHARE = Share(0, 1, 500, 1, 0)


@pytest.fixture(scope="module")
def tokens(cache: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All activations of the cache and their genes."""
    opened = ActivationCache.open(cache)
    read = [opened.read("resid_post_0", member.key) for member in opened.members]
    genes = torch.cat([torch.from_numpy(part.gene.astype("int64")) for part in read])
    return torch.cat([part.acts for part in read]), genes


def test_gamma_and_sigma_are_those_of_the_activations(
    cache: str, tokens: tuple[torch.Tensor, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    x_TD, _ = tokens
    found = activation_statistics(CachedActivations.plan(cache, None), SHARE, CPU)
    assert found.n_tokens == 6000
    assert torch.allclose(found.sigma_D, x_TD.std(0, correction=0), rtol=1e-3)
    assert found.gamma == pytest.approx(float(x_TD.mean(0).norm() / x_TD.std(0).norm()), rel=1e-3)
    assert f"the mean of the activations is {found.gamma:.1f} times their spread" in caplog.text
    assert not found.outliers_G.any()


def test_gene_means_are_drawn_to_the_mean_and_leave_residuals_of_unit_scale(
    cache: str, tokens: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x_TD, gene_T = tokens
    found = activation_statistics(CachedActivations.plan(cache, None), SHARE, CPU, gene_residual=True)
    means_GD = found.gene_means_GD
    assert means_GD is not None
    of_seven = x_TD[gene_T == 7]
    expected = (of_seven.sum(0) + PRIOR_TOKENS * x_TD.mean(0)) / (len(of_seven) + PRIOR_TOKENS)
    assert torch.allclose(means_GD[7], expected, atol=1e-4)
    left_TD = (x_TD - means_GD[gene_T] - found.shift_D) * found.scale
    assert left_TD.mean(0).abs().max() < 1e-4
    assert left_TD.square().sum(1).mean().item() == pytest.approx(24, rel=1e-3)


def test_outliers_take_no_part(cache: str, tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    x_TD, gene_T = tokens
    norm_T = x_TD.norm(dim=1)
    found = activation_statistics(CachedActivations.plan(cache, None), SHARE, CPU, outlier_norm=1.05)
    out_T = norm_T > found.norm_limit
    assert 100 < int(out_T.sum()) < 1000
    assert found.norm_limit == pytest.approx(1.05 * float(norm_T.median()), rel=1e-3)
    assert torch.equal(found.outliers_G, torch.bincount(gene_T[out_T], minlength=len(found.outliers_G)))
    assert torch.allclose(found.mean_D, x_TD[~out_T].mean(0), atol=1e-4)


def test_another_token_takes_the_place_of_an_outlier(cache: str) -> None:
    recipe = SparseRecipe(source=CachedActivations.plan(cache, None), width=8, k=2, dead_after_tokens=9)
    module = recipe.build(0)
    assert isinstance(module, SparseTraining)
    x_BD = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    x_BD[2], x_BD[5] = 100, 200
    module.norm_limit.fill_(50)
    taken_BD, outlier_B = module.inputs(x_BD, torch.arange(6))
    assert outlier_B.tolist() == [False, False, True, False, False, True]
    assert torch.equal(taken_BD, x_BD[[0, 1, 0, 3, 4, 1]])


def test_an_autoencoder_of_residuals_comes_with_the_means(
    cache: str, tokens: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    recipe = SparseRecipe(
        source=CachedActivations.plan(cache, None),
        width=64,
        k=4,
        dead_after_tokens=4000,
        gene_residual=True,
        outlier_norm=1.05,
    )
    options = TrainingOptions(steps=60, batch=256, workers=0, learning_rate=3e-3)
    run_training(recipe, options, Location.of(tmp_path))
    means_GD, autoencoder = load_gene_means(tmp_path), sae.load(tmp_path)
    assert means_GD is not None
    metadata = autoencoder.config.metadata
    assert metadata["gene_residual"]
    assert metadata["activations"]["outlier_tokens"] > 100
    assert len(metadata["activations"]["outlier_genes"]) == 20
    x_TD, gene_T = tokens
    kept = x_TD.norm(dim=1) <= metadata["activations"]["norm_limit"]
    left_TD = without_gene_means(x_TD, gene_T, means_GD)[kept]
    with torch.no_grad():
        error = (left_TD - autoencoder(left_TD)).square().sum() / (left_TD - left_TD.mean(0)).square().sum()
    assert float(error) == pytest.approx(metadata["reference_fvu"], rel=0.1)
    assert float(error) < 0.5
