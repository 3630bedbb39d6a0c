"""A Mamba block that reads the genome from both ends.

Legend: B sequences, L length, D model width, E inner channels, Z outputs of in_proj.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from engine.models.bimamba.config import PerturbationConfig
from engine.models.bimamba.mamba import Mamba1, Mamba2
from engine.models.errors import ModelError
from engine.models.layers.precision import Linear


class BiMamba(nn.Module):
    """One scan forwards, one over the reversed sequence, put back in order and added up.

    tie "projections": both directions share in_proj and out_proj, and have convolution, step sizes, decay and
    skip of their own, as Caduceus (arXiv:2403.03234); the shared products are computed once. "none": two
    whole blocks. combine "concat": both directions side by side into one output map.

    Weights are named `mamba_fwd.*` and `mamba_bwd.*`; `mamba_rev.*` and copies of tied weights are understood
    on load.
    """

    def __init__(self, config: PerturbationConfig) -> None:
        super().__init__()
        self.tied, self.concat = config.tie == "projections", config.combine == "concat"
        self.mamba_fwd = _block(config, project_in=True, project_out=not self.concat)
        self.mamba_bwd = _block(config, project_in=not self.tied, project_out=not (self.tied or self.concat))
        self.out_proj = Linear(2 * config.d_inner, config.d_model, bias=False) if self.concat else None
        self.register_load_state_dict_pre_hook(_understand_names)  # type: ignore[no-untyped-call]

    def forward(self, x_BLD: Tensor, valid_BL: Tensor | None = None) -> Tensor:
        """y_BLD. valid_BL: bool, False at padding, wherever it is; padding changes nothing else."""
        reversed_BL = None if valid_BL is None else valid_BL.flip(1)
        if not self.tied and not self.concat:
            backward_BLD = self.mamba_bwd(x_BLD.flip(1), reversed_BL)
            both_BLD: Tensor = self.mamba_fwd(x_BLD, valid_BL) + backward_BLD.flip(1)
            return both_BLD
        p_BLZ = self.mamba_fwd.projected(x_BLD)
        back_BLZ = p_BLZ.flip(1) if self.tied else self.mamba_bwd.projected(x_BLD.flip(1))
        forward_BLE = self.mamba_fwd(p_BLZ, valid_BL, inner=True)
        backward_BLE = self.mamba_bwd(back_BLZ, reversed_BL, inner=True).flip(1)
        if self.out_proj is not None:
            return cast(Tensor, self.out_proj(torch.cat([forward_BLE, backward_BLE], -1)))
        return self.mamba_fwd.joined(forward_BLE + backward_BLE)


def _block(config: PerturbationConfig, **projections: Any) -> Mamba1 | Mamba2:
    sizes: dict[str, Any] = {"d_state": config.d_state, "d_conv": config.d_conv, "expand": config.expand}
    if config.block == "mamba1":
        return Mamba1(config.d_model, **sizes, **projections)
    return Mamba2(config.d_model, **sizes, headdim=config.headdim, ngroups=config.ngroups, **projections)


def _understand_names(module: BiMamba, weights: dict[str, Any], prefix: str, *ignored: Any) -> None:
    """Caduceus' name of the reversed direction, and its second copy of tied weights."""
    for name in [name for name in weights if name.startswith(f"{prefix}mamba_rev.")]:
        weights[name.replace("mamba_rev.", "mamba_bwd.", 1)] = weights.pop(name)
    if not module.tied:
        return
    for projection in ("in_proj.weight", "out_proj.weight"):
        copy = weights.pop(f"{prefix}mamba_bwd.{projection}", None)
        kept = weights.get(f"{prefix}mamba_fwd.{projection}")
        if copy is not None and kept is not None and not torch.equal(copy, kept):
            raise ModelError(
                f"{prefix}mamba_bwd.{projection} differs from mamba_fwd's: these directions are not tied; "
                'load them into a model with tie="none"'
            )
