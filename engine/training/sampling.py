"""In which order cells are trained on: shuffled, read in runs, and restartable at any position."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

CellIds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CellOrder:
    """The endless order of cells: a permutation of all cells every epoch, as a function of the seed alone.

    Cells are cut into blocks of consecutive rows; an epoch shuffles the blocks, takes `pool_blocks` of them at a
    time and shuffles the cells of the pool. A whole permutation would read every cell from another place of the
    store; a pool of 64 x 64 cells mixes as well (a batch sees cells of many blocks) and reads long runs.
    Position `p` is cell `p % n_cells` of epoch `p // n_cells`, and is found without walking there.
    """

    n_cells: int
    seed: int
    block: int = 64
    """Consecutive cells that stay together until their pool is shuffled; 64 cells are about a chunk of the store."""
    pool_blocks: int = 64
    """Blocks shuffled together; 64 x 64 = 4096 cells."""

    def cells(self, start: int, stop: int) -> CellIds:
        """Store rows of the positions `[start, stop)`, in order."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.n_cells)
            starts = _pool_starts(self, epoch)
            pool = int(np.searchsorted(starts, offset, side="right")) - 1
            cells = _pool(self, epoch, pool)[offset - int(starts[pool]) :][: stop - start]
            parts.append(cells)
            start += len(cells)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def runs(cells: CellIds) -> list[tuple[int, int]]:
    """Ascending distinct cells as half-open ranges of consecutive rows."""
    if not len(cells):
        return []
    breaks = np.flatnonzero(np.diff(cells) != 1) + 1
    firsts, lasts = cells[np.r_[0, breaks]], cells[np.r_[breaks - 1, len(cells) - 1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


def windows(start: int, size: int) -> Iterator[tuple[int, int]]:
    """Endless consecutive ranges of `size` positions from `start`."""
    while True:
        yield start, start + size
        start += size


@lru_cache(maxsize=4)
def _block_order(order: CellOrder, epoch: int) -> CellIds:
    n_blocks = -(-order.n_cells // order.block)
    return np.random.default_rng([order.seed, epoch]).permutation(n_blocks)


@lru_cache(maxsize=4)
def _pool_starts(order: CellOrder, epoch: int) -> CellIds:
    """Position in the epoch at which each pool begins; only the pool with the store's last block can be short."""
    blocks = _block_order(order, epoch)
    lengths = np.minimum(order.block, order.n_cells - blocks * order.block)
    sums = np.add.reduceat(lengths, np.arange(0, len(blocks), order.pool_blocks))
    return np.r_[0, np.cumsum(sums)[:-1]]


@lru_cache(maxsize=4)
def _pool(order: CellOrder, epoch: int, pool: int) -> CellIds:
    """Cells of one pool in their shuffled order."""
    blocks = _block_order(order, epoch)[pool * order.pool_blocks : (pool + 1) * order.pool_blocks]
    firsts = blocks * order.block
    cells = (firsts[:, None] + np.arange(order.block)).ravel()
    cells = cells[cells < order.n_cells]
    return np.random.default_rng([order.seed, epoch, pool]).permutation(cells)
