"""Where the cells of a packed batch lie, in the forms that kernels want.

Legend: T packed tokens, C cells, C1 cells + 1.
"""
# ruff: noqa: N802 - shape suffixes are capitals on attributes too

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.models.errors import ModelError


def sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on `device`. Pinned memory lets a GPU fetch it without stopping for what it computes."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True)
class Run:
    """Neighbouring cells with as many queries and as many tokens each: their rows, to be viewed as
    [n_cells, length].
    """

    n_cells: int
    queries: slice
    tokens: slice


class CellLayout:
    """Where each cell's tokens lie in the packed axis, in the forms that kernels want; one per batch."""

    def __init__(self, offsets: npt.NDArray[np.int64], device: torch.device) -> None:
        self.offsets = offsets
        self.lengths = np.diff(offsets)
        self.device = device

    @property
    def n_cells(self) -> int:
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        return int(self.offsets[-1])

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=0))

    @cached_property
    def offsets_C1(self) -> Tensor:
        """int32 offsets on the device, as variable-length attention kernels take them."""
        return sent(self.offsets.astype(np.int32), self.device)

    @cached_property
    def lengths_C(self) -> Tensor:
        return sent(self.lengths, self.device)

    @cached_property
    def cell_T(self) -> Tensor:
        """Cell of every token."""
        return sent(np.repeat(np.arange(self.n_cells), self.lengths), self.device)

    @cached_property
    def position_T(self) -> Tensor:
        """Position of every token within its cell."""
        starts_T = np.repeat(self.offsets[:-1], self.lengths)
        return sent(np.arange(self.n_tokens) - starts_T, self.device)

    @cached_property
    def runs(self) -> list[Run]:
        """All tokens as queries, in packed order: each run is one dense attention call."""
        return _runs(self, self)


class KeptRows:
    """The rows of a packed batch whose states are wanted; all others are only their context.

    rows_T: the rows, on the batch's device. layout: where each cell's rows lie among them.
    """

    def __init__(self, rows_T: Tensor, layout: CellLayout) -> None:
        """rows_T: int64, ascending; on the host if it can be, for a device would have to be waited for.

        Raises ModelError when a row does not exist or comes twice.
        """
        rows = rows_T.cpu().numpy()
        if len(rows) and not (
            rows[0] >= 0 and rows[-1] < layout.n_tokens and bool(np.all(np.diff(rows) > 0))
        ):
            raise ModelError(f"rows_T: expected ascending rows of {layout.n_tokens} packed tokens, each once")
        self.rows_T = sent(rows, layout.device) if rows_T.device != layout.device else rows_T
        self.layout = CellLayout(np.searchsorted(rows, layout.offsets), layout.device)
        self._context = layout

    @cached_property
    def runs(self) -> list[Run]:
        """Kept rows as queries over all tokens of their cells."""
        return _runs(self.layout, self._context)


def _runs(queries: CellLayout, tokens: CellLayout) -> list[Run]:
    """Neighbours of equal lengths, for slices need no copy; packed batches bring like lengths together."""
    shapes = np.stack([queries.lengths, tokens.lengths])
    changes = np.flatnonzero(np.any(shapes[:, 1:] != shapes[:, :-1], axis=0)) + 1
    edges = [0, *changes.tolist(), queries.n_cells]
    return [
        Run(
            stop - start,
            slice(int(queries.offsets[start]), int(queries.offsets[stop])),
            slice(int(tokens.offsets[start]), int(tokens.offsets[stop])),
        )
        for start, stop in pairwise(edges)
        if queries.offsets[stop] > queries.offsets[start]
    ]
