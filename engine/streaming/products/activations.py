"""The activation cache: what an encoder holds at chosen hook points, token by token.

T packed tokens of a batch; D width of the encoder; N tokens kept of the whole member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.models import Encoder, PackedTokens, Tokens
from engine.streaming.copies import HostCopy
from engine.streaming.draws import smallest_per_cell, token_draws
from engine.streaming.members import TOKENS_PER_SHARD, Member, members_by_tokens, token_bound
from engine.streaming.packing import token_positions
from engine.streaming.products.product import Source
from storage import activations
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.durable_files import Content

# What activations are gathered in; fp8 is made of float32 when the member is complete.
GATHERED_AS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float32,
}


@dataclass(frozen=True)
class ActivationProduct:
    """Activations at `hooks` of every kept token.

    precision: "fp32", "bf16", "fp16" or "fp8", what is stored. tokens_per_cell: keep a sample of so many
    tokens of each cell; all see the whole cell. special_tokens: keep <cls> and its like too; the cell state
    they hold is no gene's.
    seed: of the sample, and of the order of tokens within a member. identity: written into every
    shard. shard_tokens: most tokens of a member.
    """

    hooks: tuple[str, ...]
    precision: str
    tokens_per_cell: int | None
    special_tokens: bool
    seed: int
    identity: Mapping[str, str]
    shard_tokens: int = TOKENS_PER_SHARD

    kind = "activations"

    def lineage(self) -> Mapping[str, Any]:
        return {
            "format": activations.FORMAT,
            "hooks": list(self.hooks),
            "precision": self.precision,
            "tokens_per_cell": self.tokens_per_cell,
            "special_tokens": self.special_tokens,
            "seed": self.seed,
            "shard_tokens": self.shard_tokens,
        }

    def members(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> list[MemberPlan]:
        return members_by_tokens(self.bound(nnz_per_cell, max_tokens, n_special), self.shard_tokens)

    def bound(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> np.ndarray:
        """Most tokens kept of each cell (`[cells]`)."""
        return token_bound(
            nnz_per_cell,
            max_tokens=max_tokens,
            tokens_per_cell=self.tokens_per_cell,
            n_special=n_special if self.special_tokens else 0,
        )

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> ActivationCollector:
        kept = self.kept_tokens(tokens, member.start, encoder.tokeniser.special_ids)
        return ActivationCollector(self, encoder, tokens, member, kept)

    def kept_tokens(self, tokens: Tokens, first_cell: int, special_ids: frozenset[int]) -> KeptTokens:
        """Which tokens are kept and in what order; known before anything is encoded."""
        return keep_tokens(
            tokens,
            first_cell,
            dropped_ids=frozenset() if self.special_tokens else special_ids,
            tokens_per_cell=self.tokens_per_cell,
            seed=self.seed,
        )

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        genes = activations.gene_table(
            source.tokeniser.gene_ids, source.tokeniser.special_ids, source.store.genes
        )
        return activations.finish_activations(dataset, genes)


@dataclass(frozen=True)
class KeptTokens:
    """The tokens of a member that are stored, in stored order.

    row_T: for every token of the member its stored row, -1 when it is not kept. cell_N: global store row.
    gene_N: token id. pos_N: place within the cell's tokens, special tokens counted.
    """

    row_T: np.ndarray
    cell_N: np.ndarray
    gene_N: np.ndarray
    pos_N: np.ndarray

    def __len__(self) -> int:
        return len(self.cell_N)


def keep_tokens(
    tokens: Tokens, first_cell: int, *, dropped_ids: frozenset[int], tokens_per_cell: int | None, seed: int
) -> KeptTokens:
    """Choose and shuffle the tokens of consecutive cells from store row `first_cell` on.

    The order is random within the member, so a trainer that reads shards from front to back reads shuffled
    tokens.
    """
    ids_T = tokens.ids_T
    cell_T, pos_T = first_cell + tokens.cell_T, tokens.position_T
    draws_T = token_draws(seed, cell_T, pos_T)
    kept = np.flatnonzero(~np.isin(ids_T, np.fromiter(dropped_ids, np.int64, len(dropped_ids))))
    if tokens_per_cell is not None:
        kept = kept[smallest_per_cell(draws_T[kept], cell_T[kept], tokens_per_cell)]
    # A second stream: ordered by the draws that chose the sample, tokens of long cells would come first.
    order = np.argsort(token_draws(seed, cell_T[kept], pos_T[kept], stream=1), kind="stable")
    stored = kept[order]
    row_T = np.full(tokens.n_tokens, -1, dtype=np.int64)
    row_T[stored] = np.arange(len(stored))
    return KeptTokens(row_T, cell_T[stored].astype(np.uint32), ids_T[stored].astype(np.uint32), pos_T[stored])


class ActivationCollector:
    """Scatters each batch straight to its place in the shuffled shard; nothing is copied a second time."""

    def __init__(
        self, product: ActivationProduct, encoder: Encoder, tokens: Tokens, member: Member, kept: KeptTokens
    ) -> None:
        self.product, self.encoder, self.member, self.kept = product, encoder, member, kept
        self.offsets = tokens.offsets
        dtype = GATHERED_AS[product.precision]
        self.acts = {hook: torch.empty(len(kept), encoder.d_model, dtype=dtype) for hook in product.hooks}

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        rows = self.kept.row_T[token_positions(self.offsets, cells)]
        wanted = np.flatnonzero(rows >= 0)
        states = self.encoder(tokens, hooks=self.product.hooks, rows_T=torch.from_numpy(wanted)).hooks
        copies = {hook: HostCopy(states[hook].to(acts.dtype)) for hook, acts in self.acts.items()}

        def place() -> None:
            for hook, acts in self.acts.items():
                acts[torch.from_numpy(rows[wanted])] = copies[hook].wait()

        return place

    def objects(self) -> Iterator[tuple[str, Content]]:
        kept = self.kept
        class_N = self.encoder.tokeniser.token_classes[kept.gene_N].astype(np.uint8)
        for hook in self.product.hooks:
            acts, scale = self.acts.pop(hook), None
            if self.product.precision == "fp8":
                acts, scale = activations.quantise(acts)
            content = activations.encode_shard(
                acts, kept.cell_N, kept.gene_N, kept.pos_N, class_N, self._metadata(hook), scale
            )
            yield activations.shard_name(hook, self.member.key), content

    def facts(self) -> Mapping[str, Any]:
        return {"start": self.member.start, "stop": self.member.stop, "n_tokens": len(self.kept)}

    def _metadata(self, hook: str) -> dict[str, str]:
        place = {
            "hook": hook,
            "start": self.member.start,
            "stop": self.member.stop,
            "seed": self.product.seed,
        }
        return {**self.product.identity, **{name: str(value) for name, value in place.items()}}
