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
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import pandas as pd

from storage.activations.fp8 import quantise
from storage.activations.pool import PoolsAhead, TokenPool, joined
from storage.activations.shards import (
    PRECISIONS,
    StoredActivations,
    TokenActivations,
    decode_shard,
    encode_shard,
    read_header,
    row_bytes,
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

    def read(self, hook: str, key: str, *, decoded: bool = True) -> TokenActivations:
        """One member at one hook, hash-checked; decoded: whether fp8 is made float32. Raises InputError for
        an unknown hook, DamagedDataset.
        """
        return self._stored(hook, key).tokens(decoded)

    def _stored(self, hook: str, key: str) -> StoredActivations:
        self._require(hook)
        name = shard_name(hook, key)
        try:
            content = np.empty(self.snapshot.all_objects[name].size, np.uint8)
            self.snapshot.read_into(name, content)
            return decode_shard(content)[0]
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
        shards_in_buffer: int = 4,
        decoded: bool = True,
    ) -> Iterator[TokenActivations]:
        """Endless shuffled batches of exactly `batch_tokens` tokens, a function of the arguments alone.

        Every pass draws a new order of shards; `shards_in_buffer` of them (say 1 GiB) are shuffled together
        and cut into batches, which run on from one pool and one pass into the next, so each token is seen
        once a pass. The next pool is read meanwhile: two are in memory. Batch b of worker `rank` is batch
        b * world + rank of this stream: an iterator started at `start_batch` continues exactly where another
        stopped. decoded: whether fp8 is made float32.
        """
        self._require(hook)
        order = TokenOrder([int(record.facts["n_tokens"]) for record in self.members], seed, shards_in_buffer)
        if order.n_tokens == 0:
            raise InputError(f"{self.snapshot.location}: the cache holds no tokens")
        with ThreadPoolExecutor(1, thread_name_prefix="token-pool") as reader:
            pools = PoolsAhead(
                lambda number, pool: self._pool(hook, order.shards(number, pool)), order, reader
            )
            for batch in count(start_batch * world + rank, world):
                pieces = order.rows(batch * batch_tokens, (batch + 1) * batch_tokens)
                parts = [pools.at(number, pool).select(rows) for number, pool, rows in pieces]
                yield joined(parts).tokens(decoded)

    def _require(self, hook: str) -> None:
        if hook not in self.hooks:
            raise InputError(
                f"{self.snapshot.location}: no activations at hook {hook!r}; the cache holds "
                f"{', '.join(self.hooks)}"
            )

    def _pool(self, hook: str, shards: Sequence[int]) -> TokenPool:
        names = [shard_name(hook, self.members[shard].key) for shard in shards]
        try:
            return TokenPool.read(self.snapshot, names, row_bytes(self._header))
        except (ValueError, KeyError, TypeError) as error:
            found = f"{self.snapshot.location}: {', '.join(names)}: no activation shards ({error})"
            raise DamagedDataset(found) from error

    @cached_property
    def _header(self) -> dict[str, Any]:
        name = shard_name(self.hooks[0], self.members[0].key)
        return read_header(lambda start, stop: self.snapshot.read_ranges(name, [(start, stop)])[0])


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()
