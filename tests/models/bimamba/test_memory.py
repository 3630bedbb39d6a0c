"""What a model will need, before it exists, against what it is seen to keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.models import bimamba
from tests.models.bimamba.small_models import GENES, small_config


def kept_bytes(config: bimamba.PerturbationConfig, n_conditions: int, *, bf16: bool) -> int:
    """Of everything that autograd keeps for the backward pass, weights aside."""
    model = bimamba.create(config, [f"G{i}" for i in range(config.n_genes)])
    owned = {part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    conditions = bimamba.Conditions.of([[1]] * n_conditions)
    watched = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with watched, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(torch.rand(1, config.n_genes), conditions)
    return sum(part.untyped_storage().nbytes() for at, part in kept.items() if at not in owned)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "options", [{"block": "mamba2"}, {"block": "mamba2", "ngroups": 2}, {"block": "mamba1"}], ids=str
)
def test_kept_by_layers(options: dict[str, Any], bf16: bool) -> None:
    sizes = {"n_genes": 1023, "n_targets": 0, "d_model": 32, "d_state": 16, "headdim": 16}
    shallow, deep = (small_config(**sizes, **options, n_layers=layers) for layers in (1, 3))
    found = kept_bytes(deep, 2, bf16=bf16) - kept_bytes(shallow, 2, bf16=bf16)
    planned = [
        bimamba.activation_terms(config, 2, checkpointing=False, bf16=bf16)["activations of layers"]
        for config in (shallow, deep)
    ]
    assert planned[1] - planned[0] == pytest.approx(found, rel=0.03)


def test_computing_again_keeps_a_stream_a_layer() -> None:
    config = small_config(n_layers=10)
    whole = bimamba.activation_terms(config, 3, checkpointing=False)
    again = bimamba.activation_terms(config, 3, checkpointing=True)
    assert again["activations of layers"] * 10 == whole["activations of layers"]
    assert again["residual stream"] == 10 * 4 * 3 * (len(GENES) + 1) * 16


def test_parameters_up_to_3_billion() -> None:
    config = small_config()
    counted = sum(parameter.numel() for parameter in bimamba.PerturbationModel(config).parameters())
    assert bimamba.parameter_count(config) == counted
    large = bimamba.PerturbationConfig(
        n_genes=18_080,
        d_model=2560,
        n_layers=38,
        d_state=128,
        tie="none",
        condition_dim=256,
        gene_identity_dim=189,
    )
    assert 3.0e9 < bimamba.parameter_count(large) < 3.3e9
