"""Mamba-1 and Mamba-2 blocks in plain PyTorch, with the parameter names of mamba-ssm.

Checkpoints go both ways: `load_state_dict` takes mamba-ssm's and Hugging Face's weights unchanged, and theirs
take ours. Sources: arXiv:2312.00752 and 2405.21060; layout of state-spaces/mamba 2.3.
Legend: B sequences, L length, D model width, E inner channels, N state, H heads, P head width, G groups,
X convolved channels, Z outputs of in_proj.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.bimamba.kernels import conv_kernel, selective_scan_kernel, ssd_kernel
from engine.models.bimamba.scan import CHUNK, ssd
from engine.models.bimamba.selective_scan import selective_scan
from engine.models.errors import ModelError
from engine.models.layers.precision import Linear

# Parameters of the state: exponentials of them are taken, or sums over the whole sequence depend on them.
STATE_PARAMETERS = ("A_log", "D", "dt_bias")
NORM_EPS = 1e-5


class CausalConv(nn.Module):
    """Depthwise convolution over a position and the K - 1 before it, and SiLU."""

    def __init__(self, channels: int, d_conv: int, bias: bool = True) -> None:
        super().__init__()
        bound = d_conv**-0.5
        self.weight = nn.Parameter(torch.empty(channels, 1, d_conv).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x_BLX: Tensor) -> Tensor:
        kernel = conv_kernel(x_BLX) if self.weight.shape[-1] in (2, 3, 4) else None
        weight_XK = self.weight[:, 0].to(x_BLX.dtype)
        bias_X = None if self.bias is None else self.bias.to(x_BLX.dtype)
        if kernel is not None:
            y_BXL: Tensor = kernel(x_BLX.mT, weight_XK, bias_X, activation="silu")
            return y_BXL.mT
        return F.silu(_convolved(x_BLX, weight_XK, bias_X))


def _convolved(x_BLX: Tensor, weight_XK: Tensor, bias_X: Tensor | None) -> Tensor:
    """Shifted products: on a CPU a fifth of the time of `F.conv1d`, which wants positions last."""
    length, width = x_BLX.shape[1], weight_XK.shape[1]
    before_BLX = F.pad(x_BLX, (0, 0, width - 1, 0))
    y_BLX = x_BLX * weight_XK[:, -1]
    if bias_X is not None:
        y_BLX = y_BLX + bias_X
    for k in range(width - 1):
        y_BLX = torch.addcmul(y_BLX, before_BLX[:, k : k + length], weight_XK[:, k])
    return y_BLX


class GatedNorm(nn.Module):
    """RMS norm over groups of channels of what the gate lets through; in float32."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.groups = groups

    def forward(self, y_BLE: Tensor, z_BLE: Tensor) -> Tensor:
        gated_BLE = y_BLE * F.silu(z_BLE.to(y_BLE.dtype))
        grouped = gated_BLE.view(*gated_BLE.shape[:2], self.groups, -1)
        return F.rms_norm(grouped, grouped.shape[-1:], eps=NORM_EPS).flatten(-2) * self.weight


class MambaBlock(nn.Module):
    """What both generations share: projections in and out, and a state kept in float32.

    in_proj, out_proj: None in a block that another one projects for (`BiMamba`).
    """

    in_proj: Linear | None
    out_proj: Linear | None
    d_inner: int

    def forward(self, x: Tensor, valid_BL: Tensor | None = None, *, inner: bool = False) -> Tensor:
        """y_BLD of x_BLD. valid_BL: bool, False at padding, which then changes nothing else; its own rows
        are to be ignored. inner: x is projected already (p_BLZ) and inner channels (y_BLE) are returned.
        """
        y_BLE = self.mix(x if inner else self.projected(x), valid_BL)
        return y_BLE if inner else self.joined(y_BLE)

    def projected(self, x_BLD: Tensor) -> Tensor:
        """p_BLZ: what `mix` takes; the input itself where another block projects."""
        return x_BLD if self.in_proj is None else cast(Tensor, self.in_proj(x_BLD))

    def joined(self, y_BLE: Tensor) -> Tensor:
        """y_BLD: inner channels brought to the model's width; themselves where another block does that."""
        return y_BLE if self.out_proj is None else cast(Tensor, self.out_proj(y_BLE))

    def mix(self, p_BLZ: Tensor, valid_BL: Tensor | None) -> Tensor:
        """Between the projections."""
        raise TypeError("MambaBlock is made as Mamba1 or Mamba2")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MambaBlock:
        """As for any module (`to`, `bfloat16`, `cuda`), but the state's parameters stay in float32."""
        whole = {name: p.data for name, p in self.named_parameters(recurse=False) if name in STATE_PARAMETERS}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in whole.items():
            parameter = self.get_parameter(name)
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = kept.to(parameter.device)
        return self

    def _keep_from_decay(self) -> None:
        for name in STATE_PARAMETERS:
            if isinstance(parameter := getattr(self, name, None), nn.Parameter):
                parameter._no_weight_decay = True  # type: ignore[attr-defined]  # mamba-ssm's own mark


class Mamba1(MambaBlock):
    """Selective state space of arXiv:2312.00752: x_BLD -> y_BLD.

    dt_rank: numbers that step sizes are made of; None for ceil(d_model / 16). Step sizes start between dt_min
    and dt_max, log-uniformly.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        *,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        conv_bias: bool = True,
        bias: bool = False,
        project_in: bool = True,
        project_out: bool = True,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_inner = d_model, d_state, expand * d_model
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.in_proj = Linear(d_model, 2 * self.d_inner, bias=bias) if project_in else None
        self.conv1d = CausalConv(self.d_inner, d_conv, conv_bias)
        self.x_proj = Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(self.dt_rank, self.d_inner)
        with torch.no_grad():
            bound = self.dt_rank**-0.5
            self.dt_proj.weight.uniform_(-bound, bound)
            self.dt_proj.bias.copy_(_step_bias(self.d_inner, dt_min, dt_max))
        rates_N = torch.arange(1, d_state + 1, dtype=torch.float32).log()
        self.A_log = nn.Parameter(rates_N.repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = Linear(self.d_inner, d_model, bias=bias) if project_out else None
        self._keep_from_decay()

    def mix(self, p_BLZ: Tensor, valid_BL: Tensor | None) -> Tensor:
        x_BLE, z_BLE = p_BLZ.chunk(2, -1)
        x_BLE = self.conv1d(x_BLE if valid_BL is None else x_BLE * valid_BL[..., None])
        widths = [self.dt_rank, self.d_state, self.d_state]
        dt_BLR, B_BLN, C_BLN = torch.split(self.x_proj(x_BLE), widths, -1)
        dt_BLE = F.softplus(self.dt_proj(dt_BLR).float())
        if valid_BL is not None:
            dt_BLE = dt_BLE * valid_BL[..., None]
        A_EN = -self.A_log.float().exp()
        x_BLE = x_BLE.float()
        kernel = selective_scan_kernel(x_BLE)
        if kernel is not None:
            by_position = (B_BLN.float().mT.contiguous(), C_BLN.float().mT.contiguous())
            y_BLE: Tensor = kernel(x_BLE.mT.contiguous(), dt_BLE.mT.contiguous(), A_EN, *by_position).mT
        else:
            y_BLE = selective_scan(x_BLE, dt_BLE, A_EN, B_BLN, C_BLN)
        return torch.addcmul(y_BLE, x_BLE, self.D.float()) * F.silu(z_BLE.float())


class Mamba2(MambaBlock):
    """State space duality of arXiv:2405.21060: x_BLD -> y_BLD.

    headdim: channels of a head, each of which has one decay; ngroups: groups of heads that share B and C.
    chunk: positions of a chunk of the scan. Step sizes start between dt_min and dt_max, log-uniformly, and
    are kept within dt_limit; decay rates start between A_range's ends.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        *,
        A_range: tuple[float, float] = (1.0, 16.0),
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        conv_bias: bool = True,
        bias: bool = False,
        chunk: int = CHUNK,
        project_in: bool = True,
        project_out: bool = True,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_inner = d_model, d_state, expand * d_model
        if self.d_inner % headdim or (self.d_inner // headdim) % ngroups:
            raise ModelError(
                f"Mamba-2: expand x d_model = {self.d_inner} is not cut evenly into heads of {headdim} and "
                f"{ngroups} groups"
            )
        self.headdim, self.ngroups, self.n_heads = headdim, ngroups, self.d_inner // headdim
        self.dt_limit, self.chunk = dt_limit, chunk
        convolved = self.d_inner + 2 * ngroups * d_state
        n_projected = self.d_inner + convolved + self.n_heads
        self.in_proj = Linear(d_model, n_projected, bias=bias) if project_in else None
        self.conv1d = CausalConv(convolved, d_conv, conv_bias)
        self.dt_bias = nn.Parameter(_step_bias(self.n_heads, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.empty(self.n_heads).uniform_(*A_range).log())
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = GatedNorm(self.d_inner, ngroups)
        self.out_proj = Linear(self.d_inner, d_model, bias=bias) if project_out else None
        self._keep_from_decay()

    def mix(self, p_BLZ: Tensor, valid_BL: Tensor | None) -> Tensor:
        states = self.ngroups * self.d_state
        widths = [self.d_inner, self.d_inner + 2 * states, self.n_heads]
        z_BLE, xBC_BLX, dt_BLH = torch.split(p_BLZ, widths, -1)
        xBC_BLX = self.conv1d(xBC_BLX if valid_BL is None else xBC_BLX * valid_BL[..., None])
        x_BLE, B_BLX, C_BLX = torch.split(xBC_BLX, [self.d_inner, states, states], -1)
        dt_BLH = F.softplus(dt_BLH.float() + self.dt_bias.float())
        if self.dt_limit != (0.0, math.inf):
            dt_BLH = dt_BLH.clamp(*self.dt_limit)
        if valid_BL is not None:
            dt_BLH = dt_BLH * valid_BL[..., None]
        n, length = dt_BLH.shape[:2]
        x_BLHP = x_BLE.reshape(n, length, self.n_heads, self.headdim)
        B_BLGN, C_BLGN = (p.reshape(n, length, self.ngroups, self.d_state) for p in (B_BLX, C_BLX))
        y_BLHP = self._scanned(x_BLHP, dt_BLH, B_BLGN, C_BLGN)
        gated_BLE: Tensor = self.norm(y_BLHP.flatten(-2), z_BLE)
        return gated_BLE

    def _scanned(self, x_BLHP: Tensor, dt_BLH: Tensor, B_BLGN: Tensor, C_BLGN: Tensor) -> Tensor:
        A_H, D_H = -self.A_log.float().exp(), self.D.float()
        kernel: Any = ssd_kernel(x_BLHP)
        if kernel is not None:
            y_BLHP: Tensor = kernel(
                x_BLHP.contiguous(), dt_BLH, A_H, B_BLGN.contiguous(), C_BLGN.contiguous(), 256, D=D_H
            )
            return y_BLHP.float()
        y_BLHP = ssd(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, self.chunk)
        return torch.addcmul(y_BLHP, x_BLHP.to(y_BLHP.dtype), D_H[:, None].to(y_BLHP.dtype))


def _step_bias(channels: int, dt_min: float, dt_max: float) -> Tensor:
    """Biases whose softplus are step sizes, log-uniform from dt_min to dt_max."""
    dt = (torch.rand(channels) * math.log(dt_max / dt_min) + math.log(dt_min)).exp().clamp_min(1e-4)
    return dt + (-torch.expm1(-dt)).log()
