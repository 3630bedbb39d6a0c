"""Makes chunks: reads their cells, encodes them, and gives rows of tokens.

Legend: N tokens kept of a chunk, B of a batch, R columns of a row, D width.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np
import torch

from engine import models
from engine.models import Tokeniser, Tokens
from engine.models.matching import GeneMatch
from engine.streaming.forward import encode_cells
from engine.streaming.members import Member
from engine.streaming.packing import BATCH_TOKENS
from engine.streaming.products.activations import ActivationProduct
from engine.training.cell_chunks import CellChunks, TokenRows
from engine.training.recipe import Share
from storage.cells import CellStore
from storage.checkpoints import local_copy
from storage.shuffled_cells import read_cells


class TokenBatch(NamedTuple):
    """Activations x_BD (float32) of some tokens at one hook, and their genes: gene_B, token ids (int64)."""

    x_BD: torch.Tensor
    gene_B: torch.Tensor


def token_batch(chunks: CellChunks, rows_BR: TokenRows, hook: str, device: torch.device) -> TokenBatch:
    """Rows as activations at one of the hooks, on `device`."""
    start = chunks.hooks.index(hook) * chunks.width
    x_BD = torch.from_numpy(rows_BR[:, start : start + chunks.width])
    if x_BD.dtype == torch.uint16:
        x_BD = x_BD.view(torch.bfloat16)
    bits = np.ascontiguousarray(rows_BR[:, len(chunks.hooks) * chunks.width :])
    gene_B = torch.from_numpy(bits.view(np.int32)[:, 0].astype(np.int64))
    return TokenBatch(x_BD.to(device, non_blocking=True).float(), gene_B.to(device, non_blocking=True))


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
            hooks=chunks.hooks,
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

    def rows(self, chunk: Member, tokens: Tokens) -> TokenRows:
        """[N, R] of the kept tokens, in random order: what comes first of a chunk is a sample of it."""
        collector = self.product.collect(self.encoder, tokens, chunk)
        encode_cells(self.encoder, tokens, collector, BATCH_TOKENS)
        columns = [collector.acts[hook] for hook in self.chunks.hooks]
        if columns[0].dtype == torch.bfloat16:
            columns = [column.view(torch.uint16) for column in columns]
        gene_N = collector.kept.gene_N.astype(np.int32)[:, None]
        found: TokenRows = np.concatenate(
            [*(column.numpy() for column in columns), gene_N.view(columns[0].numpy().dtype)], axis=1
        )
        return found

    def make(self, number: int) -> TokenRows:
        """Chunk `number`, read and encoded here."""
        chunk = self.chunks.chunk(number)
        return self.rows(chunk, self.reader.tokens(chunk))


class OwnChunks:
    """A worker's chunks, made in its own process."""

    def __init__(self, chunks: CellChunks, share: Share, first: int, device: torch.device) -> None:
        """`first`: chunk of the whole stream at which the first worker begins."""
        self.encoder = ChunkEncoder(chunks, str(device))
        self.numbers = count(first + share.rank, share.world)

    def __iter__(self) -> Iterator[TokenRows]:
        return map(self.encoder.make, self.numbers)

    def close(self) -> None:
        """There is nothing to end."""
