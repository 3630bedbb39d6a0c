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
from typing import Any

import numpy as np
import pandas as pd

from storage.activations.fp8 import quantise
from storage.activations.shards import (
    PRECISIONS,
    StoredActivations,
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

__all__ = [
    "ActivationCache",
    "StoredActivations",
    "TokenActivations",
    "decode_shard",
    "encode_shard",
    "finish_activations",
    "gene_table",
    "quantise",
    "shard_name",
]

KIND = "activations"
GENES, INDEX = "genes.parquet", "index.parquet"
# 2: a class beside each token. Part of the lineage, and of the snapshot's facts.
FORMAT = 2


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
    n_tokens = int(index["n_tokens"].sum())
    return dataset.finish(objects, {"n_tokens": n_tokens, "n_cells": n_cells, "format": FORMAT})


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
        """Raises InputError when no finished cache of this format is there, DamagedDataset when parts are
        missing.
        """
        snapshot = open_snapshot(Location.of(path), KIND)
        if snapshot.facts.get("format") != FORMAT:
            raise InputError(
                f"{snapshot.location}: an activation cache of format {snapshot.facts.get('format', 1)}; this "
                f"version reads format {FORMAT} alone; make it again with `syncytium cache`"
            )
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
        """Stored precision: "bf16", "fp16", "fp32" or "fp8"."""
        return PRECISIONS[self._header["acts"]["dtype"]]

    @property
    def seed(self) -> int:
        """Seed of the order of tokens within members."""
        return int(self.metadata.get("seed", 0))

    def read(self, hook: str, key: str) -> TokenActivations:
        """One member at one hook, hash-checked. Raises InputError for an unknown hook, DamagedDataset."""
        return self._stored(hook, key).tokens()

    def _stored(self, hook: str, key: str) -> StoredActivations:
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
        pool: tuple[tuple[int, int], StoredActivations] | None = None
        batch = start_batch
        while True:
            start = (batch * world + rank) * batch_tokens
            parts = []
            for epoch, number, rows in order.rows(start, start + batch_tokens):
                if pool is None or pool[0] != (epoch, number):
                    pool = None  # let go of the old pool before the new one is read
                    pool = ((epoch, number), self._pool(hook, order.shards(epoch, number)))
                parts.append(pool[1].select(rows))
            yield _joined(parts).tokens()
            batch += 1

    def _pool(self, hook: str, shards: Sequence[int]) -> StoredActivations:
        """Some members one after the other; memory peaks at the pool and one member."""
        counts = [int(self.members[shard].facts["n_tokens"]) for shard in shards]
        ends = np.cumsum(counts)
        rows = np.empty((0, 0), np.uint8)
        parts: list[StoredActivations] = []
        for shard, count, end in zip(shards, counts, ends, strict=True):
            part = self._stored(hook, self.members[shard].key)
            if not parts:
                rows = np.empty((int(ends[-1]), part.rows.shape[1]), np.uint8)
            rows[end - count : end] = part.rows
            parts.append(part.beside())
        return _joined(parts)._replace(rows=rows)

    @cached_property
    def _header(self) -> dict[str, Any]:
        name = shard_name(self.hooks[0], self.members[0].key)
        return read_header(lambda start, stop: self.snapshot.read_ranges(name, [(start, stop)])[0])


def _joined(parts: Sequence[StoredActivations]) -> StoredActivations:
    if len(parts) == 1:
        return parts[0]
    rows, precisions, *columns = zip(*parts, strict=True)
    return StoredActivations(np.concatenate(rows), precisions[0], *map(np.concatenate, columns))


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()
