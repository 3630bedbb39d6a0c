"""Scores of a query against many rows, and the best of them: the arithmetic of a search, on one segment.

Both passes read their matrix where it is mapped. The product of float16 rows with a float16 query accumulates
in float32, and the product of int8 codes in int32; on a CPU with AVX-512 VNNI the latter reads memory at its
full speed.

Shape legend: N rows, D width, S width of the short codes, K results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

# How far a float16 score can be from the inner product of the stored unit vectors: the query rounded to
# float16 (2^-11 of each entry) and the result rounded once more, added up and doubled.
SCORE_ERROR = 2e-3

# What a thread must have to read, some 5 ms, to be worth waking.
_BYTES_A_THREAD = 128 << 20

# Every so many scores are looked at to guess where the K best begin.
_STRIDE = 61

Float32 = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


def fast_scores(
    vectors_ND: npt.NDArray[np.float16], query_D: Float32, most_threads: int | None = None
) -> Float32:
    """Score of every row, float32 `[N]`, within half of SCORE_ERROR of the exact one; on up to so many
    threads, None for as many as torch is set to. The scores are the same on any number.
    """
    rows_ND = torch.from_numpy(vectors_ND)
    with _threads(most_threads, vectors_ND.nbytes):
        scores: Float32 = torch.mv(rows_ND, torch.from_numpy(query_D).half()).float().numpy()
    return scores


def scores_at(vectors_ND: npt.NDArray[np.float16], query_D: Float32, positions: Positions) -> Float32:
    """Exact scores of some rows, in the order of `positions`; a run of rows is not gathered."""
    rows_ND = torch.from_numpy(vectors_ND)
    if len(positions) and positions[-1] - positions[0] + 1 == len(positions):
        chosen_KD = rows_ND[int(positions[0]) : int(positions[-1]) + 1]
    else:
        chosen_KD = rows_ND.index_select(0, torch.from_numpy(positions))
    scores: Float32 = torch.mv(chosen_KD.float(), torch.from_numpy(query_D)).numpy()
    return scores


def short_scores(
    short_NS: npt.NDArray[np.int8], query_S: npt.NDArray[np.int8], most_threads: int | None = None
) -> npt.NDArray[np.int32]:
    """Product of every row's code with the query's, int32 `[N]`; threads as in `fast_scores`."""
    with _threads(most_threads, short_NS.nbytes):
        # The name is private; it is torch's only product of int8 matrices on a CPU, and tested against numpy.
        products = torch._int_mm(torch.from_numpy(short_NS), torch.from_numpy(query_S)[:, None])
    scores: npt.NDArray[np.int32] = products[:, 0].contiguous().numpy()
    return scores


@contextmanager
def _threads(most: int | None, n_bytes: int) -> Iterator[None]:
    """torch's threads of this thread, for one product that reads so much; None leaves them as they are."""
    before = torch.get_num_threads()
    wanted = before if most is None else max(1, min(most, n_bytes // _BYTES_A_THREAD))
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best(scores: npt.NDArray[np.generic], k: int) -> Positions:
    """Positions of the k largest scores and of all that equal the smallest of them, ascending.

    Exact: a sample of the scores guesses a threshold that a few more than k pass, and only those are sorted;
    where too few pass, all are.
    """
    n = len(scores)
    if k >= n:
        return np.arange(n)
    candidates = _likely(scores, k)
    if len(candidates) < k:
        candidates = np.arange(n)
    chosen = scores[candidates]
    smallest = np.partition(chosen, len(chosen) - k)[len(chosen) - k]
    kept: Positions = candidates[chosen >= smallest]
    return kept


def _likely(scores: npt.NDArray[np.generic], k: int) -> Positions:
    sample = scores[::_STRIDE]
    expected = k / _STRIDE
    # Three standard deviations of how many of the k best a sample holds, and a few for small k.
    among = int(expected + 3 * expected**0.5 + 4)
    if among >= len(sample):
        return np.arange(len(scores))
    threshold = np.partition(sample, len(sample) - among)[len(sample) - among]
    return np.flatnonzero(scores >= threshold)
