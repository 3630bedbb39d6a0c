"""Where a sparse autoencoder's training tokens come from: a cache on disk, or an encoder in the worker.

Legend: B tokens of a batch, T packed tokens, D width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from engine import models
from engine.models.encoder import Encoder
from engine.models.tokens import Tokens
from engine.streaming.draws import smallest_per_cell, token_draws
from engine.streaming.inputs import Inputs
from engine.streaming.packing import BATCH_TOKENS, pack
from engine.training.prefetch import prefetched
from engine.training.recipe import Share
from engine.training.sampling import CellOrder, read_cells
from storage.activations import ActivationCache
from storage.checkpoints import local_copy
from storage.errors import InputError

# A batch of whole cells is a few cells' worth of correlated tokens; quality still improves at 32 batches'
# worth of cells shuffled together (specs/sae.md section 5).
ROUND_STEPS = 32
# Draws of the tokens kept of a cell, apart from those of the tokens encoded of a long cell.
_KEPT_STREAM = 1
# Cells looked at to know how many tokens a cell gives.
SAMPLED_CELLS = 512


class ActivationSource(Protocol):
    """Gives every worker its micro-batches; picklable, holds paths and numbers."""

    @property
    def width(self) -> int:
        """D, of the activations."""

    def lineage(self) -> dict[str, Any]:
        """What changes the activations, as plain JSON values."""

    def provenance(self) -> dict[str, Any]:
        """What a reader of the trained autoencoder wants to know about them."""

    def batches(self, start_step: int, share: Share, device: torch.device) -> Iterator[torch.Tensor]:
        """Endless x_BD micro-batches of this worker from `start_step` on, float32 on `device`."""


@dataclass(frozen=True, kw_only=True)
class CachedActivations:
    """Tokens of an activation cache, shuffled over `shards_in_buffer` of its shards at a time."""

    cache: str
    dataset_id: str
    hook: str
    width: int
    n_tokens: int
    shards_in_buffer: int = 8

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

    def batches(self, start_step: int, share: Share, device: torch.device) -> Iterator[torch.Tensor]:
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
    """Tokens that each worker makes with its own copy of the encoder; nothing is written to disk.

    Training goes in rounds of 32 steps. For a round a worker encodes enough shuffled cells, keeps the tokens
    of genes (of each cell a random `tokens_per_cell`), shuffles them and cuts them into its micro-batches. A
    resumed run encodes the round it stopped in again.
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

    def batches(self, start_step: int, share: Share, device: torch.device) -> Iterator[torch.Tensor]:
        encoder = models.load(local_copy(self.model), precision=self.precision).to(device).eval()
        first_round, step = divmod(start_step, ROUND_STEPS)
        skip = step * share.accumulation
        per_round = ROUND_STEPS * share.accumulation
        rounds = prefetched(self._rounds(encoder, first_round, share), depth=1)
        for number, (tokens, kept_T) in enumerate(rounds, start=first_round):
            x_TD = _encode(encoder, tokens, kept_T, self.hook)
            order = np.random.default_rng([share.seed, number, share.rank]).permutation(len(x_TD))
            # A round of unusually poor cells repeats some of its tokens rather than change its steps.
            order = np.resize(order, per_round * share.micro_batch)
            for rows in np.split(order, per_round)[skip:]:
                yield x_TD[torch.from_numpy(rows).to(device)]
            skip = 0

    def _rounds(
        self, encoder: Encoder, first_round: int, share: Share
    ) -> Iterator[tuple[Tokens, np.ndarray]]:
        """This worker's cells of each round as tokens, and which of the tokens are trained on."""
        inputs = Inputs.open(self.cells, self.model, self.n_cells)
        order = CellOrder(self.n_cells, share.seed)
        wanted = ROUND_STEPS * share.batch / share.world / self.cell_tokens
        n_cells = max(1, math.ceil(wanted))
        number = first_round
        while True:
            start = (number * share.world + share.rank) * n_cells
            positions = np.arange(start, start + n_cells)
            rows = read_cells(inputs.store, order.cells(start, start + n_cells))
            tokens = encoder.tokeniser.tokenise(
                rows.indptr,
                rows.indices,
                rows.counts,
                inputs.match,
                max_tokens=self.max_tokens,
                seed=share.seed,
                cells=positions,
            )
            yield tokens, self._kept(encoder, tokens, positions, share.seed)
            number += 1

    def _kept(self, encoder: Encoder, tokens: Tokens, positions: np.ndarray, seed: int) -> np.ndarray:
        """Mask of the tokens to train on: genes, and at most `tokens_per_cell` of a cell."""
        kept_T: np.ndarray = encoder.tokeniser.token_classes[tokens.ids_T] == 0
        if self.tokens_per_cell is not None:
            genes = np.flatnonzero(kept_T)
            cell = tokens.cell_T[genes]
            draws = token_draws(seed, positions[cell], tokens.position_T[genes], stream=_KEPT_STREAM)
            kept_T = np.zeros_like(kept_T)
            kept_T[genes[smallest_per_cell(draws, cell, self.tokens_per_cell)]] = True
        return kept_T


def _tokens_per_cell(inputs: Inputs, kept: int) -> float:
    """Mean number of tokens to train on in a cell, of a sample of cells from all over the store."""
    sample = np.unique(np.linspace(0, inputs.n_cells - 1, SAMPLED_CELLS).astype(np.int64))
    rows = read_cells(inputs.store, sample)
    known = np.r_[0, np.cumsum(inputs.match.column_to_token[rows.indices] >= 0)]
    return float(np.minimum(known[rows.indptr[1:]] - known[rows.indptr[:-1]], kept).mean())


@torch.no_grad()
def _encode(encoder: Encoder, tokens: Tokens, kept_T: np.ndarray, hook: str) -> torch.Tensor:
    """Activations of the kept tokens, x_TD float32 on the encoder's device."""
    starts, parts = tokens.offsets, []
    for cells in pack(tokens.lengths, BATCH_TOKENS):
        packed = tokens.select(cells)
        kept = np.concatenate([kept_T[starts[cell] : starts[cell + 1]] for cell in cells])
        x_TD = encoder(packed.to_torch(encoder.device), hooks=(hook,)).hooks[hook]
        parts.append(x_TD[torch.from_numpy(np.flatnonzero(kept)).to(x_TD.device)].float())
    return torch.cat(parts)
