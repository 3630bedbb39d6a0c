"""Activations straight to a trainer, without a disk between: cells in, shuffled token batches out, in this
process.

The cells are cut into small members as a cache is. A pool of members is encoded, its tokens are shuffled,
batches are cut from it, and the next pool follows; pools are drawn anew in every pass over the cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.models import Encoder
from engine.streaming.draws import token_draws
from engine.streaming.encoders import encode_cells
from engine.streaming.inputs import SPECIAL_PER_CELL
from engine.streaming.members import Member, members_by_tokens
from engine.streaming.packing import BATCH_TOKENS
from engine.streaming.products.activations import ActivationCollector, ActivationProduct
from engine.streaming.tokenising import TokeniseMembers
from storage.activations import TokenActivations
from storage.cells import CellStore
from storage.errors import InputError

MEMBER_TOKENS = 16_384
# A pool of 16 members of 16,384 tokens is as well mixed as a shard of a cache; 512 MiB at width 512 in
# float32.
MEMBERS_PER_POOL = 16

# Streams of random draws beside those of the product (0: sample, 1: order within a shard).
_MEMBER_ORDER, _POOL_ORDER = 2, 3


def token_activations(
    store: CellStore,
    encoder: Encoder,
    hook: str,
    batch_tokens: int,
    *,
    seed: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world: int = 1,
    max_tokens: int | None = None,
    tokens_per_cell: int | None = None,
    special_tokens: bool = False,
    n_cells: int | None = None,
    member_tokens: int = MEMBER_TOKENS,
    members_per_pool: int = MEMBERS_PER_POOL,
) -> Iterator[TokenActivations]:
    """Endless shuffled batches of exactly `batch_tokens` tokens: acts float32 `[batch_tokens, d]` on the CPU.

    The same arguments give the same batches, and `start_batch` continues where an earlier iterator stopped
    without encoding what it skips. Ranks see disjoint cells in each pass. The tokens left over at the end
    of a pool (fewer than a batch) are not used in that pass. Raises InputError when one pass over the cells
    of a rank holds less than a batch.
    """
    match = encoder.tokeniser.match(list(store.genes.index))
    if match.n_matched == 0:
        raise InputError(f"none of the store's genes is known to the model: {match.report()}")
    n_cells = min(store.n_cells, n_cells or store.n_cells)
    product = ActivationProduct(
        hooks=(hook,),
        precision="fp32",
        tokens_per_cell=tokens_per_cell,
        special_tokens=special_tokens,
        seed=seed,
        identity={},
    )
    tokenise = TokeniseMembers(encoder.tokeniser, match, max_tokens or encoder.max_tokens, seed)
    bound = product.bound(store.nnz_per_cell[:n_cells], tokenise.max_tokens, SPECIAL_PER_CELL)
    members = [Member.of(member) for member in members_by_tokens(bound, member_tokens)]
    pools = _Pools(store, encoder, product, tokenise, members, members_per_pool)
    return pools.batches(batch_tokens, start_batch, rank, world)


@dataclass
class _Pools:
    store: CellStore
    encoder: Encoder
    product: ActivationProduct
    tokenise: TokeniseMembers
    members: Sequence[Member]
    members_per_pool: int
    sizes: dict[int, int] = field(default_factory=dict)

    def batches(
        self, batch_tokens: int, start_batch: int, rank: int, world: int
    ) -> Iterator[TokenActivations]:
        to_skip, any_batch = start_batch, False
        for pass_number, pool in self._pools(batch_tokens, rank, world):
            n_batches = sum(map(self._size, pool)) // batch_tokens
            if pass_number > 0 and not any_batch:
                raise InputError(
                    f"worker {rank} of {world}: one pass over its cells gives fewer tokens than a batch of "
                    f"{batch_tokens:,}; use more cells, fewer workers or a smaller batch."
                )
            any_batch |= n_batches > 0
            if to_skip >= n_batches:
                to_skip -= n_batches
                continue
            mixed = self._mixed(pool, pass_number)
            for batch in range(to_skip, n_batches):
                yield _rows(mixed, slice(batch * batch_tokens, (batch + 1) * batch_tokens))
            to_skip = 0

    def _pools(self, batch_tokens: int, rank: int, world: int) -> Iterator[tuple[int, list[int]]]:
        """Pass after pass: pools of member numbers that hold a batch at least, but for the last of a pass."""
        numbers = np.arange(len(self.members))
        pass_number = 0
        while True:
            seed = self.product.seed
            order = np.argsort(token_draws(seed, numbers, np.full_like(numbers, pass_number), _MEMBER_ORDER))
            share = [int(number) for number in order[rank::world]]
            if not share:
                raise InputError(f"{len(numbers)} members of cells cannot be shared by {world} workers")
            while share:
                n_members = min(self.members_per_pool, len(share))
                while n_members < len(share) and sum(map(self._size, share[:n_members])) < batch_tokens:
                    n_members += 1
                yield pass_number, share[:n_members]
                share = share[n_members:]
            pass_number += 1

    def _mixed(self, pool: Sequence[int], pass_number: int) -> TokenActivations:
        parts = [self._encoded(self.members[number]) for number in pool]
        cell = np.concatenate([part.kept.cell_N for part in parts])
        pos = np.concatenate([part.kept.pos_N for part in parts])
        draws = token_draws(self.product.seed, cell, pos, _POOL_ORDER + pass_number)
        order = np.argsort(draws, kind="stable")
        acts = torch.cat([part.acts[self.product.hooks[0]] for part in parts])
        gene = np.concatenate([part.kept.gene_N for part in parts])
        return TokenActivations(acts[torch.from_numpy(order)], cell[order], gene[order], pos[order])

    def _encoded(self, member: Member) -> ActivationCollector:
        tokens = self.tokenise.tokens(self.store.read(member.start, member.stop))
        collector = self.product.collect(self.encoder, tokens, member)
        encode_cells(self.encoder, tokens, collector, BATCH_TOKENS)
        return collector

    def _size(self, number: int) -> int:
        """Tokens kept of a member; tokenises it the first time, encodes nothing."""
        if number not in self.sizes:
            member = self.members[number]
            tokens = self.tokenise.tokens(self.store.read(member.start, member.stop))
            kept = self.product.kept_tokens(tokens, member.start, self.encoder.tokeniser.special_ids)
            self.sizes[number] = len(kept)
        return self.sizes[number]


def _rows(tokens: TokenActivations, rows: slice) -> TokenActivations:
    return TokenActivations(tokens.acts[rows], tokens.cell[rows], tokens.gene[rows], tokens.pos[rows])
