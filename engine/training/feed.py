"""Batches and prepared weights for workers that share features: one of them asks, all have the same."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from engine.models.sae.parallelise import FeatureShard
from engine.training.recipe import Batch, Recipe, Share
from engine.training.sharding import Worker, agree


class Sent(NamedTuple):
    """A tensor of a batch that is about to be sent."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    device_type: str


def prepare(recipe: Recipe, module: nn.Module, share: Share, worker: Worker, shard: FeatureShard) -> None:
    """`recipe.prepare` on the first worker of every share; what it has set, on all. Collective."""
    if shard.rank == 0:
        recipe.prepare(module, share, worker.device)
    if shard.world > 1:
        cut = per_feature(module)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name not in cut:
                on_device = tensor.detach().to(worker.device)
                dist.broadcast(on_device, group=shard.group, group_src=0)
                with torch.no_grad():
                    tensor.copy_(on_device)


def batches(
    recipe: Recipe, module: nn.Module, start_step: int, share: Share, worker: Worker, shard: FeatureShard
) -> Iterator[Batch]:
    """The batches of this worker's share, from the recipe or from the first worker of the share."""
    if shard.rank == 0:
        for batch in recipe.batches(module, start_step, share, worker.device):
            yield _sent(batch, worker.device, shard)
    else:
        while True:
            yield _received(worker.device, shard)


def per_feature(module: nn.Module) -> dict[str, FeatureShard]:
    """Weights and buffers of which this worker holds some rows only, by name; see `Recipe.build`."""
    cut = {}
    for prefix, part in module.named_modules():
        for name in getattr(part, "per_feature", ()):
            cut[f"{prefix}.{name}".lstrip(".")] = part.feature_shard
    return cut


def _sent(batch: Batch, device: torch.device, shard: FeatureShard) -> Batch:
    if shard.world == 1:
        return batch
    agree([Sent(name, x.shape, x.dtype, x.device.type) for name, x in batch.items()], device, shard.group)
    for tensor in batch.values():
        dist.broadcast(tensor.to(device).contiguous(), group=shard.group, group_src=0)
    return batch


def _received(device: torch.device, shard: FeatureShard) -> Batch:
    batch, none = {}, list[Sent]()
    for name, shape, dtype, kind in agree(none, device, shard.group):
        tensor = torch.empty(shape, dtype=dtype, device=device)
        dist.broadcast(tensor, group=shard.group, group_src=0)
        batch[name] = tensor.to(kind)
    return batch
