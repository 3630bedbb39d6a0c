"""In which order cells are read for training: shuffled, balanced if asked, found at any position."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from storage.errors import InputError

Int64 = npt.NDArray[np.int64]

# Cells shuffled together: a batch of such a buffer mixes as well as a batch of all cells would
# (specs/storage.md 2.6), and holds 190 MB of counts at 2,000 genes a cell.
BUFFER_CELLS = 16_384
# Consecutive cells that are read as one; 64 cells are about two chunks of the store.
BLOCK_CELLS = 64
_MOST_LANES = 64


class Balance:
    """How often the cells of each label are drawn: label l with n_l cells gets the share
    n_l^(1/temperature) / sum of the same over all labels.

    Temperature 1 draws every cell as often as any other; an infinite one every label. Cells without a label
    count as one label more.
    """

    def __init__(self, labels: pd.Series, temperature: float) -> None:
        if not temperature >= 1:
            raise InputError(
                f"balancing by {labels.name} at temperature {temperature}: it must be at least 1 (every cell "
                "alike); the higher, the more alike the labels; inf draws every label as often"
            )
        self.column, self.temperature = str(labels.name), temperature
        codes, names = pd.factorize(labels, sort=True)
        self.codes = np.where(codes < 0, len(names), codes).astype(np.int32)
        self.cells = np.bincount(self.codes, minlength=len(names) + 1)
        weight = np.where(self.cells > 0, self.cells.clip(1) ** (1.0 / temperature), 0.0)
        self.share = weight / weight.sum()
        """Expected share of each label in the draws `[labels + 1]`."""

    def epoch_cells(self, buffer: int) -> int:
        """Draws of an epoch: as many as can be had without repeating a cell of the rarest label, but no fewer
        than fill a buffer and no more than there are cells."""
        held = self.cells > 0
        without_repeats = float((self.cells[held] / self.share[held]).min())
        return int(min(len(self.codes), max(buffer, math.floor(without_repeats + 1e-6))))

    def draws_per_cell(self, epoch_cells: int) -> npt.NDArray[np.float64]:
        """How often an epoch draws each cell, on average `[cells]`."""
        per_label: npt.NDArray[np.float64] = self.share * epoch_cells / self.cells.clip(1)
        return per_label[self.codes]


class CellOrder:
    """The endless order of cells, a function of the arguments alone; found at any position without walking
    there.

    An epoch puts the store's blocks into a random order and draws each cell once; balanced, it draws a cell
    as often as its label's share asks for, at even distances along that order, so that every stretch of an
    epoch holds the labels in their shares. The draws of an epoch are cut into lanes of equal length (64, or
    what divides `batch`), and every batch takes as many cells from each lane: it mixes blocks from all over
    the store, and whoever reads one part of every batch only reads the blocks of its own lanes. `buffer`
    cells, the same number from each lane, are shuffled at a time.

    Without balancing each lane draws each of its cells once an epoch; lanes differ by one cell where the
    store does not divide evenly, and whichever ends first goes on with the next epoch.
    """

    def __init__(
        self,
        n_cells: int,
        seed: int,
        *,
        batch: int = 1,
        buffer: int = BUFFER_CELLS,
        block: int = BLOCK_CELLS,
        balance: Balance | None = None,
        chosen: Int64 | None = None,
    ) -> None:
        """chosen: the store rows that are drawn, `n_cells` of them; None for the first `n_cells`. `balance`
        is of these cells."""
        if n_cells < 1:
            raise InputError("there are no cells to put into an order")
        if balance is not None and len(balance.codes) != n_cells:
            raise ValueError(f"{n_cells} cells, but labels of {len(balance.codes)}")
        if chosen is not None and len(chosen) != n_cells:
            raise ValueError(f"{n_cells} cells, but {len(chosen)} are chosen")
        self.chosen = chosen
        self.n_cells, self.seed, self.batch, self.block, self.balance = n_cells, seed, batch, block, balance
        self.buffer = buffer
        self.epoch_cells = balance.epoch_cells(buffer) if balance else n_cells
        lanes = math.gcd(batch, _MOST_LANES)
        while lanes > self.epoch_cells:
            lanes //= 2
        self.lane_ends = self.epoch_cells * np.arange(lanes + 1) // lanes
        # A window is what is shuffled at once: whole batches, so that it ends where a step ends.
        self.window = max(1, min(buffer, self.epoch_cells) // batch) * batch
        self._draws = balance.draws_per_cell(self.epoch_cells) if balance else None

    def lineage(self) -> dict[str, Any]:
        """What the order depends on, as plain JSON values."""
        balance = self.balance
        return {
            "n_cells": self.n_cells,
            "seed": self.seed,
            "batch": self.batch,
            "buffer": self.buffer,
            "block": self.block,
            "balance": [balance.column, str(balance.temperature)] if balance else None,
            **({} if self.chosen is None else {"chosen": xxhash.xxh3_128_hexdigest(self.chosen.tobytes())}),
        }

    def cells(self, start: int, stop: int) -> Int64:
        """Store rows of the positions `[start, stop)`, in order."""
        parts = [np.empty(0, np.int64)]
        while start < stop:
            number, first = divmod(start, self.window)
            parts.append(_window(self, number)[first : first + stop - start])
            start += len(parts[-1])
        cells = np.concatenate(parts)
        return cells if self.chosen is None else self.chosen[cells]

    def draw_window(self, number: int) -> Int64:
        """Store rows of window `number`; `cells` remembers the last two."""
        lanes = len(self.lane_ends) - 1
        per_lane = self.window // lanes
        random = np.random.default_rng([self.seed, 1, number])
        draws, epochs = np.empty((2, lanes, per_lane), np.int64)
        for lane in range(lanes):
            first, length = self.lane_ends[lane], self.lane_ends[lane + 1] - self.lane_ends[lane]
            done = 0
            while done < per_lane:  # a lane that ends goes on with the next epoch, shuffled apart
                epoch, offset = divmod(number * per_lane + done, length)
                size = min(per_lane - done, length - offset)
                draws[lane, done : done + size] = first + offset + random.permutation(size)
                epochs[lane, done : done + size] = epoch
                done += size
        cells = np.empty_like(draws)
        for epoch in np.unique(epochs):
            cells[epochs == epoch] = self._drawn(int(epoch), draws[epochs == epoch])
        # [lanes, batches, cells of a lane in a batch] -> batch after batch.
        return cells.reshape(lanes, self.window // self.batch, -1).transpose(1, 0, 2).ravel()

    def _drawn(self, epoch: int, draws: Int64) -> Int64:
        """Store rows of the given draws of an epoch: where every whole number, moved by the epoch's offset,
        falls among the summed weights of the cells in this epoch's order of blocks."""
        order = _epoch(self, epoch)
        at = draws + order.offset
        rank = np.searchsorted(order.starts, at, side="right") - 1
        rest, first = at - order.starts[rank], order.blocks[rank] * self.block
        if self._draws is None:
            return first + rest.astype(np.int64)
        ranks, inverse = np.unique(rank, return_inverse=True)
        inside = order.blocks[ranks][:, None] * self.block + np.arange(self.block)
        weights = np.where(inside < self.n_cells, self._draws[np.minimum(inside, self.n_cells - 1)], 0)
        passed = np.cumsum(weights, axis=1)[inverse] <= rest[:, None]
        size = np.minimum(self.block, self.n_cells - first)
        cells: Int64 = first + np.minimum(passed.sum(axis=1), size - 1)
        return cells

    def block_weights(self) -> npt.NDArray[np.float64]:
        """Draws of an epoch that fall on each block, on average `[blocks]`."""
        firsts = np.arange(0, self.n_cells, self.block)
        if self._draws is None:
            return np.minimum(self.block, self.n_cells - firsts).astype(np.float64)
        weights: npt.NDArray[np.float64] = np.add.reduceat(self._draws, firsts)
        return weights


class _Epoch(NamedTuple):
    """blocks: in their order. starts: summed weights before each. offset: of the draws, in [0, 1)."""

    blocks: Int64
    starts: npt.NDArray[np.float64]
    offset: float


@lru_cache(maxsize=4)
def _epoch(order: CellOrder, epoch: int) -> _Epoch:
    random = np.random.default_rng([order.seed, 0, epoch])
    weights = order.block_weights()
    blocks = random.permutation(len(weights))
    starts = np.concatenate([[0.0], np.cumsum(weights[blocks])[:-1]])
    return _Epoch(blocks, starts, float(random.random()) if order.balance else 0.0)


@lru_cache(maxsize=2)
def _window(order: CellOrder, number: int) -> Int64:
    return order.draw_window(number)
