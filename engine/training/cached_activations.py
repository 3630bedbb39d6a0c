"""Training tokens from an activation cache.

Legend: B tokens of a batch, T tokens of a shard, D width.
"""

import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from engine.training.chunks import TokenBatch
from engine.training.prefetch import prefetched
from engine.training.recipe import Share
from storage.activations import ActivationCache, StoredActivations, TokenActivations, shard_name
from storage.activations.pool import PoolsAhead, TokenPool, joined
from storage.activations.shards import header_bytes, read_header, row_bytes
from storage.activations.token_order import TokenOrder
from storage.errors import InputError

TokenClass = Literal["gene", "cell", "special", "all"]
# Codes of the column `class` of a cache: what kind of token.
CLASS_CODES = {"gene": 0, "cell": 1, "special": 2}

# A batch of whole cells is a few cells' worth of correlated tokens; quality still improves at 32 batches'
# worth of cells shuffled together (specs/sae.md section 5).
WINDOW_STEPS = 32
FEWEST_SHARDS = 4
# Small reads of object stores, in flight at once.
READERS = 16


@dataclass(frozen=True, kw_only=True)
class CachedActivations:
    """Tokens of a class from a cache, shuffled over `shards_in_buffer` of its shards at a time."""

    cache: str
    dataset_id: str
    hook: str
    width: int
    tokens_per_shard: tuple[int, ...]
    """Of the class."""
    shards_in_buffer: int = FEWEST_SHARDS
    kept_class: TokenClass = "all"
    filtered: bool = False
    """Whether the cache holds tokens of other classes too."""

    @property
    def n_tokens(self) -> int:
        return sum(self.tokens_per_shard)

    @property
    def actors(self) -> int:
        """None: every worker reads."""
        return 0

    @classmethod
    def plan(
        cls,
        cache: str,
        hook: str | None,
        *,
        kept_class: TokenClass = "gene",
        batch: int | None = None,
        shards_in_buffer: int | None = None,
    ) -> "CachedActivations":
        """Of the cache at this path; its only hook unless one is named. Raises InputError.

        batch: tokens of an optimiser step; the buffer then holds at least 32 steps' worth of tokens, where
        the cache does. shards_in_buffer: instead of that.
        """
        opened = ActivationCache.open(cache)
        if hook is None and len(opened.hooks) > 1:
            raise InputError(f"{cache}: holds the hooks {', '.join(opened.hooks)}; say which with --hook.")
        chosen = hook or opened.hooks[0]
        if chosen not in opened.hooks:
            raise InputError(f"--hook {chosen}: {cache} holds {', '.join(opened.hooks)}.")
        counts = tokens_by_class(opened)
        kept = counts.sum(1) if kept_class == "all" else counts[:, CLASS_CODES[kept_class]]
        if not kept.sum():
            held = [name for name, code in CLASS_CODES.items() if counts[:, code].any()]
            raise InputError(
                f"{cache}: the cache holds no tokens of class {kept_class}"
                + (
                    f", only {', '.join(held)}; see --token-class and `cache --special-tokens`."
                    if held
                    else "."
                )
            )
        return cls(
            cache=cache,
            dataset_id=opened.dataset_id,
            hook=chosen,
            width=opened.d,
            tokens_per_shard=tuple(map(int, kept)),
            shards_in_buffer=shards_in_buffer or shards_for(kept, batch),
            kept_class=kept_class,
            filtered=bool(kept.sum() < counts.sum()),
        )

    def lineage(self) -> dict[str, Any]:
        return {
            "cache": self.dataset_id,
            "hook": self.hook,
            "token_class": self.kept_class,
            "shards_in_buffer": self.shards_in_buffer,
        }

    def provenance(self) -> dict[str, Any]:
        opened = ActivationCache.open(self.cache)
        product = opened.lineage.get("activations", {})
        return {
            "hook_name": self.hook,
            "cache": self.dataset_id,
            "cells": opened.metadata.get("store", ""),
            "model": opened.metadata.get("model", ""),
            "token_class": self.kept_class,
            "tokens_per_cell": product.get("tokens_per_cell"),
            "activation_precision": opened.dtype,
        }

    def gene_names(self) -> list[str]:
        return list(ActivationCache.open(self.cache).genes["gene_name"])

    def shuffled_tokens(self, batch: int) -> float:
        """Tokens shuffled together."""
        return min(self.shards_in_buffer / len(self.tokens_per_shard), 1.0) * self.n_tokens

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[TokenBatch, None, None]:
        opened = ActivationCache.open(self.cache)
        first = start_step * share.accumulation * share.world + share.rank
        read = self._of_class if self.filtered else self._of_all
        # fp8 travels to a GPU as it is stored, and is made numbers there.
        for tokens in prefetched(read(opened, share, first, decoded=device.type == "cpu")):
            gene_B = torch.from_numpy(tokens.gene.astype(np.int64))
            yield TokenBatch(activations_on(device, tokens), gene_B.to(device, non_blocking=True))

    def _of_all(
        self, opened: ActivationCache, share: Share, first: int, *, decoded: bool
    ) -> Iterator[TokenActivations]:
        return opened.batches(
            self.hook,
            share.micro_batch,
            seed=share.seed,
            start_batch=first // share.world,
            rank=share.rank,
            world=share.world,
            shards_in_buffer=self.shards_in_buffer,
            decoded=decoded,
        )

    def _of_class(
        self, opened: ActivationCache, share: Share, first: int, *, decoded: bool
    ) -> Iterator[TokenActivations]:
        """As `ActivationCache.batches`, of the tokens of the class as if there were no others."""
        order = TokenOrder(self.tokens_per_shard, share.seed, self.shards_in_buffer)
        size, code = share.micro_batch, CLASS_CODES[self.kept_class]

        def read(number: int, pool: int) -> ClassPool:
            names = [shard_name(self.hook, opened.members[at].key) for at in order.shards(number, pool)]
            header = read_header(_ranges(opened, names[0]))
            return ClassPool(TokenPool.read(opened.snapshot, names, row_bytes(header)), code)

        with ThreadPoolExecutor(1, thread_name_prefix="token-pool") as reader:
            pools = PoolsAhead(read, order, reader)  # type: ignore[arg-type]
            for batch in count(first, share.world):
                pieces = order.rows(batch * size, (batch + 1) * size)
                parts = [pools.at(number, pool).select(rows) for number, pool, rows in pieces]
                yield joined(parts).tokens(decoded)


def shards_for(tokens_per_shard: npt.NDArray[np.int64], batch: int | None) -> int:
    """Shards to shuffle together: 32 optimiser steps' worth of tokens, at least 4 shards."""
    wanted = math.ceil(WINDOW_STEPS * (batch or 0) / float(tokens_per_shard.mean()))
    return min(max(wanted, FEWEST_SHARDS), len(tokens_per_shard))


def activations_on(device: torch.device, tokens: TokenActivations) -> torch.Tensor:
    """float32 activations `[B, D]` on the device, whether or not fp8 was decoded on the way."""
    x_BD = tokens.acts.to(device, non_blocking=True).float()
    return x_BD if tokens.scale is None else x_BD * tokens.scale.to(device, non_blocking=True)[:, None]


class ClassPool:
    """The tokens of one class among those of a pool, numbered as if there were no others."""

    def __init__(self, pool: TokenPool, code: int) -> None:
        self.pool, self.rows = pool, np.flatnonzero(pool.beside.token_class == code)

    def select(self, rows: npt.NDArray[np.int64]) -> StoredActivations:
        return self.pool.select(self.rows[rows])


def tokens_by_class(cache: ActivationCache) -> npt.NDArray[np.int64]:
    """[shards, classes]: how many tokens of each class the shards hold. Reads one byte a token."""
    product = cache.lineage.get("activations", {})
    if product.get("special_tokens") is False:
        counts = np.zeros((len(cache.members), len(CLASS_CODES)), np.int64)
        counts[:, CLASS_CODES["gene"]] = [int(member.facts["n_tokens"]) for member in cache.members]
        return counts
    with ThreadPoolExecutor(READERS) as readers:
        return np.stack(list(readers.map(lambda member: _count_classes(cache, member.key), cache.members)))


def _count_classes(cache: ActivationCache, key: str) -> npt.NDArray[np.int64]:
    read = _ranges(cache, shard_name(cache.hooks[0], key))
    header = read_header(read)
    start, stop = (header_bytes(read) + at for at in header["class"]["data_offsets"])
    return np.bincount(np.frombuffer(read(start, stop), np.uint8), minlength=len(CLASS_CODES))


def _ranges(cache: ActivationCache, name: str) -> Callable[[int, int], bytes]:
    return lambda start, stop: cache.snapshot.read_ranges(name, [(start, stop)])[0]
