"""DeepSpeed in one place: joining the workers, grouping them, and sharding a module with ZeRO."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from engine.models.sae.parallelise import FeatureShard
from engine.training.options import TrainingOptions
from engine.training.recipe import Share

T = TypeVar("T")

# Gradients and weights travel in buckets of at most this many elements (DeepSpeed's default is 500 million,
# which it allocates whatever the size of the model).
BUCKET_ELEMENTS = 50 * 1024 * 1024


@dataclass(frozen=True)
class Worker:
    """Who this process is among the training processes."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this worker writes what is written once."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Rank 0's value, on every worker."""
        return agree(value, self.device)


def agree(value: T, device: torch.device, group: dist.ProcessGroup | None = None) -> T:
    """The value of the group's first process, on all of them; a process without a group has its own.

    Collective. group: None for all processes.
    """
    box = [value]
    if dist.is_initialized():
        on = device if device.type == "cuda" else None
        dist.broadcast_object_list(box, group=group, group_src=0, device=on)
    return box[0]


@dataclass(frozen=True)
class Groups:
    """Who shares features with whom, and who computes further parts of the batch; DeepSpeed's `mpu`.

    Ranks that share features are neighbours, since they have the most to say to each other: ranks
    0 .. n - 1 hold the first autoencoder, and each of them the same features as ranks n, 2n, ... above.
    """

    shard: FeatureShard
    batch_rank: int

    @classmethod
    def of(cls, worker: Worker, feature_parallel: int) -> "Groups":
        """The groups of a worker. Collective."""
        n, n_groups = feature_parallel, worker.world // feature_parallel
        if n == 1:
            return cls(FeatureShard(batch_world=n_groups), worker.rank)
        batch_rank, rank = divmod(worker.rank, n)
        sharing = [dist.new_group([first + r for r in range(n)]) for first in range(0, n * n_groups, n)]
        batch = [dist.new_group(list(range(r, n * n_groups, n))) for r in range(n)]
        shard = FeatureShard(rank, n, sharing[batch_rank], n_groups, batch[rank])
        return cls(shard, batch_rank)

    def get_model_parallel_rank(self) -> int:
        return self.shard.rank

    def get_model_parallel_world_size(self) -> int:
        return self.shard.world

    def get_model_parallel_group(self) -> Any:
        return self.shard.group

    def get_data_parallel_rank(self) -> int:
        return self.batch_rank

    def get_data_parallel_world_size(self) -> int:
        return self.shard.batch_world

    def get_data_parallel_group(self) -> Any:
        return self.shard.batch_group


def join_workers(rank: int, world: int, threads: int) -> Worker:
    """Join DeepSpeed to the process group of this process; make a group of one when there is none yet.

    DeepSpeed compiles a C++ shared-memory all-reduce on CPU machines with a compiler, for minutes, at the
    first start; an empty table of compatible operators is how it is told not to.
    """
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        torch.set_num_threads(threads)
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed 0.19 calls collectives under their older names; every call of ZeRO-3 would say so.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    backend = "nccl" if cuda else "gloo"
    if not cuda:
        deepspeed.ops.__dict__.setdefault("__compatible_ops__", {})
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists; launchers and Ray Train set the real one
    if not dist.is_initialized():
        # A group of one, which needs no address to meet at.
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return Worker(rank, world, device)


def shard(module: nn.Module, options: TrainingOptions, share: Share, groups: Groups) -> Any:
    """The DeepSpeed engine of a module."""
    import deepspeed
    import deepspeed.utils.groups

    for weight in module.parameters():
        if weight.ndim == 0:
            # DeepSpeed cannot send a scalar; torch loads a vector of one number into one again.
            weight.data = weight.data.reshape(1)
    # An engine without groups of its own would take those of the one before.
    deepspeed.utils.groups.mpu = None
    cuda = torch.cuda.is_available()
    optimizer = torch.optim.AdamW(
        parameter_groups(module, options.weight_decay),
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.epsilon,
        # One kernel for all weights: ten times faster than a kernel each. Torch's own, so nothing is
        # compiled.
        fused=True,
    )
    bucket = bucket_elements(sum(weight.numel() for weight in module.parameters()))
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        mpu=groups if groups.shard.world > 1 else None,
        config={
            "train_micro_batch_size_per_gpu": share.micro_batch,
            "gradient_accumulation_steps": share.accumulation,
            "gradient_clipping": options.clip,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": options.zero,
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
                "overlap_comm": cuda,
            },
            "torch_autocast": {"enabled": options.precision == "bf16", "dtype": "bfloat16"},
            "steps_per_print": 1 << 60,
        },
    )
    return engine


def bucket_elements(n_weights: int) -> int:
    """Elements of a bucket of gradients or weights on their way between workers."""
    return min(BUCKET_ELEMENTS, math.ceil(n_weights / 1024) * 1024)  # buckets must be aligned


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without; the same order on every worker.

    A weight with an attribute `speed` is in a group with others of that speed, a factor on the learning rate;
    one with an attribute `learns_from` stands still until that step. One marked `_no_weight_decay`, as
    mamba-ssm marks parameters of a state, is not decayed, whatever its shape.
    """
    groups: dict[tuple[bool, float, int], list[torch.Tensor]] = {(True, 1.0, 0): [], (False, 1.0, 0): []}
    for weight in module.parameters():
        if weight.requires_grad:
            speed, first = getattr(weight, "speed", 1.0), getattr(weight, "learns_from", 0)
            decays = weight.ndim >= 2 and not getattr(weight, "_no_weight_decay", False)
            groups.setdefault((decays, speed, first), []).append(weight)
    return [
        {
            "params": weights,
            "weight_decay": weight_decay if decays else 0.0,
            "speed": speed,
            "learns_from": first,
        }
        for (decays, speed, first), weights in groups.items()
        if weights
    ]


@contextmanager
def whole_weight(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """While inside, a weight that ZeRO-3 shares out is whole; what is written to it is shared out again.

    Collective over the workers that share it.
    """
    group = getattr(weight, "ds_process_group", None)
    if group is None:
        yield weight
        return
    import deepspeed

    first = dist.get_global_rank(group, 0)
    with deepspeed.zero.GatheredParameters([weight], modifier_rank=first):
        yield weight


def optimiser_step(engine: Any, groups: Groups) -> torch.Tensor:
    """`engine.step()`; the norm of the whole gradient before clipping (scalar, NaN between boundaries)."""
    norm = None
    if engine.is_gradient_accumulation_boundary() and not engine.zero_optimization():
        # Without ZeRO DeepSpeed keeps no norm that can be read, so it is taken before the step spends the
        # gradient.
        norm = _gradient_norm(engine.module, groups.shard)
    engine.step()
    if norm is None:
        norm = engine.get_global_grad_norm()
    return torch.as_tensor(float("nan") if norm is None else norm, dtype=torch.float32, device=engine.device)


def _gradient_norm(module: nn.Module, features: FeatureShard) -> torch.Tensor:
    """Of all weights; those that are whole on every worker count once."""
    counted = [
        weight.grad
        for weight in module.parameters()
        if weight.grad is not None and (features.rank == 0 or getattr(weight, "model_parallel", False))
    ]
    norm = torch.nn.utils.get_total_norm(counted)
    if features.world == 1:
        return norm
    squared = norm.square()
    dist.all_reduce(squared, group=features.group)
    return squared.sqrt()
