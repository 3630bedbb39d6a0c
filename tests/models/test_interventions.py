"""Features edited and states reconstructed at hooks, on small encoders and every architecture."""

from __future__ import annotations

import pytest
import torch

from engine.models import sae
from engine.models.encoder import Encoder
from engine.models.errors import ModelError
from engine.models.interventions import FeatureEdit, Reading, delta, reconstruct, replace_by, tokens_of_class
from tests.models.sae.small import ALL_ARCHITECTURES, random_sae
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of

EDITS = (
    FeatureEdit(43, "ablate"),
    FeatureEdit(7, "clamp", 1.5),
    FeatureEdit(40, "scale", 3.0),
    FeatureEdit(20, "add", -0.7, token_ids=(5, 6, 7, 8)),
)


def edited(a_TF: torch.Tensor, ids_T: torch.Tensor) -> torch.Tensor:
    """What EDITS make of dense activations."""
    a_TF = a_TF.clone()
    a_TF[:, 43], a_TF[:, 7], a_TF[:, 40] = 0, 1.5, 3 * a_TF[:, 40]
    a_TF[(ids_T >= 5) & (ids_T <= 8), 20] -= 0.7
    return a_TF


def exact_decode(autoencoder: sae.SAE, a_TF: torch.Tensor, x_TD: torch.Tensor) -> torch.Tensor:
    """The decoder by its definition, in float64."""
    config, a_TF, x_TD = autoencoder.config, a_TF.double(), x_TD.double()
    if config.rescale_acts_by_decoder_norm:
        a_TF = a_TF / autoencoder.W_dec.double().norm(dim=1)
    r_TD = a_TF @ autoencoder.W_dec.double() + autoencoder.b_dec.double()
    if config.normalize_activations == "constant_norm_rescale":
        return r_TD * x_TD.norm(dim=1, keepdim=True) / 12**0.5
    if config.normalize_activations == "layer_norm":
        return r_TD * x_TD.std(dim=1, keepdim=True) + x_TD.mean(dim=1, keepdim=True)
    return r_TD


@pytest.fixture(params=["tahoe", "geneformer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    sizes = {"d_model": 12, "n_heads": 2}
    return small_tahoe(**sizes) if request.param == "tahoe" else small_geneformer(**sizes)


@torch.no_grad()
@pytest.mark.parametrize("normalisation", ["none", "constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_delta_is_the_splice_that_keeps_the_error(architecture: str, normalisation: str) -> None:
    encoder = small_tahoe(d_model=12)
    tokens = encoder.packed(tokens_of(encoder))
    autoencoder = random_sae(architecture, normalize_activations=normalisation)
    x_TD = torch.randn(tokens.n_tokens, 12, generator=torch.Generator().manual_seed(1))
    a_TF = autoencoder.encode(x_TD)
    assert (a_TF[:, [43, 40]] > 0).any(0).all()
    error_TD = x_TD - exact_decode(autoencoder, a_TF, x_TD)
    expected_TD = exact_decode(autoencoder, edited(a_TF, tokens.ids_T), x_TD) + error_TD
    found_TD = delta(Reading(autoencoder), EDITS)(x_TD, tokens)
    # What tokens were divided by is itself rounded.
    tolerance = 1.5e-7 if normalisation == "none" else 3e-7
    assert (found_TD - expected_TD).norm() < tolerance * expected_TD.norm()
    spliced_TD = reconstruct(Reading(autoencoder), edits=EDITS, keep_error=True)(x_TD, tokens)
    assert (spliced_TD - expected_TD).norm() < 1e-6 * expected_TD.norm()


@torch.no_grad()
def test_only_edited_rows_are_touched(encoder: Encoder) -> None:
    tokens, autoencoder = encoder.packed(tokens_of(encoder)), random_sae("jumprelu")
    before = encoder(tokens, ("resid_post_0",)).hooks["resid_post_0"]
    fires_T = autoencoder.encode(before)[:, 3] > 0
    everywhere_T = torch.ones_like(fires_T)
    for editable_V, editable_T in (
        (None, everywhere_T),
        (tokens_of_class(encoder), encoder.is_gene(tokens.ids_T)),
    ):
        ablation = {"resid_post_0": delta(Reading(autoencoder, editable_V), [FeatureEdit(3, "ablate")])}
        after = encoder(tokens, ("resid_post_0",), interventions=ablation).hooks["resid_post_0"]
        expected_T = fires_T & editable_T
        assert 0 < expected_T.sum() < tokens.n_tokens
        assert torch.equal((after != before).any(dim=1), expected_T)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_activations_of_some_features(architecture: str) -> None:
    autoencoder = random_sae(architecture)
    x_BD = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    features_J = torch.tensor([40, 3, 11, 0])
    torch.testing.assert_close(
        autoencoder.encode_features(x_BD, features_J), autoencoder.encode(x_BD)[:, features_J]
    )


@torch.no_grad()
def test_reconstructions_and_ablations_leave_special_tokens(encoder: Encoder) -> None:
    tokens, autoencoder = encoder.packed(tokens_of(encoder)), random_sae("topk")
    gene_T, reading = encoder.is_gene(tokens.ids_T), Reading.of(encoder, autoencoder)
    before = encoder(tokens, ("mlp_out_1",)).hooks["mlp_out_1"]
    mean_D = before[gene_T].mean(0)
    expected = {
        reconstruct(reading): autoencoder(before),
        reconstruct(reading, keep_error=True): before,
        replace_by(mean_D, reading.editable_V): mean_D.expand_as(before),
        replace_by(torch.zeros(12), reading.editable_V): torch.zeros_like(before),
    }
    for intervention, wanted in expected.items():
        after = encoder(tokens, ("mlp_out_1",), interventions={"mlp_out_1": intervention}).hooks["mlp_out_1"]
        torch.testing.assert_close(after[gene_T], wanted[gene_T])
        assert torch.equal(after[~gene_T], before[~gene_T])


@torch.no_grad()
def test_gene_residuals_are_what_it_reads(encoder: Encoder) -> None:
    tokens, autoencoder = encoder.packed(tokens_of(encoder)), random_sae("topk")
    generator = torch.Generator().manual_seed(4)
    means_GD = torch.randn(len(encoder.tokeniser.gene_ids), 12, generator=generator)
    x_TD = torch.randn(tokens.n_tokens, 12, generator=generator)
    reading, means_TD = Reading(autoencoder, None, means_GD), means_GD[tokens.ids_T]
    for found, same in (
        (delta(reading, EDITS), delta(Reading(autoencoder), EDITS)),
        (reconstruct(reading), reconstruct(Reading(autoencoder))),
        (reconstruct(reading, edits=EDITS, keep_error=True), delta(Reading(autoencoder), EDITS)),
    ):
        expected_TD = same(x_TD - means_TD, tokens) + means_TD
        torch.testing.assert_close(found(x_TD, tokens), expected_TD, rtol=1e-5, atol=1e-5)


def test_an_autoencoder_is_about_the_tokens_it_was_trained_on(encoder: Encoder) -> None:
    tokens = encoder.packed(tokens_of(encoder))
    classes_T = torch.as_tensor(encoder.tokeniser.token_classes)[tokens.ids_T]
    for kind, expected_T in {
        None: classes_T == 0,
        "gene": classes_T == 0,
        "cell": classes_T == 1,
        "all": classes_T >= 0,
    }.items():
        metadata = {} if kind is None else {"token_class": kind}
        autoencoder = sae.SAE(sae.SAEConfig("standard", 12, 48, metadata=metadata))
        rows_R = Reading.of(encoder, autoencoder).rows(tokens)
        assert torch.equal(rows_R, expected_T.nonzero().squeeze(1))


def test_gradients_pass_to_the_state() -> None:
    encoder = small_tahoe(d_model=12)
    tokens = encoder.packed(tokens_of(encoder))
    x_TD = torch.randn(tokens.n_tokens, 12, requires_grad=True)
    for intervention in (
        delta(Reading(random_sae("topk")), EDITS),
        reconstruct(Reading(random_sae("topk")), edits=EDITS, keep_error=True),
    ):
        x_TD.grad = None
        intervention(x_TD, tokens).sum().backward()
        torch.testing.assert_close(x_TD.grad, torch.ones_like(x_TD))


def test_doses() -> None:
    a_R = torch.tensor([0.0, 2.0])
    changes = {
        ("ablate", 0.0, 0.5): [0.0, -1.0],
        ("ablate", 0.0, -1.0): [0.0, 2.0],
        ("scale", 3.0, 1.0): [0.0, 4.0],
        ("scale", 3.0, -1.0): [0.0, -4.0],
        ("add", 3.0, -0.5): [-1.5, -1.5],
        ("clamp", 3.0, 2.0): [6.0, 4.0],
    }
    for (op, value, dose), expected in changes.items():
        edit = FeatureEdit(1, op, value).at(dose)  # type: ignore[arg-type]
        assert edit.change(a_R).tolist() == pytest.approx(expected)


def test_edits_that_do_not_fit() -> None:
    autoencoder = random_sae("topk")
    with pytest.raises(ModelError, match="feature 48 does not exist; the autoencoder has 0 to 47"):
        delta(Reading(autoencoder), [FeatureEdit(48, "ablate")])
    with pytest.raises(ModelError, match="feature 3 is edited twice"):
        delta(Reading(autoencoder), [FeatureEdit(3, "ablate"), FeatureEdit(3, "add", 1)])
    with pytest.raises(ModelError, match="'boost'; expected one of ablate"):
        FeatureEdit(3, "boost")  # type: ignore[arg-type]
    transcoder = sae.SAE(sae.SAEConfig("standard", 12, 48, apply_b_dec_to_input=False, d_out=12))
    with pytest.raises(ModelError, match="a transcoder reconstructs another hook"):
        delta(Reading(transcoder), [FeatureEdit(3, "ablate")])
