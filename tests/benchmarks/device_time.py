"""What work costs on a device: seconds, memory, and the rate of its own best matrix products."""

import time
from collections.abc import Callable

import torch

REPEATS = 3
PRODUCTS = 10  # one alone is over before a clock can tell


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of some repeats, after one that warms up."""
    found = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def cost(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds, and GiB of device memory at the peak (0 on a CPU, where nothing counts it)."""
    if device.type != "cuda":
        return best_seconds(work, device), 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    seconds = best_seconds(work, device)
    return seconds, torch.cuda.max_memory_allocated(device) / 2**30


def matrix_rate(device: torch.device, *, smoke: bool) -> float:
    """The device's own FLOP/s for square bf16 matrices, the best of some sizes."""
    rates = []
    for size in (128,) if smoke else (4096, 8192, 12_288):
        a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
        seconds = best_seconds(lambda a=a, b=b: [torch.mm(a, b) for _ in range(PRODUCTS)], device)
        rates.append(PRODUCTS * 2 * size**3 / seconds)
    return max(rates)
