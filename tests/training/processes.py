"""Several training processes of one test, started from one that has imported what they need."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

# Seconds of imports, which every process would repeat; none of them starts a thread.
PRELOADED = ["deepspeed", "engine.training.loop", "engine.training.recipes.sae", "torch.utils.tensorboard"]


def start_processes(work: Callable[..., None], arguments: tuple[Any, ...], n: int) -> None:
    """Run `work(rank, *arguments)` in n processes of their own, to the end."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    mp.start_processes(work, arguments, nprocs=n, start_method="forkserver")
