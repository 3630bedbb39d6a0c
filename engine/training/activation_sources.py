"""Where a sparse autoencoder's training tokens come from: a cache on disk, or encoders that make them.

Legend: B tokens of a batch, Q of a slot (see `engine.training.mixing`), T of both, D width, R columns of a
row (see `engine.training.cell_chunks`).
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from engine import models
from engine.streaming.inputs import Inputs, ModelFacts
from engine.training.cached_activations import WINDOW_STEPS, CachedActivations, TokenClass
from engine.training.cell_chunks import ITEM_BYTES, CellChunks, TokenRows
from engine.training.chunks import OwnChunks, TokenBatch, token_batch
from engine.training.mixing import mixed
from engine.training.prefetch import prefetched
from engine.training.recipe import Share
from storage.cells import CellStore
from storage.errors import InputError
from storage.shuffled_cells import read_cells

if TYPE_CHECKING:
    from engine.training.encoder_pool import PooledChunks

__all__ = [
    "WINDOW_STEPS",
    "ActivationSource",
    "CachedActivations",
    "StreamedActivations",
    "TokenBatch",
    "TokenClass",
    "batches_of",
]

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
    def hook(self) -> str:
        """The hook point they are of."""

    @property
    def n_tokens(self) -> float:
        """Different tokens that there are to train on, about."""

    @property
    def actors(self) -> int | None:
        """Encoder actors it needs beside the workers, as `engine.training.recipe.Recipe.actors`."""

    def lineage(self) -> dict[str, Any]:
        """What changes the activations, as plain JSON values."""

    def provenance(self) -> dict[str, Any]:
        """What a reader of the trained autoencoder wants to know about them."""

    def gene_names(self) -> list[str]:
        """What the genes of its batches (token ids) are called, specials included."""

    def shuffled_tokens(self, batch: int) -> float:
        """Tokens that are shuffled together, when an optimiser step takes `batch` of them."""

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[TokenBatch, None, None]:
        """Endless micro-batches of this worker from `start_step` on, on `device`.

        Collective. Close it when no worker needs its stream any more.
        """


def batches_of(
    sources: Sequence[ActivationSource], start_step: int, share: Share, device: torch.device
) -> Generator[dict[ActivationSource, TokenBatch], None, None]:
    """Micro-batches of several sources at once, each what the source alone would give.

    What encoders make is made once for all sources that differ in the hook only. Collective.
    """
    streams = [_stream(family, start_step, share, device) for family in _families(sources)]
    with ExitStack() as closing_all:
        for stream in streams:
            closing_all.enter_context(closing(stream))
        for together in zip(*streams, strict=True):
            yield {source: batch for part in together for source, batch in part.items()}


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
        return {
            "hook_name": self.hook,
            "cells": self.dataset_id,
            "model": self.model_fingerprint,
            "token_class": "gene",
            "tokens_per_cell": self.tokens_per_cell,
            "max_tokens": self.max_tokens,
            "activation_precision": self.precision,
        }

    @property
    def n_tokens(self) -> float:
        return self.n_cells * self.cell_tokens

    def gene_names(self) -> list[str]:
        names = dict(CellStore.open(self.cells).genes.get("gene_name", {}))
        known = ModelFacts.read(self.model).tokeniser.gene_ids
        return [name if isinstance(name := names.get(gene), str) and name else gene for gene in known]

    def shuffled_tokens(self, batch: int) -> float:
        slot_tokens = self._chunk_tokens(self.chunks(0).size)
        window = max(FEWEST_CHUNKS, math.ceil(WINDOW_STEPS * batch / slot_tokens))
        return min(window * slot_tokens, self.n_tokens)

    def batches(
        self, start_step: int, share: Share, device: torch.device
    ) -> Generator[TokenBatch, None, None]:
        with closing(_at_hooks([self], start_step, share, device)) as stream:
            for batch in stream:
                yield batch[self]

    def rows(
        self, chunks: CellChunks, start_step: int, share: Share, device: torch.device
    ) -> Generator[TokenRows, None, None]:
        """rows_BR of this worker's micro-batches, at all hooks of `chunks`."""
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
            yield from _cut(slots, skip, share.micro_batch)
        finally:
            pool.close()

    def chunks(self, seed: int, hooks: tuple[str, ...] = ()) -> CellChunks:
        """Of these hooks, by default its own; the same cells whatever the hooks, the batch and the number of
        workers, which only deal them out."""
        cell_bytes = self.cell_tokens * self.width * ITEM_BYTES[self.precision]
        return CellChunks(
            cells=self.cells,
            n_cells=self.n_cells,
            model=self.model,
            hooks=hooks or (self.hook,),
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


def _families(sources: Sequence[ActivationSource]) -> list[list[ActivationSource]]:
    """The different sources, those together that encoders make in one pass."""
    families: dict[Any, list[ActivationSource]] = {}
    for source in dict.fromkeys(sources):
        alike = replace(source, hook="") if isinstance(source, StreamedActivations) else source
        families.setdefault(alike, []).append(source)
    return list(families.values())


def _stream(
    family: Sequence[ActivationSource], start_step: int, share: Share, device: torch.device
) -> Generator[dict[ActivationSource, TokenBatch], None, None]:
    if len(family) > 1:
        yield from _at_hooks(family, start_step, share, device)  # type: ignore[arg-type]
        return
    (source,) = family
    with closing(source.batches(start_step, share, device)) as stream:
        for batch in stream:
            yield {source: batch}


def _at_hooks(
    family: Sequence[StreamedActivations], start_step: int, share: Share, device: torch.device
) -> Generator[dict[ActivationSource, TokenBatch], None, None]:
    """Micro-batches of sources that differ in the hook only."""
    chunks = family[0].chunks(share.seed, tuple(source.hook for source in family))
    with closing(family[0].rows(chunks, start_step, share, device)) as stream:
        for rows_BR in stream:
            yield {source: token_batch(chunks, rows_BR, source.hook, device) for source in family}


def _cut(slots: Iterator[TokenRows], skip: int, size: int) -> Iterator[TokenRows]:
    """The tokens of slots, one after the other and less the first `skip`, in pieces of `size`."""
    rest: TokenRows | None = None
    for rows_QR in slots:
        whole_TR = rows_QR[skip:] if rest is None else np.concatenate([rest, rows_QR])
        end = len(whole_TR) // size * size
        yield from (whole_TR[start : start + size] for start in range(0, end, size))
        rest, skip = whole_TR[end:], 0


def _tokens_per_cell(inputs: Inputs, kept: int) -> float:
    """Mean number of tokens to train on in a cell, of a sample of cells from all over the store."""
    sample = np.unique(np.linspace(0, inputs.n_cells - 1, SAMPLED_CELLS).astype(np.int64))
    rows = read_cells(inputs.store, sample)
    known = np.r_[0, np.cumsum(inputs.match.column_to_token[rows.indices] >= 0)]
    return float(np.minimum(known[rows.indptr[1:]] - known[rows.indptr[:-1]], kept).mean())
