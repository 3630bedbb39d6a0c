"""Activations of tokens for a feature pass, in shards of consecutive cells: of one place, or of several.

What an autoencoder of one hook reads lies in a cache as it is. What a crosscoder reads lies at several hooks
of one cache, or in several caches of the same cells, and is laid side by side here.

Shape legend: T tokens of a shard, D width of all places together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from storage.activations import ActivationCache
from storage.activations.aligned import AlignedCaches
from storage.errors import DamagedDataset


@dataclass(frozen=True)
class ShardTokens:
    """The tokens of a shard: activations `[T, D]`, and of each its cell, token id and place in its cell."""

    acts: torch.Tensor
    cell: npt.NDArray[np.integer[Any]]
    gene: npt.NDArray[np.integer[Any]]
    pos: npt.NDArray[np.integer[Any]]


class TokenShards(Protocol):
    """Shards in the order of cells; a cell lies in one of them."""

    def lineage(self) -> dict[str, Any]:
        """Where the activations lie."""

    def first_cells(self) -> Sequence[int]:
        """The first cell of each shard."""

    def n_tokens(self) -> Sequence[int]:
        """Tokens of each shard."""

    def read(self, number: int) -> ShardTokens:
        """Raises DamagedDataset."""


@dataclass(frozen=True)
class CacheShards:
    """One cache, at one hook or at several: a shard is a member."""

    cache: ActivationCache
    hooks: tuple[str, ...]

    def lineage(self) -> dict[str, Any]:
        return {"cache": self.cache.dataset_id}

    def first_cells(self) -> list[int]:
        return [int(record.facts["start"]) for record in self.cache.members]

    def n_tokens(self) -> list[int]:
        return [int(record.facts["n_tokens"]) for record in self.cache.members]

    def read(self, number: int) -> ShardTokens:
        key = self.cache.members[number].key
        first, *others = (self.cache.read(hook, key) for hook in self.hooks)
        for hook, other in zip(self.hooks[1:], others, strict=True):
            if not (np.array_equal(first.cell, other.cell) and np.array_equal(first.gene, other.gene)):
                raise DamagedDataset(
                    f"{self.cache.snapshot.location}: tokens of {self.hooks[0]} and {hook} in member {key} "
                    "are not in the same order; make the cache again with all hooks in one run of "
                    "`syncytium cache`"
                )
        acts = torch.cat([first.acts, *(other.acts for other in others)], dim=1) if others else first.acts
        return ShardTokens(acts, first.cell, first.gene, first.pos)


@dataclass(frozen=True)
class AlignedShards:
    """Several caches of one cell store, each at its hook: a shard is a block of cells, its tokens the genes
    of a cell that all caches have. Token ids are those of the first cache."""

    aligned: AlignedCaches

    def lineage(self) -> dict[str, Any]:
        return {"cache": [cache.dataset_id for cache in self.aligned.caches]}

    def first_cells(self) -> list[int]:
        return [start for start, _ in self.aligned.blocks]

    def n_tokens(self) -> list[int]:
        return self._counted

    @cached_property
    def _counted(self) -> list[int]:
        return [int(tokens) for tokens in self.aligned.count()]

    def read(self, number: int) -> ShardTokens:
        tokens = self.aligned.read(number)
        acts = torch.cat([part.float() for part in tokens.acts], dim=1)
        # A gene is once in a cell, so its number is a place: caches may have kept others beside it.
        return ShardTokens(acts, tokens.cell, tokens.gene, tokens.gene)
