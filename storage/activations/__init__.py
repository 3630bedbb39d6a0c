"""Activation cache: what an encoder holds at its hook points, one row per token.

    <hook>/<key>.safetensors   member `key`: consecutive cells of the store (`storage.activations.shards`)
    genes.parquet              token id -> gene id, name, class ("gene" or "special")
    index.parquet              key, cells [start, stop) and number of tokens of every shard

Tokens are in random order within a member, so whoever reads shards from front to back reads shuffled tokens;
`ActivationCache.batches` shuffles across shards as well.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.activations.shards import (
    PRECISIONS,
    TokenActivations,
    decode_shard,
    encode_shard,
    read_header,
    shard_name,
)
from storage.activations.token_order import TokenOrder
from storage.commits import Dataset, Snapshot, open_snapshot
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

if TYPE_CHECKING:
    pass

__all__ = [
    "ActivationCache",
    "TokenActivations",
    "decode_shard",
    "encode_shard",
    "finish_activations",
    "gene_table",
    "shard_name",
]

KIND = "activations"
GENES, INDEX = "genes.parquet", "index.parquet"


def gene_table(
    gene_ids: Sequence[str], special_ids: frozenset[int], store_genes: pd.DataFrame
) -> pd.DataFrame:
    """What token ids mean, one row per id: `gene_id`, `gene_name` (the id where the store knows no name) and
    `class`: "special" for tokens that are no gene, else "gene"."""
    names = dict(store_genes["gene_name"]) if "gene_name" in store_genes else {}
    known = [names.get(gene) for gene in gene_ids]
    return pd.DataFrame(
        {
            "gene_id": list(gene_ids),
            "gene_name": [
                name if isinstance(name, str) and name else gene
                for name, gene in zip(known, gene_ids, strict=True)
            ],
            "class": ["special" if token in special_ids else "gene" for token in range(len(gene_ids))],
        },
        index=pd.RangeIndex(len(gene_ids), name="token"),
    )


def finish_activations(dataset: Dataset, genes: pd.DataFrame) -> Snapshot:
    """Write the gene table and the index, then the snapshot. Members' record facts must hold start, stop and
    n_tokens."""
    if dataset.is_complete:
        return dataset.finish()
    records = list(dataset.records())
    if not records:
        raise InputError(f"{dataset.location}: no cells, so no activations")
    facts = ("start", "stop", "n_tokens")
    index = pd.DataFrame(
        {"key": [record.key for record in records]}
        | {fact: [int(record.facts[fact]) for record in records] for fact in facts}
    )
    objects = {GENES: _parquet(genes.reset_index()), INDEX: _parquet(index)}
    n_cells = int((index["stop"] - index["start"]).sum())
    return dataset.finish(objects, {"n_tokens": int(index["n_tokens"].sum()), "n_cells": n_cells})


class ActivationCache:
    """Reader of a finished activation cache. Pickles by location; use `open`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.lineage = snapshot.lineage
        self.dataset_id = snapshot.dataset_id
        self.members = snapshot.members
        self.n_tokens: int = snapshot.facts["n_tokens"]
        self.n_cells: int = snapshot.facts["n_cells"]
        self.hooks = tuple(sorted({name.rsplit("/", 1)[0] for name in snapshot.members[0].objects}))

    @classmethod
    def open(cls, path: Location | str) -> ActivationCache:
        """Raises InputError when no finished cache is there, DamagedDataset when parts are missing."""
        snapshot = open_snapshot(Location.of(path), KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return ActivationCache, (self.snapshot,)

    @cached_property
    def genes(self) -> pd.DataFrame:
        """Token id -> gene_id, gene_name, class (see `gene_table`)."""
        return pd.read_parquet(io.BytesIO(self.snapshot.read(GENES))).set_index("token")

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the writer put into the first shard: model fingerprint, hook, store id, seed."""
        metadata = self._header["__metadata__"]
        return {str(name): str(value) for name, value in metadata.items()}

    @property
    def d(self) -> int:
        """Width of the activations."""
        return int(self._header["acts"]["shape"][1])

    @property
    def dtype(self) -> str:
        """Stored precision: "bf16", "fp16" or "fp32"."""
        return PRECISIONS[self._header["acts"]["dtype"]]

    @property
    def seed(self) -> int:
        """Seed of the order of tokens within members."""
        return int(self.metadata.get("seed", 0))

    def read(self, hook: str, key: str) -> TokenActivations:
        """One member at one hook, hash-checked. Raises InputError for an unknown hook, DamagedDataset."""
        if hook not in self.hooks:
            raise InputError(
                f"{self.snapshot.location}: no activations at hook {hook!r}; the cache holds "
                f"{', '.join(self.hooks)}"
            )
        name = shard_name(hook, key)
        try:
            return decode_shard(self.snapshot.read(name))[0]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedDataset(f"{self.snapshot.location}/{name}: no activation shard ({error})") from error

    def batches(
        self,
        hook: str,
        batch_tokens: int,
        *,
        seed: int,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        shards_in_buffer: int = 8,
    ) -> Iterator[TokenActivations]:
        """Endless shuffled batches of exactly `batch_tokens` tokens, a function of the arguments alone.

        Every pass draws a new order of shards; `shards_in_buffer` of them (in memory: that many, say 2 GiB)
        are shuffled together and cut into batches, which run on from one pool and one pass into the next, so
        each token is seen once a pass. Batch b of worker `rank` is batch b * world + rank of this stream: an
        iterator started at `start_batch` continues exactly where another stopped.
        """
        order = TokenOrder([int(record.facts["n_tokens"]) for record in self.members], seed, shards_in_buffer)
        if order.n_tokens == 0:
            raise InputError(f"{self.snapshot.location}: the cache holds no tokens")
        pool: tuple[tuple[int, int], TokenActivations] | None = None
        batch = start_batch
        while True:
            start = (batch * world + rank) * batch_tokens
            parts = []
            for epoch, number, rows in order.rows(start, start + batch_tokens):
                if pool is None or pool[0] != (epoch, number):
                    pool = None  # let go of the old pool before the new one is read
                    pool = ((epoch, number), self._pool(hook, order.shards(epoch, number)))
                parts.append(_select(pool[1], rows))
            yield _joined(parts)
            batch += 1

    def _pool(self, hook: str, shards: Sequence[int]) -> TokenActivations:
        """Some members one after the other; memory peaks at the pool and one member."""
        import torch

        counts = [int(self.members[shard].facts["n_tokens"]) for shard in shards]
        ends = np.cumsum(counts)
        acts = torch.empty(0)
        columns: list[tuple[npt.NDArray[Any], ...]] = []
        for shard, count, end in zip(shards, counts, ends, strict=True):
            part = self.read(hook, self.members[shard].key)
            if not columns:
                acts = torch.empty(int(ends[-1]), part.acts.shape[1], dtype=part.acts.dtype)
            acts[end - count : end] = part.acts
            columns.append((part.cell.copy(), part.gene.copy(), part.pos.copy()))
        return TokenActivations(acts, *(np.concatenate(parts) for parts in zip(*columns, strict=True)))

    @cached_property
    def _header(self) -> dict[str, Any]:
        name = shard_name(self.hooks[0], self.members[0].key)
        return read_header(lambda start, stop: self.snapshot.read_ranges(name, [(start, stop)])[0])


def _select(tokens: TokenActivations, rows: npt.NDArray[np.int64]) -> TokenActivations:
    import torch

    return TokenActivations(
        tokens.acts[torch.from_numpy(rows)], tokens.cell[rows], tokens.gene[rows], tokens.pos[rows]
    )


def _joined(parts: Sequence[TokenActivations]) -> TokenActivations:
    import torch

    if len(parts) == 1:
        return parts[0]
    acts, cells, genes, positions = zip(*parts, strict=True)
    return TokenActivations(
        torch.cat(acts), np.concatenate(cells), np.concatenate(genes), np.concatenate(positions)
    )


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()
