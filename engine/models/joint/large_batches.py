"""Contrastive batches larger than memory: features in chunks, negatives from every worker.

What these make is the full batch's gradient, not an approximation of it. Source: GradCache
(arXiv:2101.06983), here as recomputation inside one backward pass, so that it works under any training loop.
Legend: B rows of a rank, W ranks, D width of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Chunk = TypeVar("Chunk")


def features_in_chunks(tower: Callable[[Chunk], Tensor], chunks: Iterable[Chunk]) -> Tensor:
    """Features f_BD of all chunks, of which only the features are kept until the backward pass.

    There a chunk is run again, with the random numbers it had, differentiated and dropped before the next, so
    memory is that of one chunk however many there are. `tower` must treat rows independently (towers do; a
    head with BatchNorm does not, and belongs behind this).
    """
    found = [checkpoint(tower, chunk, use_reentrant=False) for chunk in chunks]
    features: Tensor = torch.cat(found)
    return features


def gather_rows(x_BD: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of all ranks [W*B, D] in rank order, the same on each; itself without a process group.

    All ranks must bring as many rows. Gradients return to the rank a row came from, summed over ranks: each
    rank computes the loss of the whole batch, and a loop that averages gradients over ranks (DDP, DeepSpeed)
    then has the gradient of that loss.
    """
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return x_BD
    rows: Tensor = _Gathered.apply(x_BD, group)  # type: ignore[no-untyped-call]
    return rows


def most_rows(n_rows: int, device: torch.device, group: dist.ProcessGroup | None = None) -> int:
    """The largest number of rows that a rank has; its own without a process group. Collective."""
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return n_rows
    most = torch.tensor(n_rows, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    return int(most)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x_BD) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x_BD.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # all_reduce and a slice rather than reduce_scatter, which gloo does not have.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        rank = dist.get_rank(ctx.group)
        n_rows = len(total) // dist.get_world_size(ctx.group)
        return total[rank * n_rows : (rank + 1) * n_rows], None
