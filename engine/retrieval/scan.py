"""Scores of a query against many rows, and the best of them: the arithmetic of a search, on one segment.

Both passes read their matrix where it is mapped and wait for memory more than for the CPU: the product of
float16 rows with a float32 query, and that of int8 codes in int32 (on a CPU with AVX-512 VNNI).

Shape legend: N rows, D width, S width of the short codes, K results.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from engine.retrieval.half_products import Float32, Positions, half_products

# What a thread must have to read, some 5 ms, to be worth waking.
_BYTES_A_THREAD = 128 << 20

# Rows are scored in blocks of so many, whose numbers stay in the CPU's cache.
_BLOCK = np.arange(8_192)

# Every so many values are looked at to guess where the K best begin.
_STRIDE = 61


def scores(vectors_ND: npt.NDArray[np.float16], query_D: Float32, most_threads: int | None = None) -> Float32:
    """Score of every row, float32 `[N]`; on up to so many threads, None for as many as torch is set to, but
    no more than there is work for. The scores are the same on any number, and those of `scores_at`.
    """
    found_N = np.empty(len(vectors_ND), np.float32)
    threads = _threads(most_threads, vectors_ND.nbytes)
    blocks = range(0, len(vectors_ND), len(_BLOCK))
    share = -(-len(blocks) // threads) or 1

    def score(first: int) -> None:
        for start in blocks[first : first + share]:
            out_K = found_N[start : start + len(_BLOCK)]
            half_products(vectors_ND[start : start + len(_BLOCK)], _BLOCK[: len(out_K)], query_D, out_K)

    if threads == 1:
        score(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(score, range(0, len(blocks), share)))
    return found_N


def scores_at(vectors_ND: npt.NDArray[np.float16], query_D: Float32, positions: Positions) -> Float32:
    """Scores of some rows, in the order of `positions`."""
    found_K = np.empty(len(positions), np.float32)
    half_products(vectors_ND, positions, query_D, found_K)
    return found_K


def short_scores(
    short_NS: npt.NDArray[np.int8], query_S: npt.NDArray[np.int8], most_threads: int | None = None
) -> npt.NDArray[np.int32]:
    """Product of every row's code with the query's, int32 `[N]`; threads as in `scores`."""
    with _torch_threads(_threads(most_threads, short_NS.nbytes)):
        # The name is private; it is torch's only product of int8 matrices on a CPU, and tested against numpy.
        products = torch._int_mm(torch.from_numpy(short_NS), torch.from_numpy(query_S)[:, None])
    found_N: npt.NDArray[np.int32] = products[:, 0].contiguous().numpy()
    return found_N


def _threads(most: int | None, n_bytes: int) -> int:
    """How many threads are to read so much."""
    return max(1, min(most or torch.get_num_threads(), n_bytes // _BYTES_A_THREAD))


@contextmanager
def _torch_threads(wanted: int) -> Iterator[None]:
    """torch's threads of this thread, for one product."""
    before = torch.get_num_threads()
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best(values: npt.NDArray[np.generic], k: int) -> Positions:
    """Positions of the k largest values and of all that equal the smallest of them, ascending.

    Exact: a sample of them guesses a threshold that a few more than k pass, and only those are sorted;
    where too few pass, all are.
    """
    n = len(values)
    if k >= n:
        return np.arange(n)
    candidates = _likely(values, k)
    if len(candidates) < k:
        candidates = np.arange(n)
    chosen = values[candidates]
    smallest = np.partition(chosen, len(chosen) - k)[len(chosen) - k]
    kept: Positions = candidates[chosen >= smallest]
    return kept


def _likely(values: npt.NDArray[np.generic], k: int) -> Positions:
    sample = values[::_STRIDE]
    expected = k / _STRIDE
    # Three standard deviations of how many of the k best a sample holds, and a few for small k.
    among = int(expected + 3 * expected**0.5 + 4)
    if among >= len(sample):
        return np.arange(len(values))
    threshold = np.partition(sample, len(sample) - among)[len(sample) - among]
    return np.flatnonzero(values >= threshold)
