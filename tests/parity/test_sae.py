"""Sparse autoencoders against SAELens 6.54 (shared/golden/sae), both ways."""

import json
from pathlib import Path

import pytest
import sae_lens
import torch
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


def test_topk_training_step(shared: Path) -> None:
    """Losses to 1e-5 and gradients to 1e-4 relative, dead features and AuxK included."""
    folder = shared / "golden" / "sae" / "topk"
    step, losses = (
        load_file(folder / "train_step.safetensors"),
        json.loads((folder / "train_step.json").read_text()),
    )
    settings = losses["training_cfg"]
    config = sae.SAEConfig(
        "topk",
        settings["d_in"],
        settings["d_sae"],
        k=settings["k"],
        rescale_acts_by_decoder_norm=settings["rescale_acts_by_decoder_norm"],
    )
    autoencoder = sae.SAE(config)
    autoencoder.load_state_dict({key[6:]: step[key] for key in step if key.startswith("param.")})
    training = sae.TrainingModule(autoencoder, aux_coefficient=settings["aux_loss_coefficient"])
    found = training(step["x"], step["dead"].bool())
    found.loss.backward()
    assert found.loss.item() == pytest.approx(losses["loss"], rel=1e-5)
    assert found.metrics["mse"].item() == pytest.approx(losses["losses"]["mse_loss"], rel=1e-5)
    assert found.metrics["aux"].item() == pytest.approx(
        losses["losses"]["auxiliary_reconstruction_loss"], rel=1e-5
    )
    assert torch.equal(found.fired_F, (step["acts"] > 0).any(0))
    for name, parameter in autoencoder.named_parameters():
        expected = step[f"grad.{name}"]
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
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
