"""Attributions against dense gradients and against ablation done by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from engine.interpret.attribution.effects import Attributor
from engine.interpret.attribution.metrics import Batch, Metric
from engine.models import ModelError, sae
from engine.models.encoder import Encoder
from engine.models.interventions import FeatureEdit, Reading, delta
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of

HOOK = "resid_post_0"
DIRECTION = np.random.default_rng(0).standard_normal(16).astype(np.float32)


@pytest.fixture(params=["tahoe", "geneformer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return small_tahoe() if request.param == "tahoe" else small_geneformer()


def autoencoder(normalisation: str = "none") -> sae.SAE:
    config = sae.SAEConfig(
        "topk", 16, 64, k=8, rescale_acts_by_decoder_norm=True, normalize_activations=normalisation
    )
    model = sae.SAE(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def gene_metric(encoder: Encoder) -> Metric:
    return Metric("gene", gene=8, head="logit" if encoder.default_pool == "mean" else "expression")


def metrics(encoder: Encoder) -> list[Metric]:
    return [Metric("loss"), gene_metric(encoder), Metric("direction", direction_D=DIRECTION, pool="mean")]


@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
def test_patching_is_the_gradient_of_taking_a_feature_away(encoder: Encoder, normalisation: str) -> None:
    model, tokens, cells = autoencoder(normalisation), tokens_of(encoder), np.arange(12)
    for metric in metrics(encoder):
        attributor = Attributor(encoder, Reading.of(encoder, model), HOOK, metric)
        batch = metric.batch(encoder, tokens, cells)
        x_TD, gradient_TD, _, _ = attributor.gradient(batch)
        pairs = attributor.pairs(x_TD, batch.tokens)
        effect_N = attributor.effects(pairs, gradient_TD)
        found_F = torch.zeros(64).index_add(0, pairs.feature_N, effect_N)
        gene_T1 = encoder.is_gene(batch.tokens.ids_T)[:, None]
        a_TF = model.encode(x_TD) * gene_T1
        slope_F = dense_slope(attributor, batch, a_TF)
        torch.testing.assert_close(found_F, -slope_F, rtol=1e-3, atol=1e-4 * slope_F.abs().max().item())


def dense_slope(attributor: Attributor, batch: Batch, a_TF: torch.Tensor) -> torch.Tensor:
    """By autograd: how the metric grows with how much of each feature is left."""
    left_F = torch.ones(64, requires_grad=True)

    def leave(x_TD: torch.Tensor, _: object) -> torch.Tensor:
        return x_TD.detach() + attributor.sae.decode_change(
            (left_F - 1) * a_TF, torch.arange(64), x_TD.detach()
        )

    m_C, _ = attributor.metric.values(attributor.encoder, batch, {HOOK: leave})
    (slope_F,) = torch.autograd.grad(m_C.sum(), left_F)
    return slope_F


def test_ablation_is_what_it_is_by_hand(encoder: Encoder) -> None:
    model, tokens, cells = autoencoder(), tokens_of(encoder), np.arange(12)
    features = [3, 9, 40, 41, 42]
    for metric in metrics(encoder):
        attributor = Attributor(encoder, Reading.of(encoder, model), HOOK, metric)
        batch = metric.batch(encoder, tokens, cells)
        change_CJ = attributor.ablated(batch, features, cells, 2 * tokens.n_tokens)
        with torch.no_grad():
            m_C, _ = metric.values(encoder, batch, {})
            for number, feature in enumerate(features):
                ablation = delta(Reading.of(encoder, model), [FeatureEdit(feature, "ablate")])
                ablated_C, _ = metric.values(encoder, batch, {HOOK: ablation})
                size = m_C.abs().max().item()
                torch.testing.assert_close(
                    change_CJ[:, number], ablated_C - m_C, rtol=1e-3, atol=2e-6 * max(size, 1)
                )


def test_integrated_gradients_add_up_to_taking_all_away(encoder: Encoder) -> None:
    model, tokens = autoencoder(), tokens_of(encoder)
    metric = Metric("direction", direction_D=DIRECTION, layer=-1, pool="mean")
    attributor = Attributor(encoder, Reading.of(encoder, model), HOOK, metric)
    batch = metric.batch(encoder, tokens, np.arange(12))
    x_TD, _, m_C, _ = attributor.gradient(batch)
    pairs = attributor.pairs(x_TD, batch.tokens).of(torch.arange(64) % 3 == 0)
    total = attributor.integrated(batch, pairs, steps=200).sum()
    edits = [FeatureEdit(feature, "ablate") for feature in range(0, 64, 3)]
    with torch.no_grad():
        without_C, _ = metric.values(encoder, batch, {HOOK: delta(Reading.of(encoder, model), edits)})
    torch.testing.assert_close(total, (without_C - m_C).sum(), rtol=2e-2, atol=1e-3)


def test_where_the_metric_is_linear_all_ways_agree() -> None:
    encoder, model = small_geneformer(), autoencoder()
    metric = Metric("direction", direction_D=DIRECTION, layer=-1, pool="mean")
    tokens, features = tokens_of(encoder), list(range(64))
    attributor = Attributor(encoder, Reading.of(encoder, model), "final", metric)
    batch = metric.batch(encoder, tokens, np.arange(12))
    x_TD, gradient_TD, _, _ = attributor.gradient(batch)
    pairs = attributor.pairs(x_TD, batch.tokens)
    first_N, path_N = attributor.effects(pairs, gradient_TD), attributor.integrated(batch, pairs, steps=3)
    exact_J = attributor.ablated(batch, features, np.arange(12), 10_000).sum(0)
    torch.testing.assert_close(path_N, first_N, rtol=1e-4, atol=1e-6)
    found_F = torch.zeros(64).index_add(0, pairs.feature_N, first_N)
    torch.testing.assert_close(found_F, exact_J, rtol=1e-3, atol=1e-4)


def test_what_is_hidden_depends_on_the_cell_alone(encoder: Encoder) -> None:
    tokens, metric = tokens_of(encoder), Metric("loss", seed=3)
    together = metric.batch(encoder, tokens, np.arange(100, 112))
    alone = metric.batch(encoder, tokens.select([7]), np.array([107]))
    start, stop = tokens.offsets[7:9]
    assert torch.equal(together.hidden_T[start:stop], alone.hidden_T)
    assert together.hidden_T.any()
    assert encoder.is_gene(together.id_T)[together.hidden_T].all()
    shown = together.tokens.ids_T if encoder.default_pool == "mean" else None
    if shown is not None:  # Geneformer must not see the gene; Tahoe-x1 not its value, by the flag
        assert (shown[together.hidden_T] == encoder.tokeniser.mask_id).all()


def test_cells_without_the_gene_have_no_metric(encoder: Encoder) -> None:
    tokens, metric = tokens_of(encoder), gene_metric(encoder)
    batch = metric.batch(encoder, tokens, np.arange(12))
    with torch.no_grad():
        m_C, has_C = metric.values(encoder, batch, {})
    ids = encoder.packed(tokens).ids_T
    expected = [bool((ids[start:stop] == 8).any()) for start, stop in pairwise(tokens.offsets)]
    assert has_C.tolist() == expected
    assert not all(expected)
    assert (m_C[~has_C] == 0).all()


def test_what_an_encoder_does_not_predict() -> None:
    with pytest.raises(ModelError, match="head 'mvc': this encoder predicts logit"):
        Attributor(small_geneformer(), Reading(autoencoder()), HOOK, Metric("gene", gene=8, head="mvc"))
    with pytest.raises(ModelError, match="no <cls> token"):
        Metric("direction", pool="cls").require(small_geneformer(special_tokens=False))
