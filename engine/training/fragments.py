"""The state of a run as pieces of flat tensors, whatever shares it out: features, ZeRO, both or nothing.

A tensor of the whole model is numbered element by element, row after row. Every worker holds ranges of those
numbers: the features of its shard are rows and so a range, and what ZeRO leaves it of that is a smaller one.
Ranges written by any number of workers can be read by any other number, each its own.

Weights that do not learn are no part of it: they are what `Recipe.build` makes of the models that the run's
lineage names, and a checkpoint keeps their hash alone.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import xxhash
from torch import nn

from engine.training.feed import per_feature
from engine.training.sharding import Groups

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT, BUFFER = "weight", "buffer"


class Fragment(NamedTuple):
    """Elements start, start + 1, ... of a tensor of the whole model: a view of where they are kept.

    kind: WEIGHT, BUFFER or one of MOMENTS.
    """

    kind: str
    name: str
    start: int
    values: torch.Tensor


class Place(NamedTuple):
    """A tensor of this worker's module within the whole model's: shape of the whole, first element here."""

    shape: tuple[int, ...]
    start: int


def places(module: nn.Module) -> dict[str, Place]:
    """Where each buffer of this worker lies, and each weight that learns."""
    cut, found = per_feature(module), {}
    for name, tensor in [*learning(module), *module.named_buffers()]:
        shape = tuple(getattr(tensor, "ds_shape", tensor.shape))  # ZeRO-3 keeps the weight itself empty
        shard = cut.get(name)
        if shard is None:
            found[name] = Place(shape, 0)
        else:
            found[name] = Place((shape[0] * shard.world, *shape[1:]), shard.rank * math.prod(shape))
    return found


def learning(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that learn; those that have several names under the first."""
    return ((name, weight) for name, weight in module.named_parameters() if weight.requires_grad)


def hash_of_frozen(module: nn.Module) -> str:
    """Of the weights that do not learn and that every worker has whole; of a module not sharded yet."""
    cut, found = per_feature(module), xxhash.xxh3_128()
    for name, weight in module.named_parameters():
        if not weight.requires_grad and name not in cut:
            found.update(f"{name} {weight.dtype} {weight.numel()}".encode())
            found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def state_names(module: nn.Module) -> dict[str, str]:
    """Name in the state dict -> name in `places`; weights that have several names are kept under the first.

    Leaves out buffers that are not part of the state.
    """
    first = {id(weight): name for name, weight in learning(module)}
    named = module.named_parameters(remove_duplicate=False)
    found = {name: first[id(weight)] for name, weight in named if id(weight) in first}
    saved = set(module.state_dict())
    return found | {name: name for name, _ in module.named_buffers() if name in saved}


def optimiser_fragments(engine: Any) -> Iterator[Fragment]:
    """What this worker's optimiser keeps: weights as it steps them, and their moments.

    With ZeRO that is this worker's part, without it is the same on all workers of a data-parallel group.
    """
    where = places(engine.module)
    for name, weight in learning(engine.module):
        start = where[name].start
        stepped = _stepped(engine, weight)
        if stepped is None:
            continue
        flat, first, length, offset = stepped
        yield Fragment(WEIGHT, name, start + offset, flat.detach().view(-1)[first : first + length])
        for kind in MOMENTS:
            moment = engine.basic_optimizer.state[flat][kind].view(-1)
            yield Fragment(kind, name, start + offset, moment[first : first + length])


def own_share(fragment: Fragment, rank: int, world: int) -> Fragment:
    """One worker's even share of what `world` of them have alike."""
    n = len(fragment.values)
    low, high = n * rank // world, n * (rank + 1) // world
    return fragment._replace(start=fragment.start + low, values=fragment.values[low:high])


def written_fragments(engine: Any, groups: Groups) -> Iterator[Fragment]:
    """What this worker writes of the state, so that all workers together write all of it once."""
    where, cut = places(engine.module), per_feature(engine.module)
    shard, rank, world = groups.shard, groups.batch_rank, groups.shard.batch_world
    held = list(optimiser_fragments(engine))
    if not engine.zero_optimization():
        held = [own_share(fragment, rank, world) for fragment in held]
    buffers = [
        Fragment(BUFFER, name, where[name].start, buffer.detach().reshape(-1))
        for name, buffer in engine.module.named_buffers()
    ]
    held += [own_share(fragment, rank, world) for fragment in buffers]
    for fragment in held:
        if len(fragment.values) and (fragment.name in cut or shard.rank == 0):
            yield fragment


def start_optimiser(engine: Any, updates: int) -> None:
    """Gives the optimiser its moments, as if it had made `updates` steps; else its first step makes them."""
    for flat in _flat_weights(engine):
        engine.basic_optimizer.state[flat].update(
            step=torch.tensor(float(updates), device=flat.device),
            **{kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS},
        )


def updates(engine: Any) -> int:
    """Steps that the optimiser has made."""
    flat = next(iter(_flat_weights(engine)))
    return int(engine.basic_optimizer.state[flat]["step"])


def _flat_weights(engine: Any) -> list[torch.Tensor]:
    """The tensors that the optimiser steps."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return [weight for weight in engine.module.parameters() if weight.requires_grad]
    if stage < 3:
        return list(engine.optimizer.single_partition_of_fp32_groups)
    return list(engine.optimizer.fp32_partitioned_groups_flat)


def _stepped(engine: Any, weight: Any) -> tuple[torch.Tensor, int, int, int] | None:
    """(tensor that is stepped, first element in it, elements, first element in the weight) or None."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return weight, 0, weight.numel(), 0
    if stage < 3:
        mapping = weight._hp_mapping
        if mapping is None:
            return None
        flat = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        held = mapping.get_hp_fragment_address()
        return flat, held.start, held.numel, mapping.lp_fragment_address.start
    zero = engine.optimizer
    group, first, length = zero.grad_position[zero.get_param_id(weight)]
    offset = length * torch.distributed.get_rank(weight.ds_process_group)
    length = min(length, weight.ds_numel - offset)  # the last part is filled up with zeros
    return (zero.fp32_partitioned_groups_flat[group], first, length, offset) if length > 0 else None
