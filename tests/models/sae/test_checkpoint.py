"""SAELens directories: round trip, provenance, and errors that name what does not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.models import sae
from engine.models.errors import ModelError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    sae.save(sae.create(8, 32, 3, metadata={"hook_name": "resid_post_1", "fvu": 0.25}), tmp_path)
    return tmp_path


def change_config(directory: Path, **changes: object) -> None:
    file = directory / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@torch.no_grad()
def test_round_trip_keeps_support_and_provenance(tmp_path: Path) -> None:
    fresh = sae.create(8, 32, 3, metadata={"hook_name": "resid_post_1"})
    fresh.W_dec.mul_(torch.linspace(0.1, 4, 32)[:, None])
    sae.save(fresh, tmp_path)
    again = sae.load(tmp_path)
    x_BD = torch.randn(100, 8)
    assert torch.equal(again.encode(x_BD) != 0, fresh.encode(x_BD) != 0)
    torch.testing.assert_close(again(x_BD), fresh(x_BD))
    torch.testing.assert_close(again.W_dec.norm(dim=1), torch.ones(32))
    assert again.config.metadata["hook_name"] == "resid_post_1"
    assert again.config.metadata["sae_lens_version"]  # without it SAELens drops the rest


def test_saving_twice_gives_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    sae.save(sae.load(directory), tmp_path / "first")
    sae.save(sae.load(directory), tmp_path / "second")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "temporal"}, "architecture 'temporal' is not supported"),
        ({"architecture": "transcoder"}, "d_out is missing"),
        ({"normalize_activations": "covariance_whitening"}, "Fold it into the weights"),
        ({"k": 0}, "needs 1 <= k <= d_sae"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"d_sae": 33}, r"of other shape: W_enc \(8, 32\) instead of \(8, 33\)"),
        ({"architecture": "jumprelu"}, "missing: threshold"),
    ],
)
def test_configurations_that_do_not_fit(directory: Path, change: dict[str, object], message: str) -> None:
    change_config(directory, **change)
    with pytest.raises(ModelError, match=message):
        sae.load(directory)


def test_missing_and_damaged_files_are_named(directory: Path) -> None:
    (directory / "sae_weights.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"sae_weights.safetensors: damaged"):
        sae.load(directory)
    (directory / "sae_weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"sae_weights.safetensors is missing"):
        sae.load(directory)
    (directory / "cfg.json").unlink()
    with pytest.raises(ModelError, match=r"cfg.json is missing"):
        sae.load(directory)


def test_an_unfolded_input_scale_is_told(directory: Path) -> None:
    change_config(directory, normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match="was not folded into the weights"):
        sae.load(directory)


def test_weights_are_read_in_the_dtype_of_the_configuration(directory: Path) -> None:
    change_config(directory, dtype="torch.bfloat16")
    weights = load_file(directory / "sae_weights.safetensors")
    save_file(
        {name: tensor.bfloat16() for name, tensor in weights.items()}, directory / "sae_weights.safetensors"
    )
    assert sae.load(directory).W_enc.dtype == torch.bfloat16
