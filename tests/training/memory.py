"""What a training step really allocates: live tensors counted, and the peak above them while it runs."""

import gc
from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from engine.models import sae
from engine.models.sae.parallelise import FeatureShard
from engine.training.options import TrainingOptions
from engine.training.recipe import Share
from engine.training.sharding import Groups, Worker, optimiser_step, shard

# What a plan may be off by, at widths where a step's temporaries count as much as weights do.
LEAST, MOST = 0.95, 1.3


class Objective(nn.Module):
    """An autoencoder's objective as the loop calls one, with a tenth of the features dead."""

    def __init__(self, objective: sae.TrainingModule) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: dict[str, torch.Tensor]) -> sae.SparseLoss:
        dead_F = torch.arange(self.objective.sae.d_sae) % 10 == 0
        found: sae.SparseLoss = self.objective(batch["x_BD"], dead_F)
        return found


def step_bytes(config: sae.SAEConfig, options: TrainingOptions, worker: Worker) -> int:
    """`training_bytes` of an autoencoder."""

    def made(shard: FeatureShard, tokens: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
        objective = sae.objective(config, sae.ObjectiveOptions(sparsity_coefficient=0.01), shard=shard)
        return Objective(objective), {"x_BD": torch.randn(tokens, config.d_in)}

    return training_bytes(made, options, worker)


def training_bytes(
    made: Callable[[FeatureShard, int], tuple[nn.Module, dict[str, torch.Tensor]]],
    options: TrainingOptions,
    worker: Worker,
) -> int:
    """Most bytes of tensors alive at once in the third step of a training.

    made: the training module and a micro-batch of so many examples.
    """
    before = _live()
    groups = Groups.of(worker, options.feature_parallel)
    share = Share(groups.batch_rank, groups.shard.batch_world, options.batch, options.accumulation, 0)
    module, batch = made(groups.shard, share.micro_batch)
    engine = shard(module, options, share, groups)

    def step() -> None:
        found = engine(batch)
        engine.backward(found.loss)
        optimiser_step(engine, groups)

    for _ in range(2):
        step()
    return _live() - before + _peak(step)


def _live() -> int:
    """Bytes of the storages of all tensors there are; those that oneDNN keeps in a layout of its own have
    none, and a training makes none.
    """
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and not tensor.is_mkldnn:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _peak(work: Callable[[], None]) -> int:
    """Most bytes that were allocated and not yet freed again at any moment of `work`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    alive = peak = 0
    for event in events:
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
