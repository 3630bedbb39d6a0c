"""Autoencoders whose features are shared out over processes: what those say to each other.

Every process holds a range of consecutive features and sees all tokens of its group's batch. A step says
three things: which of everybody's scores are the best (values alone travel), what all features together
reconstruct, and what all of them ask of the bias of the input. Everything else is local.

Source: Megatron-LM (arXiv 1909.08053) for the two operators, specs/sae.md section 3 for the exact top-k.
Legend: B tokens of a batch, K candidates of a token, F features of this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.models.errors import ModelError


@dataclass(frozen=True)
class FeatureShard:
    """Which features a process holds: range `rank` of `world` equal ones.

    group: the processes that hold the other ranges and see the same tokens. batch_world: groups like this
    one that compute further parts of a batch; batch_group: the processes that hold the same range in them.
    A group of None is all processes of torch.distributed, of which there are world x batch_world.
    """

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None
    batch_world: int = 1
    batch_group: dist.ProcessGroup | None = None

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world * self.batch_world == 1

    def range(self, n_features: int) -> tuple[int, int]:
        """First and last + 1 of this process's features, of n_features in all. Raises ModelError."""
        if n_features % self.world:
            raise ModelError(f"{n_features} features cannot be cut evenly into {self.world} parts")
        each = n_features // self.world
        return self.rank * each, (self.rank + 1) * each


ALONE = FeatureShard()


def summed(partial: Tensor, shard: FeatureShard) -> Tensor:
    """Sum over the group of what each process's features give; gradients reach everybody's part whole.

    In float32 at least, since parts of half precision would be rounded again with every process.
    """
    if shard.world == 1:
        return partial
    exact = partial.float() if partial.dtype in (torch.bfloat16, torch.float16) else partial
    total: Tensor = _Summed.apply(exact, shard.group)  # type: ignore[no-untyped-call]
    return total


def shared(whole: Tensor, shard: FeatureShard) -> Tensor:
    """What every process has and feeds to its own features; its gradient is the sum of theirs."""
    if shard.world == 1:
        return whole
    fed: Tensor = _Shared.apply(whole, shard.group)  # type: ignore[no-untyped-call]
    return fed


@torch.no_grad()
def best_of_group(score_BK: Tensor, k: int, shard: FeatureShard) -> Tensor:
    """[B, K] bool: which of this process's candidates are among the k best of each token in the group.

    Exactly min(k, all candidates) of them are, ties going to lower ranks and places. Candidates of score -inf
    do not exist. All processes give equally many.
    """
    n_tokens, n_own = score_BK.shape
    everybody = [torch.empty_like(score_BK) for _ in range(shard.world)]
    dist.all_gather(everybody, score_BK.contiguous(), group=shard.group)
    order_BK = torch.cat(everybody, dim=1).sort(dim=1, descending=True, stable=True).indices[:, :k]
    place_BK = order_BK - shard.rank * n_own
    own_BK = (place_BK >= 0) & (place_BK < n_own)
    # One more column takes the places of others.
    kept_BK = torch.zeros(n_tokens, n_own + 1, dtype=torch.bool, device=score_BK.device)
    kept_BK.scatter_(1, place_BK.masked_fill(~own_BK, n_own), True)
    return kept_BK[:, :n_own] & (score_BK > -torch.inf)


@torch.no_grad()
def kth_of_group(score_BK: Tensor, k: int, shard: FeatureShard) -> Tensor:
    """[B, 1]: the k-th best score of each token in the group. All processes give equally many."""
    everybody = [torch.empty_like(score_BK) for _ in range(shard.world)]
    dist.all_gather(everybody, score_BK.contiguous(), group=shard.group)
    return torch.cat(everybody, dim=1).topk(k, dim=1).values[:, -1:]


@torch.no_grad()
def best_of_all(score_N: Tensor, n_chosen: int) -> Tensor:
    """[N] bool: which of this process's scores are among the n_chosen best of all processes.

    Ties go to lower ranks and places.
    """
    length = int(largest(torch.tensor(len(score_N), device=score_N.device)))
    padded_N = score_N.new_full((length,), -torch.inf)
    padded_N[: len(score_N)] = score_N
    everybody = [torch.empty_like(padded_N) for _ in range(dist.get_world_size())]
    dist.all_gather(everybody, padded_N)
    order_N = torch.cat(everybody).sort(descending=True, stable=True).indices[:n_chosen]
    kept_N = torch.zeros(dist.get_world_size() * length, dtype=torch.bool, device=score_N.device)
    kept_N[order_N] = True
    start = dist.get_rank() * length
    return kept_N[start : start + len(score_N)]


def fired_anywhere(fired_F: Tensor, shard: FeatureShard) -> Tensor:
    """[F] bool: which of this process's features fired on any token of the whole batch."""
    if shard.batch_world == 1:
        return fired_F
    fired = fired_F.to(torch.uint8)
    dist.all_reduce(fired, op=dist.ReduceOp.MAX, group=shard.batch_group)
    return fired.bool()


def largest(value: Tensor) -> Tensor:
    """The largest of what all processes have, in the place of `value`."""
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def smallest(value: Tensor, shard: FeatureShard) -> Tensor:
    """The smallest of what all processes of the shard have, in the place of `value`."""
    if not shard.alone:
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return value


def averaged(value: Tensor, shard: FeatureShard) -> Tensor:
    """The mean of what all processes of the shard have, in the place of `value`."""
    if not shard.alone:
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        total = partial.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Everybody computes the same loss from the sum, so that this is the whole gradient already.
        return gradients[0], None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
