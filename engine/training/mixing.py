"""Shuffling tokens over a sliding window of chunks, so that any position of the stream can be reached.

A buffer that is filled and drawn from at random mixes as well, but what it holds depends on everything
before; here each token's place follows from its chunk's number alone. The rows of a chunk are in random
order; `window` consecutive slots get a part of them each. A slot, the next stretch of the stream, is made
of one part of each of `window` consecutive chunks. Every slot takes in one chunk, so encoders work at an
even pace, and a chunk shrinks while it is in the window: it holds half of what has been read.

Legend: N tokens of a chunk, Q of a slot, R columns of a token's row.
"""

from collections import deque
from collections.abc import Iterator
from itertools import count

import numpy as np

from engine.training.cell_chunks import TokenRows
from storage.errors import InputError


def mixed(
    chunks: Iterator[TokenRows], first_slot: int, *, window: int, slot_tokens: int, entropy: tuple[int, ...]
) -> Iterator[TokenRows]:
    """Slots `first_slot`, `first_slot + 1`, ...: rows_QR of exactly `slot_tokens` tokens each.

    `chunks` are those from number `first_slot` on, rows_NR of any N; slot s mixes chunks s to s + window - 1.
    A slot of unusually poor cells repeats some of its tokens rather than change the steps after it, one of
    rich cells leaves some out. Raises InputError when a whole window has no token.
    """
    held: deque[deque[TokenRows]] = deque()
    for slot in count(first_slot):
        while len(held) < window:
            # At the start, the parts that earlier slots would have had are left out.
            passed = window - 1 - len(held)
            held.append(_parts(next(chunks), window, passed))
        rows_NR = np.concatenate([parts.popleft() for parts in held])
        held.popleft()
        if not len(rows_NR):
            raise InputError(f"{window} chunks of cells in a row hold no gene that the model knows.")
        order = np.random.default_rng([*entropy, slot]).permutation(len(rows_NR))
        yield rows_NR[np.resize(order, slot_tokens)]


def _parts(rows_NR: TokenRows, window: int, passed: int) -> deque[TokenRows]:
    """The parts of a chunk for the slots that are to come, copied: a chunk may lie in shared memory."""
    ends = np.arange(window + 1) * len(rows_NR) // window
    return deque(rows_NR[ends[part] : ends[part + 1]].copy() for part in range(passed, window))
