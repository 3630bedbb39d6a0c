"""In which order cells are trained on: shuffled, read in runs, and restartable at any position."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from storage.cells import CellRows, CellStore

CellIds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CellOrder:
    """The endless order of cells: a permutation of all cells every epoch, as a function of the seed alone.

    Cells are cut into blocks of consecutive rows; an epoch shuffles the blocks, takes `pool_blocks` of them
    at a time and shuffles the cells of the pool. A whole permutation would read every cell from another
    place of the store; a pool of 64 x 64 cells mixes as well (a batch sees cells of many blocks) and reads
    long runs. Position `p` is cell `p % n_cells` of epoch `p // n_cells`, and is found without walking
    there.
    """

    n_cells: int
    seed: int
    block: int = 64
    """Consecutive cells that are shuffled as one; 64 cells are about a chunk of the store."""
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


def read_cells(store: CellStore, cells: CellIds) -> CellRows:
    """Counts of these store rows, in this order and as often as asked; reads each row of the store once."""
    distinct, rows = np.unique(cells, return_inverse=True)
    block = store.read_ranges(runs(distinct))
    lengths = np.diff(block.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = np.arange(indptr[-1]) + np.repeat(block.indptr[rows] - indptr[:-1], lengths)
    return CellRows(indptr, block.indices[source], block.counts[source], store.n_genes)


@lru_cache(maxsize=4)
def _block_order(order: CellOrder, epoch: int) -> CellIds:
    n_blocks = -(-order.n_cells // order.block)
    return np.random.default_rng([order.seed, epoch]).permutation(n_blocks)


@lru_cache(maxsize=4)
def _pool_starts(order: CellOrder, epoch: int) -> CellIds:
    """Position in the epoch at which each pool begins; only the one with the store's last block is short."""
    blocks = _block_order(order, epoch)
    lengths = np.minimum(order.block, order.n_cells - blocks * order.block)
    sums = np.add.reduceat(lengths, np.arange(0, len(blocks), order.pool_blocks))
    starts: CellIds = np.r_[0, np.cumsum(sums)[:-1]]
    return starts


@lru_cache(maxsize=4)
def _pool(order: CellOrder, epoch: int, pool: int) -> CellIds:
    """Cells of one pool in their shuffled order."""
    blocks = _block_order(order, epoch)[pool * order.pool_blocks : (pool + 1) * order.pool_blocks]
    firsts = blocks * order.block
    cells = (firsts[:, None] + np.arange(order.block)).ravel()
    cells = cells[cells < order.n_cells]
    return np.random.default_rng([order.seed, epoch, pool]).permutation(cells)
