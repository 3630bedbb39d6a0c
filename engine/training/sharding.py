"""DeepSpeed in one place: joining the workers, sharding a module with ZeRO, and gathering it again."""

import logging
import math
import os
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

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


def agree(value: T, device: torch.device) -> T:
    """Rank 0's value, on every worker. Collective; a process without a group agrees with itself."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0, device=device if device.type == "cuda" else None)
    return box[0]


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


def shard(module: nn.Module, options: TrainingOptions, share: Share, *, universal: bool) -> Any:
    """The DeepSpeed engine of a module. `universal`: a converted checkpoint is about to be loaded into it."""
    import deepspeed

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
            "checkpoint": {"load_universal": universal},
            "steps_per_print": 1 << 60,
        },
    )
    return engine


def bucket_elements(n_weights: int) -> int:
    """Elements of a bucket of gradients or weights on their way between workers."""
    return min(BUCKET_ELEMENTS, math.ceil(n_weights / 1024) * 1024)  # buckets must be aligned


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without; the same order on every worker."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    matrices = [weight for weight in weights if weight.ndim >= 2]
    vectors = [weight for weight in weights if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimiser_step(engine: Any) -> torch.Tensor:
    """`engine.step()`; the norm of the whole gradient before clipping (scalar, NaN between boundaries)."""
    norm = None
    if engine.is_gradient_accumulation_boundary() and not engine.zero_optimization():
        # Without ZeRO DeepSpeed keeps no norm that can be read, so it is taken before the step spends the
        # gradient.
        gradients = [weight.grad for weight in engine.module.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
    engine.step()
    if norm is None:
        norm = engine.get_global_grad_norm()
    return torch.as_tensor(float("nan") if norm is None else norm, dtype=torch.float32, device=engine.device)


def whole_state(engine: Any, worker: Worker) -> dict[str, torch.Tensor] | None:
    """The module's full float32 state as CPU tensors on rank 0, None elsewhere. Collective.

    Weights sharded by ZeRO-3 are gathered one at a time: no worker ever holds the whole model on its device.
    """
    import deepspeed

    state: dict[str, torch.Tensor] = {}
    sharded = engine.zero_optimization_stage() == 3
    saved = set(engine.module.state_dict())  # leaves out buffers that are not part of the state
    for name, weight in engine.module.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([weight], enabled=sharded):
            if worker.leads:
                state[name] = weight.detach().float().cpu().clone()
    for name, buffer in engine.module.named_buffers():
        if worker.leads and name in saved:
            state[name] = buffer.detach().cpu().clone()
    return state if worker.leads else None
