"""Chunks of shuffled cells as activations: the unit in which an encoder makes training tokens.

A chunk is a function of its number, whoever makes it: this process, or any actor of a pool. It is one array,
a row a token, because rows are all that shuffling and the object store need to know: activations at each
hook one after the other, then the bits of the token's gene.

Imports no PyTorch: actors that only hand chunks on need none.

Legend: N tokens kept of a chunk, R columns of a row, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.streaming.members import Member
from storage.cell_order import CellOrder

if TYPE_CHECKING:
    from engine.models import Precision

TokenRows = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
"""[N, R] in host memory: float32, or the bits of bfloat16, which NumPy and Arrow have no type for."""

ITEM_BYTES = {"fp32": 4, "bf16": 2}
GENE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class CellChunks:
    """The endless sequence of chunks of a store's cells, and how they are encoded.

    Chunk `c` holds positions `[c * size, (c + 1) * size)` of the shuffled order of cells, which goes on from
    one epoch into the next. Small and picklable: it travels to every actor.
    """

    cells: str
    n_cells: int
    model: str
    hooks: tuple[str, ...]
    width: int
    """D, at each hook."""
    max_tokens: int
    """Tokens encoded of a longer cell; which ones is drawn anew in every epoch."""
    tokens_per_cell: int | None
    """Tokens kept of a cell, drawn anew in every epoch; None keeps those of all its genes."""
    precision: Precision
    """What the encoder computes in, and what activations are kept in."""
    seed: int
    size: int
    """Cells of a chunk."""

    @property
    def row_width(self) -> int:
        """R."""
        return len(self.hooks) * self.width + GENE_BYTES // ITEM_BYTES[self.precision]

    @property
    def most_bytes(self) -> int:
        """Of a chunk of long cells."""
        kept = min(self.max_tokens, self.tokens_per_cell or self.max_tokens)
        return self.size * kept * self.row_width * ITEM_BYTES[self.precision]

    def chunk(self, number: int) -> Member:
        """Its positions, as a range like any other that is encoded as one."""
        return Member(str(number), number * self.size, (number + 1) * self.size)

    @cached_property
    def order(self) -> CellOrder:
        return CellOrder(self.n_cells, self.seed)
