"""Shuffling over a window of chunks: every token once, the same from any start, many chunks in every slot."""

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest

from engine.training.mixing import mixed
from storage.errors import InputError

WINDOW, TOKENS = 4, 24


def chunks(first: int, n_tokens: int = TOKENS) -> Iterator[np.ndarray]:
    """[N, 2] rows (chunk, token)."""
    for number in count(first):
        yield np.stack([np.full(n_tokens, number), np.arange(n_tokens)], axis=1).astype(np.float32)


def slots(first: int, n_slots: int, n_tokens: int = TOKENS, rank: int = 0) -> list[np.ndarray]:
    made = chunks(first, n_tokens)
    stream = mixed(made, first, window=WINDOW, slot_tokens=TOKENS, entropy=(7, rank))
    return list(islice(stream, n_slots))


def test_every_token_comes_once() -> None:
    rows = np.concatenate(slots(0, 20)).astype(int)
    assert len(np.unique(rows, axis=0)) == len(rows) == 20 * TOKENS
    whole = [number for number in range(20) if (rows[:, 0] == number).sum() == TOKENS]
    assert whole == list(range(WINDOW - 1, 20))  # the first chunks are part of slots before the stream


def test_a_slot_is_made_of_its_window() -> None:
    for slot, x_QD in enumerate(slots(0, 10)):
        numbers, tokens = np.unique(x_QD[:, 0], return_counts=True)
        assert numbers.tolist() == [slot, slot + 1, slot + 2, slot + 3]
        assert (tokens == TOKENS // WINDOW).all()


@pytest.mark.parametrize("first", [1, 3, 11])
def test_a_stream_starts_anywhere(first: int) -> None:
    whole, rest = slots(0, 15)[first:], slots(first, 15 - first)
    assert all(np.array_equal(one, other) for one, other in zip(whole, rest, strict=True))


def test_workers_shuffle_differently() -> None:
    assert not np.array_equal(slots(0, 1)[0], slots(0, 1, rank=1)[0])


@pytest.mark.parametrize(("n_tokens", "distinct"), [(20, 20), (23, 23), (31, 24)])
def test_poor_and_rich_chunks_make_slots_of_the_same_size(n_tokens: int, distinct: int) -> None:
    for x_QD in slots(5, 6, n_tokens):
        assert len(x_QD) == TOKENS
        assert abs(len(np.unique(x_QD, axis=0)) - distinct) <= WINDOW


def test_a_window_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="no gene"):
        slots(0, 1, n_tokens=0)
