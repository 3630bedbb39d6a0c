"""What of a checkpoint is read: nothing, everything, or one rank's part."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import models
from engine.models import TensorShard, weights
from engine.models.errors import ModelError
from tests.conftest import REPOSITORY
from tests.models.small_models import small_geneformer, small_tahoe

ENCODERS = {"tahoe": small_tahoe, "geneformer": small_geneformer}


@pytest.fixture(params=ENCODERS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    models.save(ENCODERS[request.param](), tmp_path)
    return tmp_path


@pytest.fixture
def numbers_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each read of the test took from a weights file."""
    counts: list[int] = []
    original = weights._read_slices

    def counted(found: object, at: tuple[slice, ...]) -> torch.Tensor:
        part = original(found, at)
        counts.append(part.numel())
        return part

    monkeypatch.setattr(weights, "_read_slices", counted)
    return counts


def sizes(encoder: models.Encoder) -> dict[str, int]:
    return {name: math.prod(tensor.shape) for name, tensor in encoder.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_without_weights_reads_none(
    directory: Path, numbers_read: list[int], precision: models.Precision
) -> None:
    encoder = models.load(directory, precision=precision, weights=False)
    assert numbers_read == []
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert not encoder.training
    whole = models.load(directory, precision=precision)
    assert encoder.hook_names == whole.hook_names
    assert encoder.tokeniser.vocabulary == whole.tokeniser.vocabulary
    assert {name: tensor.dtype for name, tensor in encoder.state_dict().items()} == {
        name: tensor.dtype for name, tensor in whole.state_dict().items()
    }


def test_an_encoder_without_weights_is_still_held_to_its_file(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"model.safetensors: damaged"):
        models.load(directory, weights=False)


def test_loading_does_not_import_the_compiler_of_pytorch(tmp_path: Path) -> None:
    """It takes a second, which every job and every worker that loads an encoder would spend."""
    for name, encoder in ENCODERS.items():
        models.save(encoder(), tmp_path / name)
    code = (
        "import sys; from engine import models\n"
        "for directory in sys.argv[1:]: models.load(directory)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    directories = [str(tmp_path / name) for name in ENCODERS]
    assert subprocess.run([sys.executable, "-c", code, *directories], cwd=REPOSITORY).returncode == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rank_reads_and_holds_its_own_part_only(
    directory: Path, numbers_read: list[int], precision: models.Precision
) -> None:
    whole = models.load(directory, precision=precision)
    numbers_read.clear()
    ranks = [models.load(directory, precision=precision, shard=TensorShard(rank, 2)) for rank in range(2)]
    assert sum(numbers_read) == sum(sum(sizes(rank).values()) for rank in ranks)
    shared = [name for name, size in sizes(ranks[0]).items() if size != sizes(whole)[name]]
    assert {name.split(".", 2)[2] for name in shared} >= {"attention.out.weight", "ffn.up.bias"}
    for name in shared:
        assert 2 * sizes(ranks[0])[name] == sizes(whole)[name]
        # Memory that the rank's tensor keeps alive, and not a view of the whole one.
        column = ranks[0].state_dict()[name]
        if name.endswith(("out.weight", "down.weight", "qkv.weight")):
            assert column.untyped_storage().nbytes() == column.numel() * column.element_size()
    assert not any(parameter.requires_grad for parameter in ranks[0].parameters())
    assert {name: tensor.dtype for name, tensor in ranks[1].state_dict().items()} == {
        name: tensor.dtype for name, tensor in whole.state_dict().items()
    }


def test_a_pickled_checkpoint_is_shared_too(tmp_path: Path) -> None:
    encoder = small_tahoe()
    models.save(encoder, tmp_path)
    expected = models.load(tmp_path, shard=TensorShard(1, 2)).state_dict()
    (tmp_path / "model.safetensors").unlink()
    state = {"model": models.tahoe.checkpoint.KEYS.export(encoder)}
    torch.save({"state": state}, tmp_path / "best-model.pt")
    found = models.load(tmp_path, shard=TensorShard(1, 2)).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(p.is_meta for p in models.load(tmp_path, weights=False).parameters())


def test_sizes_that_do_not_divide_are_refused_with_those_that_do(tmp_path: Path) -> None:
    encoder = small_geneformer(d_model=24, n_heads=6, ffn=40)
    assert models.tensor_parallel_sizes(encoder) == (1, 2)
    models.save(encoder, tmp_path)
    with pytest.raises(ModelError, match=r"over 3 devices: .* 6 attention heads .* over 1, 2$"):
        models.load(tmp_path, weights=False, shard=TensorShard(0, 3))
