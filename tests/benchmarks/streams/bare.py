"""The same stages in plain processes that know nothing of one another: what the machine itself can do."""

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe
from tests.streaming.in_process import encode_here

WARM_CELLS = 64


def cells_per_second(
    n: int, store: Path, model: Path, product: ActivationProduct, recipe: Recipe, scratch: Path
) -> float:
    """Cells per second of `n` processes at once, each of which encodes the whole store, start-up left out."""
    scratch.mkdir()
    context = multiprocessing.get_context("spawn")
    ready, spans = context.Barrier(n), context.SimpleQueue()
    arguments = [
        (str(store), str(model), product, recipe, scratch / str(number), ready, spans) for number in range(n)
    ]
    processes = [context.Process(target=_encode, args=each) for each in arguments]
    for process in processes:
        process.start()
    rates = [spans.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(rates)


def _encode(
    store: str,
    model: str,
    product: ActivationProduct,
    recipe: Recipe,
    output: Path,
    ready: Barrier,
    rates: "multiprocessing.SimpleQueue[float]",
) -> None:
    torch.set_num_threads(1)
    inputs = Inputs.open(store, model)
    encode_here(Inputs.open(store, model, max_cells=WARM_CELLS), product, output / "warm", recipe)
    ready.wait()
    began = time.perf_counter()
    encode_here(inputs, product, output / "measured", recipe)
    rates.put(inputs.n_cells / (time.perf_counter() - began))
