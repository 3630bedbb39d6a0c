"""Sparse autoencoders against SAELens 6.54 (shared/golden/sae), both ways."""

import json
from pathlib import Path

import pytest
import sae_lens
import torch
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file, save_file

from engine.models import sae
from engine.models.errors import ModelError

ARCHITECTURES = [
    "standard",
    "topk",
    "topk_normfolded",
    "batchtopk",
    "jumprelu",
    "matryoshka_batchtopk",
    "gated",
]


@pytest.fixture(params=ARCHITECTURES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Path:
    path: Path = shared / "golden" / "sae" / request.param
    return path


@torch.no_grad()
def test_activations_and_reconstruction(golden: Path) -> None:
    io = load_file(golden / "io.safetensors")
    autoencoder = sae.load(golden)
    a_BF = autoencoder.encode(io["x"])
    assert a_BF.dtype == torch.float32
    assert torch.equal(a_BF != 0, io["acts"] != 0)
    torch.testing.assert_close(a_BF, io["acts"], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(autoencoder.decode(a_BF), io["recon"], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(autoencoder(io["x"]), io["recon"], rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_saelens_opens_what_we_save(golden: Path, tmp_path: Path) -> None:
    io = load_file(golden / "io.safetensors")
    ours = sae.load(golden)
    sae.save(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    a_BF = theirs.encode(io["x"])
    assert torch.equal(a_BF != 0, io["acts"] != 0)
    torch.testing.assert_close(a_BF, io["acts"], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(theirs.decode(a_BF), io["recon"], rtol=1e-5, atol=2e-6)
    assert theirs.cfg.metadata.hook_name == "transformer_encoder.layers.6"
    again = sae.load(tmp_path)
    assert torch.equal(again.encode(io["x"]) != 0, io["acts"] != 0)


# Names of our penalties by SAELens' loss names; prefix losses of Matryoshka are one sum in ours.
LOSSES = {
    "mse_loss": "mse",
    "l1_loss": "sparsity",
    "l0_loss": "sparsity",
    "auxiliary_reconstruction_loss": "aux",
    "pre_act_loss": "aux",
}


def golden_training(folder: Path, path: str) -> tuple[sae.TrainingModule, dict, dict]:
    step = load_file(folder / "train_step.safetensors")
    expected = json.loads((folder / "train_step.json").read_text())
    settings = expected["training_cfg"]
    names = ("architecture", "d_in", "d_sae", "k", "rescale_acts_by_decoder_norm")
    config = sae.SAEConfig(**{name: settings[name] for name in names if name in settings})
    options = sae.ObjectiveOptions(
        path=path,  # type: ignore[arg-type]
        aux_coefficient=settings.get("aux_loss_coefficient", 1.0),
        matryoshka_widths=tuple(settings.get("matryoshka_widths", ())),
        sparsity_coefficient=settings.get("l1_coefficient", settings.get("l0_coefficient", 0.0)),
        lp_norm=settings.get("lp_norm", 1.0),
        sparsity_mode=settings.get("jumprelu_sparsity_loss_mode", "step"),
        bandwidth=settings.get("jumprelu_bandwidth", 0.05),
        pre_act_coefficient=settings.get("pre_act_loss_coefficient"),
    )
    autoencoder = sae.SAE(config)
    autoencoder.load_state_dict({key[6:]: step[key] for key in step if key.startswith("param.")})
    return sae.TrainingModule(autoencoder, options), step, expected


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize(
    "name", ["topk", "batchtopk", "matryoshka_batchtopk", "standard", "gated", "jumprelu"]
)
def test_training_step(shared: Path, name: str, path: str) -> None:
    """Losses to 1e-5 and gradients to 1e-4 relative, dead features included."""
    training, step, expected = golden_training(shared / "golden" / "sae" / name, path)
    found = training(step["x"], step["dead"].bool())
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    for their_name, loss in expected["losses"].items():
        if their_name in LOSSES:
            assert found.metrics[LOSSES[their_name]].item() == pytest.approx(loss, rel=1e-5)
    inner = sum(loss for their_name, loss in expected["losses"].items() if "inner" in their_name)
    assert found.metrics.get("inner", torch.zeros(())).item() == pytest.approx(inner, rel=1e-5)
    assert torch.equal(found.fired_F, (step["acts"] > 0).any(0))
    for parameter_name, parameter in training.sae.named_parameters():
        encoder = parameter_name == "W_enc_FD"
        gradient = step["grad.W_enc"].T if encoder else step[f"grad.{parameter_name}"]
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())
        )


@torch.no_grad()
@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
def test_training_checkpoint_loads_as_its_export(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "golden" / "sae" / name
    step = load_file(folder / "train_step.safetensors")
    settings = json.loads((folder / "train_step.json").read_text())["training_cfg"]
    trainer = sae_lens.TrainingSAE.from_dict(settings)
    trainer.load_state_dict({key[6:]: step[key] for key in step if key.startswith("param.")})
    trainer.save_inference_model(tmp_path / "export")
    trainer.save_model(tmp_path / "checkpoint")
    expected = sae.load(tmp_path / "export").encode(step["x"])
    found = sae.load(tmp_path / "checkpoint").encode(step["x"])
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_normalised_inputs(shared: Path, tmp_path: Path, kind: str) -> None:
    folder = shared / "golden" / "sae" / "standard"
    config = json.loads((folder / "cfg.json").read_text()) | {"normalize_activations": kind}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    save_file(load_file(folder / "sae_weights.safetensors"), tmp_path / "sae_weights.safetensors")
    x_BD = load_file(folder / "io.safetensors")["x"] * 3 + 1
    ours, theirs = sae.load(tmp_path), sae_lens.SAE.load_from_disk(tmp_path)
    a_BF = theirs.encode(x_BD)
    torch.testing.assert_close(ours.encode(x_BD), a_BF, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x_BD), theirs.decode(a_BF), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="decode needs the input"):
        ours.decode(a_BF)


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity_mode": "tanh", "tanh_scale": 3.0, "ste_to_input": True},
        {"sparsity_mode": "quadratic", "target_l0": 20.0, "pre_act_coefficient": 0.01},
    ],
)
def test_other_jumprelu_penalties(shared: Path, settings: dict) -> None:
    """Modes without a golden step, against SAELens itself: threshold below zero, dead features."""
    folder = shared / "golden" / "sae" / "jumprelu"
    ours, step, _ = golden_training(folder, "auto")
    ours = sae.TrainingModule(ours.sae, sae.ObjectiveOptions(sparsity_coefficient=0.3, **settings))
    with torch.no_grad():
        ours.sae.threshold[:5] = -0.1
    names = {
        "sparsity_mode": "sparsity_loss_mode",
        "tanh_scale": "tanh_scale",
        "ste_to_input": "ste_to_input",
    }
    theirs = sae_lens.JumpReLUTrainingSAE(
        sae_lens.JumpReLUTrainingSAEConfig(
            d_in=ours.sae.d_in,
            d_sae=ours.sae.d_sae,
            l0_coefficient=0.3,
            target_l0=settings.get("target_l0"),
            pre_act_loss_coefficient=settings.get("pre_act_coefficient"),
            **{f"jumprelu_{names[name]}": setting for name, setting in settings.items() if name in names},
        )
    )
    theirs.load_state_dict(ours.sae.state_dict())
    dead_F = step["dead"].bool()
    expected = theirs.training_forward_pass(
        TrainStepInput(
            sae_in=step["x"],
            coefficients={"l0": 0.3},
            dead_neuron_mask=dead_F,
            n_training_steps=0,
            is_logging_step=False,
        )
    )
    expected.loss.backward()
    found = ours(step["x"], dead_F)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for name, parameter in theirs.named_parameters():
        mine = ours.sae.W_enc_FD.grad.T if name == "W_enc" else ours.sae.get_parameter(name).grad
        assert mine is not None
        assert parameter.grad is not None
        assert float((mine - parameter.grad).abs().max()) <= 1e-4 * float(parameter.grad.abs().max()), name


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "batchtopk"])
@pytest.mark.parametrize("skip", [False, True])
def test_saelens_opens_our_transcoders(tmp_path: Path, architecture: str, skip: bool) -> None:
    k = {"k": 4, "rescale_acts_by_decoder_norm": True} if architecture == "batchtopk" else {}
    config = sae.SAEConfig(
        architecture, 16, 64, apply_b_dec_to_input=False, d_out=10, skip=skip, metadata={"hook": "h"}, **k
    )
    trained = sae.initialise(config)
    generator = torch.Generator().manual_seed(0)
    for tensor in trained.state_dict().values():
        tensor += 0.3 * torch.rand(tensor.shape, generator=generator)
    folded = sae.fold_input_scaling(trained, torch.linspace(-3, 3, 16), 0.5, torch.linspace(2, -2, 10), 4.0)
    sae.save(folded, tmp_path)
    theirs, ours = sae_lens.SAE.load_from_disk(tmp_path), sae.load(tmp_path)
    assert theirs.cfg.architecture().endswith("transcoder")
    assert ("skip" in theirs.cfg.architecture()) == skip
    x_BD = torch.randn(200, 16, generator=generator)
    raw_BD = x_BD / 0.5 + torch.linspace(-3, 3, 16)
    assert torch.equal(theirs.encode(raw_BD) != 0, trained.encode(x_BD) != 0)
    assert torch.equal(ours.encode(raw_BD) != 0, trained.encode(x_BD) != 0)
    torch.testing.assert_close(ours(raw_BD), theirs(raw_BD), rtol=1e-5, atol=1e-5)
    expected = trained(x_BD) / 4.0 + torch.linspace(2, -2, 10)
    torch.testing.assert_close(ours(raw_BD), expected, rtol=1e-5, atol=1e-5)
