"""Chunks of shuffled cells as activations: the unit in which an encoder makes training tokens.

A chunk is a function of its number, whoever makes it: this process, or any actor of a pool.

Legend: N tokens kept of a chunk, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
import numpy.typing as npt
import torch

from engine import models
from engine.models import Precision, Tokeniser, Tokens
from engine.models.matching import GeneMatch
from engine.streaming.forward import encode_cells
from engine.streaming.members import Member
from engine.streaming.packing import BATCH_TOKENS
from engine.streaming.products.activations import ActivationProduct
from engine.training.recipe import Share
from storage.cell_order import CellOrder
from storage.cells import CellStore
from storage.checkpoints import local_copy
from storage.shuffled_cells import read_cells

Activations = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
"""x_ND in host memory: float32, or the bits of bfloat16, which NumPy and Arrow have no type for."""

ITEM_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class CellChunks:
    """The endless sequence of chunks of a store's cells, and how they are encoded.

    Chunk `c` holds positions `[c * size, (c + 1) * size)` of the shuffled order of cells, which goes on from
    one epoch into the next. Small and picklable: it travels to every actor.
    """

    cells: str
    n_cells: int
    model: str
    hook: str
    width: int
    """D, at the hook."""
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
    def most_bytes(self) -> int:
        """Of the activations of a chunk of long cells."""
        kept = min(self.max_tokens, self.tokens_per_cell or self.max_tokens)
        return self.size * kept * self.width * ITEM_BYTES[self.precision]

    def chunk(self, number: int) -> Member:
        """Its positions, as a range like any other that is encoded as one."""
        return Member(str(number), number * self.size, (number + 1) * self.size)

    @cached_property
    def order(self) -> CellOrder:
        return CellOrder(self.n_cells, self.seed)


class ChunkReader:
    """Reads the cells of chunks and tokenises them."""

    def __init__(self, chunks: CellChunks, store: CellStore, tokeniser: Tokeniser, match: GeneMatch) -> None:
        self.chunks, self.store, self.tokeniser, self.match = chunks, store, tokeniser, match

    @classmethod
    def open(cls, chunks: CellChunks, tokeniser: Tokeniser) -> "ChunkReader":
        store = CellStore.open(chunks.cells)
        return cls(chunks, store, tokeniser, tokeniser.match(list(store.genes.index)))

    def tokens(self, chunk: Member) -> Tokens:
        """Packed tokens of the chunk's cells, in shuffled order."""
        rows = read_cells(self.store, self.chunks.order.cells(chunk.start, chunk.stop))
        # The position, not the cell, seeds the sample of a long cell: every epoch sees other genes of it.
        return self.tokeniser.tokenise(
            rows.indptr,
            rows.indices,
            rows.counts,
            self.match,
            max_tokens=self.chunks.max_tokens,
            seed=self.chunks.seed,
            first_cell=chunk.start,
        )


class ChunkEncoder:
    """An encoder that turns chunks into activations of the tokens to train on."""

    def __init__(self, chunks: CellChunks, device: str) -> None:
        encoder = models.load(local_copy(chunks.model), precision=chunks.precision)
        self.chunks, self.encoder = chunks, encoder.to(device).eval()
        self.product = ActivationProduct(
            hooks=(chunks.hook,),
            precision=chunks.precision,
            tokens_per_cell=chunks.tokens_per_cell,
            special_tokens=False,
            seed=chunks.seed,
            identity={},
        )

    @cached_property
    def reader(self) -> ChunkReader:
        """For an encoder that reads its chunks itself."""
        return ChunkReader.open(self.chunks, self.encoder.tokeniser)

    def activations(self, chunk: Member, tokens: Tokens) -> Activations:
        """x_ND of the kept tokens, in random order: what comes first of a chunk is a sample of it."""
        collector = self.product.collect(self.encoder, tokens, chunk)
        encode_cells(self.encoder, tokens, collector, BATCH_TOKENS)
        x_ND = collector.acts[self.chunks.hook]
        found: Activations = (x_ND.view(torch.uint16) if x_ND.dtype == torch.bfloat16 else x_ND).numpy()
        return found

    def make(self, number: int) -> Activations:
        """Chunk `number`, read and encoded here."""
        chunk = self.chunks.chunk(number)
        return self.activations(chunk, self.reader.tokens(chunk))


class OwnChunks:
    """A worker's chunks, made in its own process."""

    def __init__(self, chunks: CellChunks, share: Share, first: int, device: torch.device) -> None:
        """`first`: chunk of the whole stream at which the first worker begins."""
        self.encoder = ChunkEncoder(chunks, str(device))
        self.numbers = count(first + share.rank, share.world)

    def __iter__(self) -> Iterator[Activations]:
        return map(self.encoder.make, self.numbers)

    def close(self) -> None:
        """There is nothing to end."""


def to_float(x_ND: Activations, device: torch.device) -> torch.Tensor:
    """The same activations as a float32 tensor on `device`."""
    tensor = torch.from_numpy(x_ND)
    if tensor.dtype == torch.uint16:
        tensor = tensor.view(torch.bfloat16)
    return tensor.to(device, non_blocking=True).float()
