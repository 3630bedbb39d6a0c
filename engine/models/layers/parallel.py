"""One encoder on several devices: every rank holds its share of the linear layers of each block.

A column-parallel layer makes some of the outputs. It is a plain `Linear` that has only those, since every
rank knows the whole input. A row-parallel layer takes some of the inputs, those the rank's own columns made,
and adds the ranks' results up. A block therefore communicates twice, once behind attention and once behind
the feed-forward part; tables, norms, the residual stream and the prediction heads are whole on every rank.
For inference: gradients do not cross ranks. Source: Megatron-LM (arXiv:1909.08053), section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.models.errors import ModelError
from engine.models.layers.linear import linear
from engine.models.layers.precision import Linear

# Where a rank's part of a stored tensor lies: these pieces, one behind the other along the first axis.
Pieces = list[tuple[slice, ...]]


@dataclass(frozen=True)
class TensorShard:
    """Which part of an encoder a process holds: that of `rank` among `world` of them.

    group: the ranks' process group; None for the default one of torch.distributed.
    """

    rank: int
    world: int
    group: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class Split:
    """How a linear layer is shared out. parts: equal runs of outputs, each of which is shared out."""

    by: Literal["outputs", "inputs"]
    parts: int = 1

    def layer(self, whole: nn.Linear, shard: TensorShard) -> Linear:
        """The rank's layer, its weights yet to be filled in."""
        n_in, n_out, has_bias = whole.in_features, whole.out_features, whole.bias is not None
        like: dict[str, Any] = {"bias": has_bias, "device": whole.weight.device, "dtype": whole.weight.dtype}
        if self.by == "inputs":
            return RowParallel(n_in // shard.world, n_out, shard, **like)
        return Linear(n_in, n_out // shard.world, **like)

    def pieces(self, shape: tuple[int, ...], shard: TensorShard) -> Pieces:
        """The rank's part of a weight or bias of `shape`."""
        if self.by == "inputs":
            # The bias of a row-parallel layer is whole on every rank.
            return [(slice(None), _share(0, shape[1], shard))] if len(shape) == 2 else [()]
        part = shape[0] // self.parts
        return [(_share(start, part, shard),) for start in range(0, shape[0], part)]


COLUMNS = Split("outputs")
# Rows [Q | K | V], each head by head: a rank takes its heads of each.
QKV_COLUMNS = Split("outputs", parts=3)
ROWS = Split("inputs")


class RowParallel(Linear):
    """Linear layer of which every rank has some inputs; all ranks get the sum, to which the bias is added
    once.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        shard: TensorShard,
        *,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.shard = shard

    def forward(self, x: Tensor) -> Tensor:
        y = linear(x.to(self.weight.dtype), self.weight, None)
        dist.all_reduce(y, group=self.shard.group)
        return y if self.bias is None else y + self.bias


def worlds(n_heads: int, d_ffn: int) -> tuple[int, ...]:
    """By how many ranks an encoder of these sizes can be shared: whole heads and equal feed-forward parts."""
    return tuple(n for n in range(1, n_heads + 1) if n_heads % n == 0 and d_ffn % n == 0)


def share_blocks(
    blocks: Iterable[nn.Module], plan: Mapping[str, Split], shard: TensorShard
) -> dict[str, Split]:
    """Put the rank's layers in the place of the whole ones; returns the split of each of their tensors, by
    name within `blocks`.

    plan: name of a layer within its block -> how it is split; layers that the blocks lack are left out.
    Every block has `attention.n_heads` and a feed-forward part `ffn` with a layer `up`.
    Raises ModelError when the heads cannot be shared evenly.
    """
    splits: dict[str, Split] = {}
    for index, block in enumerate(blocks):
        layers: dict[str, Any] = dict(block.named_modules())
        attention = layers["attention"]
        _require_world(shard.world, attention.n_heads, layers["ffn.up"].out_features)
        attention.n_heads //= shard.world
        for name, split in plan.items():
            if name in layers:
                block.set_submodule(name, split.layer(layers[name], shard))
                splits |= {f"{index}.{name}.{tensor}": split for tensor in ("weight", "bias")}
    return splits


def _require_world(world: int, n_heads: int, d_ffn: int) -> None:
    possible = worlds(n_heads, d_ffn)
    if world not in possible:
        raise ModelError(
            f"tensor parallelism over {world} devices: this model has {n_heads} attention heads and a "
            f"feed-forward width of {d_ffn}, which divide over {', '.join(map(str, possible))}"
        )


def _share(start: int, length: int, shard: TensorShard) -> slice:
    width = length // shard.world
    return slice(start + shard.rank * width, start + (shard.rank + 1) * width)
