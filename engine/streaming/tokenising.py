"""The tokenising stage: counts of a member to packed tokens, in the CPU task that read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.models import GeneMatch, Tokeniser, Tokens
from engine.streaming.members import Member
from engine.streaming.source import arrays_of, member_of, one_row
from storage.cells import CellBlock


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
        member = member_of(row)
        block = CellBlock(
            **arrays_of(row), n_genes=self.match.n_columns, start=member.start, stop=member.stop
        )
        return tokens_row(member, self.tokens(block))


def tokens_row(member: Member, tokens: Tokens) -> pa.Table:
    """A member's packed tokens as a table of one row."""
    return one_row(member, {"ids": tokens.ids_T, "values": tokens.values_T, "offsets": tokens.offsets})


def tokens_of(row: pa.Table) -> Tokens:
    """What the encoder gets: the packed tokens of a row."""
    # Ray hands out read-only views of shared memory; torch warns about those, and tokens are small.
    arrays = {name: np.array(array) for name, array in arrays_of(row).items()}
    return Tokens(arrays["ids"], arrays["values"], arrays["offsets"])
