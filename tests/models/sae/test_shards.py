"""Pieces of features: cut anywhere, read back anywhere, exported through one piece at a time."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.models import sae
from engine.models.errors import ModelError
from engine.models.sae import shards

ARCHITECTURES = ["standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka_batchtopk"]


def random_sae(architecture: str, dtype: str = "float32", **options: object) -> sae.SAE:
    if "topk" in architecture:
        options |= {"k": 3, "rescale_acts_by_decoder_norm": True}
    config = sae.SAEConfig(architecture, 12, 50, dtype=dtype, **options)  # type: ignore[arg-type]
    autoencoder = sae.SAE(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in autoencoder.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator).abs())
    return autoencoder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pieces_are_cut_anew_without_a_change(architecture: str, tmp_path: Path) -> None:
    whole = random_sae(architecture)
    shards.save_shards(whole, tmp_path / "eight", 8)
    shards.reshard(tmp_path / "eight", tmp_path / "three", 3)
    for name in ("eight", "three"):
        found = shards.load_shards(tmp_path / name)
        assert set(found) == set(whole.state_dict())
        assert all(torch.equal(found[key], tensor) for key, tensor in whole.state_dict().items())
    part = shards.load_shards(tmp_path / "three", (11, 40))
    assert torch.equal(part["W_enc"], whole.W_enc[:, 11:40])
    assert torch.equal(part["W_dec"], whole.W_dec[11:40])
    assert torch.equal(part["b_dec"], whole.b_dec)
    assert shards.read_config(tmp_path / "three") == whole.config


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export_writes_what_save_writes(architecture: str, dtype: str, tmp_path: Path) -> None:
    whole = random_sae(architecture, dtype)
    sae.save(whole, tmp_path / "saved")
    shards.save_shards(whole, tmp_path / "sharded", 4)
    shards.export_shards(tmp_path / "sharded", tmp_path / "exported")
    assert (tmp_path / "exported/cfg.json").read_text() == (tmp_path / "saved/cfg.json").read_text()
    saved, exported = (
        load_file(tmp_path / name / "sae_weights.safetensors") for name in ("saved", "exported")
    )
    assert set(saved) == set(exported)
    for name, tensor in saved.items():
        assert exported[name].dtype == tensor.dtype
        assert torch.equal(exported[name], tensor), name


def test_ranks_write_their_own_pieces(tmp_path: Path) -> None:
    whole = random_sae("topk")
    shards.save_shard(shards.feature_rows(whole, 20, 50), 20, tmp_path)
    with pytest.raises(ModelError, match="begins at 20; expected 0"):
        shards.finish_shards(whole.config, shards.shared_weights(whole), tmp_path)
    assert not (tmp_path / "sae_index.json").exists()
    shards.save_shard(shards.feature_rows(whole, 0, 20), 0, tmp_path)
    shards.finish_shards(whole.config, shards.shared_weights(whole), tmp_path)
    assert torch.equal(shards.load_shards(tmp_path)["W_dec"], whole.W_dec)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    whole = random_sae("topk")
    with pytest.raises(ModelError, match="cannot cut 50 features into 51"):
        shards.save_shards(whole, tmp_path, 51)
    shards.save_shards(whole, tmp_path, 2)
    with pytest.raises(ModelError, match="features 40 to 60 of 50"):
        shards.load_shards(tmp_path, (40, 60))
    piece = tmp_path / "features_0000000025_0000000050.safetensors"
    piece.write_bytes((tmp_path / "shared.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"W_enc is None; expected \(25, 12\)"):
        shards.load_shards(tmp_path)
    piece.unlink()
    with pytest.raises(ModelError, match=f"{piece.name} is missing"):
        shards.load_shards(tmp_path)
    assert shards.load_shards(tmp_path, (0, 25))["W_dec"].shape == (25, 12)


def test_the_largest_configuration_exists_without_memory() -> None:
    config = sae.SAEConfig("topk", 2560, 655_360, k=64, rescale_acts_by_decoder_norm=True)
    with torch.device("meta"):
        largest = sae.SAE(config)
    assert sum(weight.numel() for weight in largest.parameters()) == 2 * 2560 * 655_360 + 655_360 + 2560
    rows = shards.feature_rows(largest, 0, 81_920)
    assert rows["W_enc"].shape == (2560, 81_920)
    assert dataclasses.replace(config, d_sae=81_920).k == 64
