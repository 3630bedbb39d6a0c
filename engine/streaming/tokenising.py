"""The tokenising stage: counts of a member to packed tokens, in the CPU task that read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from storage.cells import CellBlock

from engine.models import GeneMatch, Tokeniser, Tokens
from engine.streaming.products import Member
from engine.streaming.source import arrays_of, one_row


@dataclass(frozen=True)
class TokeniseMembers:
    """What turns cells into tokens. Depends on the cell and these fields only, never on its neighbours.

    max_tokens: tokens kept of a longer cell, drawn by (seed, cell); None keeps all.
    """

    tokeniser: Tokeniser
    match: GeneMatch
    max_tokens: int | None
    seed: int

    def tokens(self, block: CellBlock) -> Tokens:
        """Packed tokens of the block's cells, in store order."""
        return self.tokeniser.tokenise(
            block.indptr,
            block.indices,
            block.counts,
            self.match,
            max_tokens=self.max_tokens,
            seed=self.seed,
            first_cell=block.start,
        )

    def __call__(self, row: pa.Table) -> pa.Table:
        member, arrays = arrays_of(row)
        block = CellBlock(**arrays, n_genes=self.match.n_columns, start=member.start, stop=member.stop)
        tokens = self.tokens(block)
        return one_row(member, {"ids": tokens.ids_T, "values": tokens.values_T, "offsets": tokens.offsets})


def tokens_of(row: pa.Table) -> tuple[Member, Tokens]:
    """What the encoder gets: the member and its packed tokens."""
    member, arrays = arrays_of(row)
    # Ray hands out read-only views of shared memory; torch warns about those, and tokens are small.
    copies = {name: np.array(array) for name, array in arrays.items()}
    return member, Tokens(copies["ids"], copies["values"], copies["offsets"])
