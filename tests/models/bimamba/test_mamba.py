"""Blocks and their bidirectional use: padding, ties, names, precision, kernels."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.models import bimamba
from engine.models.bimamba import kernels
from engine.models.bimamba.mamba import STATE_PARAMETERS
from engine.models.bimamba.scan import ssd
from engine.models.bimamba.selective_scan import selective_scan
from engine.models.errors import ModelError
from tests.models.bimamba.small_models import shaken, small_config

WAYS = [
    {"tie": tie, "combine": combine, "block": block}
    for tie in ("projections", "none")
    for combine in ("sum", "concat")
    for block in ("mamba2", "mamba1")
]


def block_of(**options: Any) -> bimamba.BiMamba:
    torch.manual_seed(0)
    block: bimamba.BiMamba = shaken(bimamba.BiMamba(small_config(**options)))
    return block


def sequences(length: int = 75) -> Tensor:
    return torch.randn(2, length, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_padding_changes_nothing(way: dict[str, str]) -> None:
    """Whatever lies in it, before, between and behind, and however long it is."""
    block, x_BLD = block_of(**way), sequences()
    alone_BLD = block(x_BLD)
    padded_BLD = 100 * torch.randn(2, 140, 16)
    valid_BL = torch.zeros(2, 140, dtype=torch.bool)
    for row, first in enumerate((0, 65)):
        padded_BLD[row, first : first + 75] = x_BLD[row]
        valid_BL[row, first : first + 75] = True
    torch.testing.assert_close(
        block(padded_BLD, valid_BL)[valid_BL], alone_BLD.flatten(0, 1), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_reversing_the_input_swaps_the_directions() -> None:
    block, x_BLD = block_of(tie="none"), sequences()
    swapped = block_of(tie="none")
    weights = {
        name.replace("fwd", "x").replace("bwd", "fwd").replace("x.", "bwd."): part
        for name, part in block.state_dict().items()
    }
    swapped.load_state_dict(weights)
    torch.testing.assert_close(swapped(x_BLD.flip(1)).flip(1), block(x_BLD), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_tied_directions_share_projections_only() -> None:
    """As two whole blocks with the same projections, whose outputs are added."""
    tied, whole = block_of(tie="projections"), block_of(tie="none")
    names = [name for name, _ in tied.named_parameters()]
    assert not any("mamba_bwd" in name and "proj" in name for name in names)
    weights = tied.state_dict()
    for projection in ("in_proj.weight", "out_proj.weight"):
        weights[f"mamba_bwd.{projection}"] = weights[f"mamba_fwd.{projection}"]
    whole.load_state_dict(weights)
    torch.testing.assert_close(tied(sequences()), whole(sequences()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_names_of_caduceus_and_copies_of_tied_weights() -> None:
    block = block_of()
    weights = {name.replace("bwd", "rev"): part for name, part in block.state_dict().items()}
    for projection in ("in_proj.weight", "out_proj.weight"):
        weights[f"mamba_rev.{projection}"] = weights[f"mamba_fwd.{projection}"].clone()
    again = bimamba.BiMamba(small_config())
    again.load_state_dict(weights)
    torch.testing.assert_close(again(sequences()), block(sequences()), rtol=0, atol=0)
    weights["mamba_rev.in_proj.weight"] += 1
    with pytest.raises(ModelError, match='tie="none"'):
        again.load_state_dict(weights)


def test_state_parameters_stay_in_float32_and_out_of_weight_decay() -> None:
    for block in (bimamba.Mamba1(16), bimamba.Mamba2(16, headdim=8)):
        before = {name: part.clone() for name, part in block.named_parameters()}
        block.bfloat16()
        kept = {name for name, part in block.named_parameters() if part.dtype == torch.float32}
        assert kept == {name for name in STATE_PARAMETERS if name in before}
        for name in kept:
            torch.testing.assert_close(block.get_parameter(name), before[name], rtol=0, atol=0)
            assert block.get_parameter(name)._no_weight_decay  # type: ignore[attr-defined]
        assert block(sequences().bfloat16()).isfinite().all()


@torch.no_grad()
def test_a_limited_step_and_groups() -> None:
    torch.manual_seed(0)
    free, limited = (
        bimamba.Mamba2(16, headdim=8, ngroups=2, dt_limit=limit) for limit in ((0.0, 1e9), (0.0, 0.0))
    )
    assert free(sequences()).abs().max() > 0
    limited.load_state_dict(free.state_dict())
    # No step, no state: what is left is the skip.
    limited.D.zero_()
    assert limited(sequences()).abs().max() == 0
    with pytest.raises(ModelError, match="not cut evenly"):
        bimamba.Mamba2(16, headdim=64)


@torch.no_grad()
def test_kernels_of_mamba_ssm_are_called_as_they_want(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins with their signatures and layouts, computing what they compute; a GPU is not needed."""
    calls: list[str] = []

    def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None):  # type: ignore[no-untyped-def]
        calls.append("ssd")
        assert all(part.is_contiguous() for part in (x, B, C))
        return ssd(x, dt, A, B, C, chunk_size) + x * D[:, None]

    def selective_scan_fn(u, delta, A, B, C):  # type: ignore[no-untyped-def]
        calls.append("selective")
        return selective_scan(u.mT, delta.mT, A, B.mT, C.mT).mT

    def causal_conv1d_fn(x, weight, bias=None, activation=None):  # type: ignore[no-untyped-def]
        calls.append("conv")
        y = torch.nn.functional.conv1d(x, weight[:, None], bias, padding=3, groups=len(weight))
        return torch.nn.functional.silu(y[..., : x.shape[-1]])

    x_BLD = sequences()
    blocks = [shaken(bimamba.Mamba1(16)), shaken(bimamba.Mamba2(16, headdim=8, ngroups=2))]
    expected = [block(x_BLD) for block in blocks]
    stand_ins = {
        "mamba_chunk_scan_combined": mamba_chunk_scan_combined,
        "selective_scan_fn": selective_scan_fn,
        "causal_conv1d_fn": causal_conv1d_fn,
    }
    monkeypatch.setattr(kernels, "_kernel", lambda x, module, name: stand_ins[name])
    for block, plain in zip(blocks, expected, strict=True):
        torch.testing.assert_close(block(x_BLD), plain, rtol=1e-4, atol=1e-5)
    assert calls == ["conv", "selective", "conv", "ssd"]


def test_kernels_that_cannot_be_imported_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without what its kernels need, as mamba-ssm without its CUDA build."""
    assert kernels.ssd_kernel(torch.zeros(1)) is None
    broken = ModuleType("broken_kernels")
    broken.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("broken_kernels", None)
    monkeypatch.setitem(sys.modules, "broken_kernels", broken)
    assert kernels._imported("broken_kernels.missing", "anything") is None
    assert kernels._imported("not_installed_at_all", "anything") is None
