"""Where a sparse autoencoder's training tokens come from: a cache on disk, or encoders that make them.

Legend: B tokens of a batch, Q of a slot (see `engine.training.mixing`), T of both, D width.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from engine import models
from engine.streaming.inputs import Inputs
from engine.training.chunks import ITEM_BYTES, Activations, CellChunks, OwnChunks, to_float
from engine.training.mixing import mixed
from engine.training.prefetch import prefetched
from engine.training.recipe import Share
from storage.activations import ActivationCache
from storage.errors import InputError
from storage.shuffled_cells import read_cells

if TYPE_CHECKING:
    from engine.training.encoder_pool import PooledChunks

# A batch of whole cells is a few cells' worth of correlated tokens; quality still improves at 32 batches'
# worth of cells shuffled together (specs/sae.md section 5).
WINDOW_STEPS = 32
FEWEST_CHUNKS = 2
# Size of a chunk: large enough to fill packed batches, small enough that a few of them lie in the object
# store for every encoder, and that little is encoded again when one is lost.
CHUNK_CELLS, CHUNK_BYTES = 64, 64 << 20
# Cells looked at to know how many tokens a cell gives.
SAMPLED_CELLS = 512


class ActivationSource(Protocol):
    """Gives every worker its micro-batches; picklable, holds paths and numbers."""

    @property
    def width(self) -> int:
        """D, of the activations."""

    @property
    def actors(self) -> int | None:
        """Encoder actors it needs beside the workers, as `engine.training.recipe.Recipe.actors`."""

    def lineage(self) -> dict[str, Any]:
        """What changes the activations, as plain JSON values."""

    def provenance(self) -> dict[str, Any]:
        """What a reader of the trained autoencoder wants to know about them."""

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[torch.Tensor, None, None]:
        """Endless x_BD micro-batches of this worker from `start_step` on, float32 on `device`.

        Collective. Close it when no worker needs its stream any more.
        """


@dataclass(frozen=True, kw_only=True)
class CachedActivations:
    """Tokens of an activation cache, shuffled over `shards_in_buffer` of its shards at a time."""

    cache: str
    dataset_id: str
    hook: str
    width: int
    n_tokens: int
    shards_in_buffer: int = 4

    @property
    def actors(self) -> int:
        """None: every worker reads."""
        return 0

    @classmethod
    def plan(cls, cache: str, hook: str | None) -> "CachedActivations":
        """Of the cache at this path; its only hook unless one is named. Raises InputError."""
        opened = ActivationCache.open(cache)
        if hook is None and len(opened.hooks) > 1:
            raise InputError(f"{cache}: holds the hooks {', '.join(opened.hooks)}; say which with --hook.")
        chosen = hook or opened.hooks[0]
        if chosen not in opened.hooks:
            raise InputError(f"--hook {chosen}: {cache} holds {', '.join(opened.hooks)}.")
        if opened.n_tokens == 0:
            raise InputError(f"{cache}: the cache holds no tokens.")
        return cls(
            cache=cache, dataset_id=opened.dataset_id, hook=chosen, width=opened.d, n_tokens=opened.n_tokens
        )

    def lineage(self) -> dict[str, Any]:
        return {"cache": self.dataset_id, "hook": self.hook, "shards_in_buffer": self.shards_in_buffer}

    def provenance(self) -> dict[str, Any]:
        metadata = ActivationCache.open(self.cache).metadata
        return {"hook_name": self.hook, "cache": self.dataset_id, "model": metadata.get("model", "")}

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[torch.Tensor, None, None]:
        stream = ActivationCache.open(self.cache).batches(
            self.hook,
            share.micro_batch,
            seed=share.seed,
            start_batch=start_step * share.accumulation,
            rank=share.rank,
            world=share.world,
            shards_in_buffer=self.shards_in_buffer,
        )
        for tokens in prefetched(stream):
            yield tokens.acts.to(device, non_blocking=True).float()


@dataclass(frozen=True, kw_only=True)
class StreamedActivations:
    """Tokens that encoders make while the autoencoder trains on them; nothing is written to disk.

    Shuffled cells are cut into chunks, chunks are dealt out to the workers in turn, and each worker shuffles
    the tokens of genes (of each cell a random `tokens_per_cell`) over a window of its chunks. On Ray one
    pool of encoder actors serves all workers; a process that trains by itself encodes by itself. After the
    last cell the stream goes on with the next epoch's order of cells. A resumed run encodes its window of
    chunks again, and no more.
    """

    cells: str
    dataset_id: str
    n_cells: int
    model: str
    model_fingerprint: str
    hook: str
    width: int
    max_tokens: int
    cell_tokens: float
    """Tokens that a cell gives, on average: how many cells a round needs."""
    tokens_per_cell: int | None = None
    precision: models.Precision = "fp32"
    actors: int | None = None
    """Encoder actors on Ray; None for as many as the workers leave room for."""

    @classmethod
    def plan(
        cls,
        cells: str,
        model: str,
        hook: str,
        *,
        tokens_per_cell: int | None = None,
        max_tokens: int | None = None,
        precision: models.Precision = "fp32",
        max_cells: int | None = None,
        actors: int | None = None,
    ) -> "StreamedActivations":
        """Checks the store, the model and that they fit. Raises InputError or ModelError."""
        inputs = Inputs.open(cells, model, max_cells)
        inputs.model.require_hooks([hook])
        limit = inputs.model.token_limit(max_tokens)
        kept = min(limit, tokens_per_cell or limit)
        cell_tokens = _tokens_per_cell(inputs, kept)
        if cell_tokens == 0:
            raise InputError(f"{cells}: its cells have no genes that {model} knows; nothing to train on.")
        return cls(
            cells=cells,
            dataset_id=inputs.store.dataset_id,
            n_cells=inputs.n_cells,
            model=model,
            model_fingerprint=inputs.model.fingerprint,
            hook=hook,
            width=inputs.model.d_model,
            max_tokens=limit,
            cell_tokens=cell_tokens,
            tokens_per_cell=tokens_per_cell,
            precision=precision,
            actors=actors,
        )

    def lineage(self) -> dict[str, Any]:
        return {
            "cells": self.dataset_id,
            "n_cells": self.n_cells,
            "model": self.model_fingerprint,
            "hook": self.hook,
            "max_tokens": self.max_tokens,
            "tokens_per_cell": self.tokens_per_cell,
            "precision": self.precision,
        }

    def provenance(self) -> dict[str, Any]:
        return {"hook_name": self.hook, "cells": self.dataset_id, "model": self.model_fingerprint}

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[torch.Tensor, None, None]:
        chunks = self.chunks(share.seed)
        slot_tokens = self._chunk_tokens(chunks.size)
        step_tokens = share.batch // share.world
        first, skip = divmod(start_step * step_tokens, slot_tokens)
        pool = self._pool(chunks, first, share, device)
        slots = mixed(
            prefetched(iter(pool), depth=1),
            first,
            window=max(FEWEST_CHUNKS, math.ceil(WINDOW_STEPS * step_tokens / slot_tokens)),
            slot_tokens=slot_tokens,
            entropy=(share.seed, share.rank),
        )
        try:
            for x_BD in _cut(slots, skip, share.micro_batch):
                yield to_float(x_BD, device)
        finally:
            pool.close()

    def chunks(self, seed: int) -> CellChunks:
        """The same whatever the batch and the number of workers, which only deal them out."""
        cell_bytes = self.cell_tokens * self.width * ITEM_BYTES[self.precision]
        return CellChunks(
            cells=self.cells,
            n_cells=self.n_cells,
            model=self.model,
            hook=self.hook,
            width=self.width,
            max_tokens=self.max_tokens,
            tokens_per_cell=self.tokens_per_cell,
            precision=self.precision,
            seed=seed,
            size=min(CHUNK_CELLS, max(1, int(CHUNK_BYTES / cell_bytes))),
        )

    def _chunk_tokens(self, n_cells: int) -> int:
        return max(1, int(n_cells * self.cell_tokens))

    def _pool(
        self, chunks: CellChunks, first: int, share: Share, device: torch.device
    ) -> "PooledChunks | OwnChunks":
        """This worker's chunks from its number `first` on: by the pool, or by this process itself."""
        if share.room is None:
            return OwnChunks(chunks, share, first * share.world, device)
        # Imports Ray, which a process that trains by itself can spare itself.
        from engine.training.encoder_pool import PooledChunks

        return PooledChunks(chunks, share, share.room, first * share.world, device)


def _cut(slots: Iterator[Activations], skip: int, size: int) -> Iterator[Activations]:
    """The tokens of slots, one after the other and less the first `skip`, in pieces of `size`."""
    rest: Activations | None = None
    for x_QD in slots:
        whole_TD = x_QD[skip:] if rest is None else np.concatenate([rest, x_QD])
        end = len(whole_TD) // size * size
        yield from (whole_TD[start : start + size] for start in range(0, end, size))
        rest, skip = whole_TD[end:], 0


def _tokens_per_cell(inputs: Inputs, kept: int) -> float:
    """Mean number of tokens to train on in a cell, of a sample of cells from all over the store."""
    sample = np.unique(np.linspace(0, inputs.n_cells - 1, SAMPLED_CELLS).astype(np.int64))
    rows = read_cells(inputs.store, sample)
    known = np.r_[0, np.cumsum(inputs.match.column_to_token[rows.indices] >= 0)]
    return float(np.minimum(known[rows.indptr[1:]] - known[rows.indptr[:-1]], kept).mean())
