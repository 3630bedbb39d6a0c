"""Export in pieces writes what export of the whole writes; the largest configuration goes the same way."""

import dataclasses
from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

from engine.models import sae
from engine.models.sae import shards
from engine.models.sae.model import per_feature_names
from engine.models.sae.parallelise import FeatureShard
from engine.models.sae.piecewise import export_piecewise, n_pieces
from tests.models.sae.small import ALL_ARCHITECTURES, random_sae

LARGEST = sae.SAEConfig("topk", 2560, 655_360, k=64, rescale_acts_by_decoder_norm=True)
WORLD = 8


def assert_same_directory(found: Path, expected: Path) -> None:
    assert (found / "cfg.json").read_text() == (expected / "cfg.json").read_text()
    ours, theirs = (load_file(path / "sae_weights.safetensors") for path in (found, expected))
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_pieces_export_to_what_the_whole_exports_to(architecture: str, tmp_path: Path) -> None:
    whole = random_sae(architecture)
    mean_D = torch.randn(12, generator=torch.Generator().manual_seed(3))
    sae.save(sae.fold_input_scaling(whole, mean_D, 1.5), tmp_path / "whole")
    state, cut = dict(whole.named_parameters()) | dict(whole.named_buffers()), per_feature_names(architecture)

    def weights(start: int, stop: int) -> dict[str, torch.Tensor]:
        return {name: t.detach()[start:stop] if name in cut else t.detach() for name, t in state.items()}

    (tmp_path / "pieces").mkdir()
    assert n_pieces(whole.config, 2000) > 2
    export_piecewise(whole.config, weights, mean_D, 1.5, tmp_path / "pieces", piece_bytes=2000)
    assert_same_directory(tmp_path / "pieces", tmp_path / "whole")
    assert not list(tmp_path.glob(".pieces-*"))


def test_pieces_are_never_narrower_than_k() -> None:
    assert n_pieces(LARGEST, 1 << 30) == 13
    assert n_pieces(dataclasses.replace(LARGEST, d_sae=128), 1) == 2


def shard_of(config: sae.SAEConfig, rank: int) -> sae.TrainingModule:
    """What one of eight workers holds, without numbers on the meta device."""
    shard = FeatureShard(rank, WORLD)
    start, stop = shard.range(config.d_sae)
    with torch.device("meta"):
        return sae.TrainingModule(sae.SAE(dataclasses.replace(config, d_sae=stop - start)), shard=shard)


def test_the_largest_configuration_is_cut_without_memory() -> None:
    modules = [shard_of(LARGEST, rank) for rank in range(WORLD)]
    held = [sum(weight.numel() for weight in module.parameters()) for module in modules]
    assert sum(held) == 2 * 2560 * 655_360 + 655_360 + WORLD * 2560  # the bias of the input is everybody's
    for module in modules:
        assert module.n_features == 655_360
        rows = shards.feature_rows(module.sae, 0, module.sae.d_sae)
        assert {name: tuple(tensor.shape) for name, tensor in rows.items()} == {
            "W_enc": (2560, 81_920),
            "W_dec": (81_920, 2560),
            "b_enc": (81_920,),
        }
        marked = {name for name, weight in module.named_parameters() if hasattr(weight, "model_parallel")}
        assert marked == set(module.per_feature)


def test_the_largest_configuration_at_reduced_width_is_saved_cut_anew_and_exported(tmp_path: Path) -> None:
    config = dataclasses.replace(LARGEST, d_sae=1024)  # of the full input width
    for rank in range(WORLD):
        shard = FeatureShard(rank, WORLD)
        held = sae.objective(config, shard=shard).sae
        meta = shard_of(config, rank).sae
        assert [w.shape for w in held.parameters()] == [w.shape for w in meta.parameters()]
        start, stop = shard.range(config.d_sae)
        shards.save_shard(shards.feature_rows(held, 0, stop - start), start, tmp_path / "eight")
    shards.finish_shards(config, shards.shared_weights(held), tmp_path / "eight")
    shards.reshard(tmp_path / "eight", tmp_path / "three", 3)
    shards.export_shards(tmp_path / "three", tmp_path / "exported")
    whole = sae.initialise(config)
    sae.save(whole, tmp_path / "whole")
    assert_same_directory(tmp_path / "exported", tmp_path / "whole")
    theirs = SAE.load_from_disk(str(tmp_path / "exported"), device="cpu")
    x_BD = torch.randn(8, 2560, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        fired = theirs.encode(x_BD) > 0
        assert torch.equal(fired, whole.encode(x_BD) > 0)
        torch.testing.assert_close(theirs(x_BD), whole(x_BD), rtol=1e-4, atol=1e-4)
