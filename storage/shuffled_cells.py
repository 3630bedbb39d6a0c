"""Cells of a store for training: shuffled, batch after batch, from any position on, read ahead.

The order is `storage.cell_order`. Positions are global: batch b is the positions
[b * batch, (b + 1) * batch), cut evenly among the workers, so a run goes on exactly on any number of workers
that divides the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count, cycle, groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.cell_order import BLOCK_CELLS, BUFFER_CELLS, Balance, CellOrder
from storage.cells import CellRows, CellStore, RowMemory
from storage.errors import InputError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReadingState:
    """Where a reading of a store stands, to be kept beside a checkpoint.

    dataset_id, order: of what, and in which order (`CellOrder.lineage`, which holds the seed). epoch: of
    `position`. position: cells handed out to all workers together. world: how many there were.
    """

    dataset_id: str
    order: Mapping[str, Any]
    epoch: int
    position: int
    world: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class ShuffledCells:
    """Endless shuffled batches of a store's cells. Raises InputError for labels the store does not have."""

    def __init__(
        self,
        store: CellStore,
        *,
        batch: int,
        seed: int,
        n_cells: int | None = None,
        balance: str | None = None,
        temperature: float = 1.0,
        buffer: int = BUFFER_CELLS,
        block: int = BLOCK_CELLS,
        chosen: Int64 | None = None,
    ) -> None:
        """batch: cells of all workers together. n_cells: read only so many from the store's start.
        balance: obs column, see `Balance`. buffer, block: cells, see `CellOrder`. chosen: read only these
        rows of the store, which ascend."""
        self.store = store
        n_cells = n_cells or store.n_cells
        labels = None if balance is None else balance_of(store, balance, temperature, n_cells, chosen)
        self.order = CellOrder(
            n_cells if chosen is None else len(chosen),
            seed,
            batch=batch,
            buffer=buffer,
            block=block,
            balance=labels,
            chosen=chosen,
        )

    def batches(self, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[CellRows]:
        """This worker's part of every batch from `position` (the start of a batch) on."""
        batch = self.order.batch
        if batch % world or position % batch:
            raise InputError(
                f"a batch of {batch} cells from position {position} on cannot be cut for {world} workers"
            )
        part = batch // world
        starts = count(position + rank * part, batch)
        return self.read((start, start + part) for start in starts)

    def read(self, ranges: Iterable[tuple[int, int]]) -> Iterator[CellRows]:
        """The cells of each range of positions. A buffer's worth is read at once, and the next one meanwhile:
        two are in memory."""
        windows = groupby(ranges, key=lambda positions: positions[0] // self.order.window)
        memories = cycle((RowMemory(), RowMemory()))
        with ThreadPoolExecutor(1, thread_name_prefix="shuffled-cells") as reader:
            ahead = None
            for _, group in windows:
                now, ahead = ahead, reader.submit(self._window, list(group), next(memories))
                if now is not None:
                    yield from now.result().parts()
            if ahead is not None:
                yield from ahead.result().parts()

    def _window(self, ranges: list[tuple[int, int]], memory: RowMemory) -> _Window:
        cells = [self.order.cells(start, stop) for start, stop in ranges]
        rows, places = _distinct(self.store, np.concatenate(cells), memory)
        return _Window(rows, np.split(places, np.cumsum([len(part) for part in cells])[:-1]))

    def state(self, position: int, world: int = 1) -> ReadingState:
        """After the first `position` cells were handed out."""
        epoch = position // self.order.epoch_cells
        return ReadingState(self.store.dataset_id, self.order.lineage(), epoch, position, world)

    def resume(self, state: ReadingState, world: int = 1) -> int:
        """The position to go on from, on `world` workers: another number than the state's sees the same cells
        in the same batches, as long as it divides the batch.

        Raises InputError when that is not so, or when the state is of other cells or another order.
        """
        here = self.state(state.position, world)
        if (state.dataset_id, dict(state.order)) != (here.dataset_id, dict(here.order)):
            raise InputError(
                f"{self.store.location}: this reading cannot be continued; it was of {state.dataset_id} in "
                f"the order {dict(state.order)}, now it is of {here.dataset_id} in {dict(here.order)}"
            )
        if self.order.batch % world or state.position % self.order.batch:
            raise InputError(
                f"{self.store.location}: a reading by {state.world} workers at cell {state.position:,} "
                f"cannot be continued exactly by {world}; their number has to divide the batch of "
                f"{self.order.batch}"
            )
        return state.position


def balance_of(
    store: CellStore, column: str, temperature: float, n_cells: int, chosen: Int64 | None = None
) -> Balance:
    """Of the store's first cells, or the chosen rows, by a column of its obs. Raises InputError for one it
    does not have."""
    if column not in store.obs_columns:
        raise InputError(f"{store.location}: obs has no {column!r}; it has {', '.join(store.obs_columns)}")
    labels = store.obs([column])[column]
    return Balance(labels.iloc[:n_cells] if chosen is None else labels.iloc[chosen], temperature)


@dataclass(frozen=True)
class _Window:
    """Some distinct cells in memory, and which of them make up each part that is handed out."""

    rows: CellRows
    cells: list[Int64]

    def parts(self) -> Iterator[CellRows]:
        for cells in self.cells:
            yield _selected(self.rows, cells)


def read_cells(store: CellStore, cells: Int64) -> CellRows:
    """Counts of these store rows, in this order and as often as asked; reads each row of the store once."""
    rows, places = _distinct(store, cells, RowMemory())
    return _selected(rows, places)


def runs(cells: Int64) -> list[tuple[int, int]]:
    """Ascending distinct cells as half-open ranges of consecutive rows."""
    if not len(cells):
        return []
    breaks = np.flatnonzero(np.diff(cells) != 1) + 1
    firsts, lasts = cells[np.r_[0, breaks]], cells[np.r_[breaks - 1, len(cells) - 1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


def _distinct(store: CellStore, cells: Int64, memory: RowMemory) -> tuple[CellRows, Int64]:
    """The cells without repeats, and the row of each of `cells` among them."""
    distinct, places = np.unique(cells, return_inverse=True)
    # As narrow as it can be: the rows are copied once more, and memory is what that costs.
    gene_type = np.uint16 if store.n_genes <= 1 << 16 else np.int32
    return store.read_ranges(runs(distinct), gene_type, memory), places


def _selected(rows: CellRows, places: Int64) -> CellRows:
    """These rows, in this order."""
    starts, ends = rows.indptr[places], rows.indptr[places + 1]
    indptr = np.concatenate([[0], np.cumsum(ends - starts)])
    indices = np.empty(indptr[-1], np.int32)
    counts = np.empty(indptr[-1], rows.counts.dtype)
    # Whole rows at a time: an index of single counts would be larger than they are.
    slices = [slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    if slices:
        np.concatenate([rows.indices[row] for row in slices], out=indices)
        np.concatenate([rows.counts[row] for row in slices], out=counts)
    return CellRows(indptr, indices, counts, rows.n_genes)
