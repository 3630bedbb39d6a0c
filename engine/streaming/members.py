"""How the cells of a store are cut into members: the unit of work, retry and commit.

A member is a range of consecutive cells fixed by the plan, so which worker does it, and when, cannot change
a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storage.commits import MemberPlan

# At 4,096 cells a member is a few minutes of a CPU core or seconds of a GPU: little to lose, little to
# commit.
MOST_CELLS = 4096
FEWEST_CELLS = 256
# A small store is still cut into this many members, so that all actors have work and a resume has something
# to keep.
MEMBERS_OF_A_SMALL_STORE = 16

# 256 MiB of bfloat16 at width 512: large enough to read at disk speed, small enough to shuffle in memory.
TOKENS_PER_SHARD = 262_144


@dataclass(frozen=True)
class Member:
    """One planned range of cells: store rows `[start, stop)`."""

    key: str
    start: int
    stop: int

    @classmethod
    def of(cls, plan: MemberPlan) -> Member:
        return cls(plan.key, plan.facts["start"], plan.facts["stop"])

    def __str__(self) -> str:
        return f"member {self.key} (cells {self.start} to {self.stop - 1})"


def cells_per_member(n_cells: int) -> int:
    """Cells in each member of an embedding of `n_cells` cells: 4,096, fewer for stores below 65,536 cells."""
    wanted = -(-n_cells // MEMBERS_OF_A_SMALL_STORE)
    return min(MOST_CELLS, max(FEWEST_CELLS, wanted))


def fixed_members(n_cells: int, size: int) -> list[MemberPlan]:
    """Members of `size` cells; the last one holds what is left."""
    return _members(np.arange(0, n_cells, size), n_cells)


def token_bound(
    nnz_per_cell: np.ndarray, *, max_tokens: int | None, tokens_per_cell: int | None, n_special: int
) -> np.ndarray:
    """Most tokens each cell can contribute (int64 `[cells]`), known before any cell is read.

    `n_special` counts the special tokens kept per cell; `tokens_per_cell` caps what is kept after encoding.
    """
    bound = nnz_per_cell.astype(np.int64)
    if max_tokens is not None:
        bound = np.minimum(bound, max_tokens)
    bound = bound + n_special
    return bound if tokens_per_cell is None else np.minimum(bound, tokens_per_cell)


def members_by_tokens(
    bound_per_cell: np.ndarray, tokens_per_member: int = TOKENS_PER_SHARD
) -> list[MemberPlan]:
    """Consecutive cells whose token bounds fit `tokens_per_member` together; a larger cell is a member
    by itself.
    """
    before = np.concatenate([[0], np.cumsum(bound_per_cell)])
    starts, start, n_cells = [], 0, len(bound_per_cell)
    while start < n_cells:
        starts.append(start)
        stop = int(np.searchsorted(before, before[start] + tokens_per_member, side="right")) - 1
        start = max(stop, start + 1)
    return _members(np.array(starts, dtype=np.int64), n_cells)


def _members(starts: np.ndarray, n_cells: int) -> list[MemberPlan]:
    stops = np.append(starts[1:], n_cells)
    return [
        MemberPlan(f"{number:06d}", {"start": int(start), "stop": int(stop)})
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]
