"""Activations of the same tokens at several places: hooks of one model, or caches of several models.

What crosscoders and transcoders are trained on. A batch holds the places side by side.
Legend: B tokens of a batch, D width of all places together.
"""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from engine.training.activation_sources import ActivationSource, StreamedActivations, TokenBatch, batches_of
from engine.training.cached_activations import CachedActivations, shards_for
from engine.training.prefetch import prefetched
from engine.training.recipe import Share
from storage.activations import ActivationCache
from storage.activations.aligned import AlignedCaches, AlignedTokens
from storage.activations.pool import PoolsAhead
from storage.activations.token_order import TokenOrder
from storage.errors import DamagedDataset, InputError


class Place(NamedTuple):
    """Where activations are taken: a name that says hook and, of several models, model; and their width."""

    name: str
    width: int


class AlignedSource(ActivationSource, Protocol):
    """A source whose batches hold several places side by side: row b is the same token in all of them."""

    @property
    def places(self) -> tuple[Place, ...]:
        """In the order in which they lie side by side; their widths add up to `width`."""

    def place_provenance(self) -> list[dict[str, Any]]:
        """What a reader wants to know about each place."""


@dataclass(frozen=True)
class SeveralHooks:
    """Hooks of one cache or of one encoder: each gives the same tokens in the same order."""

    parts: tuple[CachedActivations, ...] | tuple[StreamedActivations, ...]
    """Alike but for the hook."""

    def __post_init__(self) -> None:
        hooks = [part.hook for part in self.parts]
        if len(set(hooks)) < len(hooks) or len(hooks) < 2:
            raise InputError(f"--hook {','.join(hooks)}: give two or more different hooks.")

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(Place(part.hook, part.width) for part in self.parts)

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)

    @property
    def hook(self) -> str:
        return ",".join(part.hook for part in self.parts)

    @property
    def n_tokens(self) -> float:
        return self.parts[0].n_tokens

    @property
    def actors(self) -> int | None:
        return self.parts[0].actors

    def lineage(self) -> dict[str, Any]:
        return self.parts[0].lineage() | {"hook": [part.hook for part in self.parts]}

    def provenance(self) -> dict[str, Any]:
        return self.parts[0].provenance() | {"hook_name": self.hook}

    def place_provenance(self) -> list[dict[str, Any]]:
        return [{"hook_name": part.hook, "model": part.provenance()["model"]} for part in self.parts]

    def gene_names(self) -> list[str]:
        return self.parts[0].gene_names()

    def shuffled_tokens(self, batch: int) -> float:
        return self.parts[0].shuffled_tokens(batch)

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[TokenBatch, None, None]:
        with closing(batches_of(self.parts, start_step, share, device)) as stream:
            for batch in stream:
                first, *others = (batch[part] for part in self.parts)
                if not all(torch.equal(first.gene_B, other.gene_B) for other in others):
                    raise DamagedDataset(
                        f"{self.provenance().get('cache')}: tokens of {self.hook} are not in the same order; "
                        "make the cache again with all hooks in one run of `syncytium cache`"
                    )
                x_BD = torch.cat([first.x_BD, *(other.x_BD for other in others)], dim=1)
                yield TokenBatch(x_BD, first.gene_B)


@dataclass(frozen=True)
class SeveralCaches:
    """Gene tokens that caches of one cell store have in common, matched by gene within a cell.

    Shuffled over `blocks_in_buffer` blocks of cells at a time (see `storage.activations.aligned`); two such
    buffers are in memory. The genes of a batch are token ids of the first cache.
    """

    caches: tuple[str, ...]
    dataset_ids: tuple[str, ...]
    hooks: tuple[str, ...]
    widths: tuple[int, ...]
    tokens_per_block: tuple[int, ...]
    blocks_in_buffer: int

    @classmethod
    def plan(
        cls,
        caches: Sequence[str],
        hooks: Sequence[str | None],
        *,
        batch: int | None = None,
        blocks_in_buffer: int | None = None,
    ) -> "SeveralCaches":
        """Of these caches, each at its hook (None: its only one). Counts the tokens in common; InputError."""
        each = [CachedActivations.plan(cache, hook) for cache, hook in zip(caches, hooks, strict=True)]
        chosen = tuple(part.hook for part in each)
        tokens = AlignedCaches([ActivationCache.open(cache) for cache in caches], chosen).count()
        if not tokens.sum():
            raise InputError(
                f"{' and '.join(caches)}: no gene of a cell is in all caches; make them of the same cells."
            )
        return cls(
            tuple(caches),
            tuple(part.dataset_id for part in each),
            chosen,
            tuple(part.width for part in each),
            tuple(map(int, tokens)),
            blocks_in_buffer or shards_for(tokens, batch),
        )

    @property
    def places(self) -> tuple[Place, ...]:
        names = [
            f"{described['model'] or cache} {hook}"
            for described, cache, hook in zip(self.place_provenance(), self.caches, self.hooks, strict=True)
        ]
        return tuple(Place(name, width) for name, width in zip(names, self.widths, strict=True))

    @property
    def width(self) -> int:
        return sum(self.widths)

    @property
    def hook(self) -> str:
        return ",".join(self.hooks)

    @property
    def n_tokens(self) -> int:
        return sum(self.tokens_per_block)

    @property
    def actors(self) -> int:
        """None: every worker reads."""
        return 0

    def lineage(self) -> dict[str, Any]:
        return {
            "cache": list(self.dataset_ids),
            "hook": list(self.hooks),
            "token_class": "gene",
            "blocks_in_buffer": self.blocks_in_buffer,
        }

    def provenance(self) -> dict[str, Any]:
        first = self._single(0).provenance()
        return {
            "hook_name": self.hook,
            "cache": list(self.dataset_ids),
            "cells": first["cells"],
            "model": [described["model"] for described in self.place_provenance()],
            "token_class": "gene",
        }

    def place_provenance(self) -> list[dict[str, Any]]:
        found = [self._single(number).provenance() for number in range(len(self.caches))]
        return [{name: part[name] for name in ("hook_name", "model", "cache")} for part in found]

    def gene_names(self) -> list[str]:
        return self._single(0).gene_names()

    def shuffled_tokens(self, batch: int) -> float:
        return min(self.blocks_in_buffer / len(self.tokens_per_block), 1.0) * self.n_tokens

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[TokenBatch, None, None]:
        first = start_step * share.accumulation * share.world + share.rank
        for tokens in prefetched(self.tokens(first, share)):
            parts = [acts.to(device, non_blocking=True).float() for acts in tokens.acts]
            yield TokenBatch(torch.cat(parts, dim=1), torch.from_numpy(tokens.gene).to(device))

    def tokens(self, first: int, share: Share) -> Generator[AlignedTokens, None, None]:
        """Batch `first` of the endless stream of micro-batches and every `share.world`th after it."""
        aligned = AlignedCaches([ActivationCache.open(cache) for cache in self.caches], self.hooks)
        order = TokenOrder(self.tokens_per_block, share.seed, self.blocks_in_buffer)

        def read(number: int, pool: int) -> AlignedPool:
            blocks = [aligned.read(block) for block in order.shards(number, pool)]
            expected = sum(self.tokens_per_block[block] for block in order.shards(number, pool))
            if sum(len(block.cell) for block in blocks) != expected:
                raise DamagedDataset(f"{', '.join(self.caches)}: changed since the run was planned")
            return AlignedPool(blocks)

        size = share.micro_batch
        with ThreadPoolExecutor(1, thread_name_prefix="aligned-tokens") as reader:
            pools = PoolsAhead(read, order, reader)  # type: ignore[arg-type]
            for batch in count(first, share.world):
                pieces = order.rows(batch * size, (batch + 1) * size)
                parts = [pools.at(number, pool).select(rows) for number, pool, rows in pieces]
                yield _joined(parts)  # type: ignore[arg-type]

    def _single(self, number: int) -> CachedActivations:
        return CachedActivations(
            cache=self.caches[number],
            dataset_id=self.dataset_ids[number],
            hook=self.hooks[number],
            width=self.widths[number],
            tokens_per_shard=self.tokens_per_block,
            kept_class="gene",
        )


class AlignedPool:
    """Some blocks in memory, to be shuffled together."""

    def __init__(self, blocks: Sequence[AlignedTokens]) -> None:
        self.tokens = _joined(blocks)

    def select(self, rows: npt.NDArray[np.int64]) -> AlignedTokens:
        """The given tokens, in the order given."""
        at = torch.from_numpy(rows)
        return AlignedTokens(
            tuple(acts[at] for acts in self.tokens.acts), self.tokens.cell[rows], self.tokens.gene[rows]
        )


def _joined(blocks: Sequence[AlignedTokens]) -> AlignedTokens:
    if len(blocks) == 1:
        return blocks[0]
    acts, cells, genes = zip(*blocks, strict=True)
    return AlignedTokens(
        tuple(map(torch.cat, zip(*acts, strict=True))), np.concatenate(cells), np.concatenate(genes)
    )
