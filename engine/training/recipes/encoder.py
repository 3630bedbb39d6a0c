"""Training a cell encoder on its own objective: Tahoe masked expression, Geneformer masked tokens.

Legend: T packed tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from engine import models
from engine.models import geneformer, tahoe
from engine.models.encoder import Encoder
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.models.tokens import Tokens
from engine.streaming.statistics import gene_statistics
from engine.training.options import TrainingOptions
from engine.training.prefetch import prefetched
from engine.training.recipe import Batch, Share
from storage.cells import CellStore
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError
from storage.shuffled_cells import ShuffledCells, balance_of

Architecture = Literal["tahoe", "geneformer"]
ARCHITECTURES = {"tahoe": tahoe, "geneformer": geneformer}


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """Size of a fresh encoder. None: the preset's value, or a small model's without a preset."""

    preset: str | None = None
    n_layers: int | None = None
    d_model: int | None = None
    n_heads: int | None = None
    max_tokens: int | None = None

    def arguments(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """A cell store, and a size (from scratch) or a model directory (continue). Make it with `plan`."""

    cells: str
    dataset_id: str
    n_cells: int
    architecture: Architecture
    model: str | None = None
    model_fingerprint: str | None = None
    size: EncoderSize = field(default_factory=EncoderSize)
    max_tokens: int | None = None
    """Tokens kept of a longer cell, drawn anew in every epoch; None: the model's own limit."""
    balance: str | None = None
    """Obs column whose labels are drawn more evenly than they occur; see `storage.cell_order.Balance`."""
    balance_temperature: float = 2.0
    """A label of n cells is drawn n^(1/temperature) times as often as a label of one."""
    medians: Mapping[str, float] | None = None
    """Geneformer from scratch: non-zero median of each gene per 10,000 counts; see `with_medians`."""

    @property
    def actors(self) -> int:
        """None beside the workers: its examples are tokens."""
        return 0

    @property
    def needs_medians(self) -> bool:
        """Whether the tokens depend on statistics of the cells that are still to be computed."""
        return self.architecture == "geneformer" and self.model is None and self.medians is None

    def with_medians(self, address: str | None = None) -> "EncoderRecipe":
        """The recipe with the store's medians: one pass over all its cells, on Ray."""
        medians = gene_statistics(CellStore.open(self.cells), address=address)["nonzero_median"].dropna()
        return replace(self, medians={str(gene): float(median) for gene, median in medians.items()})

    def lineage(self) -> dict[str, Any]:
        return {
            "cells": self.dataset_id,
            "n_cells": self.n_cells,
            "architecture": self.architecture,
            "model": self.model_fingerprint or self.size.arguments(),
            "max_tokens": self.max_tokens,
            "balance": [self.balance, str(self.balance_temperature)] if self.balance else None,
        }

    def build(self, seed: int, shard: FeatureShard = ALONE) -> nn.Module:
        if shard.world > 1:
            raise InputError("--feature-parallel: an encoder has no features to share out; leave it at 1.")
        module: nn.Module = ARCHITECTURES[self.architecture].TrainingModule(self._encoder(seed))
        return module

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Nothing depends on the cells: the initial weights are the seed's or the given model's."""

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        masked = _masked_batches(self, module, start_step, share)
        for batch in prefetched(masked):
            # Offsets say where cells lie to code on the CPU; all else is the model's.
            yield {
                name: tensor if name == "offsets" else tensor.to(device, non_blocking=True)
                for name, tensor in batch.items()
            }

    def tokens(self, batch: Batch) -> int:
        return len(batch["ids_T"])

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        module = self.build(seed=0)
        module.load_state_dict(dict(state))
        models.save(module.encoder, directory)  # type: ignore[arg-type]

    def _encoder(self, seed: int) -> Encoder:
        if self.model is not None:
            return models.load(local_copy(self.model))
        gene_ids = list(CellStore.open(self.cells).genes.index)
        if self.architecture == "geneformer":
            if self.medians is None:
                raise ValueError("a fresh Geneformer needs medians: use with_medians()")
            return geneformer.create(gene_ids, self.medians, seed=seed, **self.size.arguments())
        return tahoe.create(gene_ids, seed=seed, **self.size.arguments())


def plan(
    cells: str,
    architecture: Architecture,
    *,
    size: EncoderSize | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    max_cells: int | None = None,
    balance: str | None = None,
    balance_temperature: float = 2.0,
    medians: Mapping[str, float] | None = None,
) -> EncoderRecipe:
    """Check inputs and make the recipe. Raises InputError or ModelError before anything is written."""
    store = CellStore.open(cells)
    if store.n_cells == 0:
        raise InputError(f"{cells}: the cell store holds no cells.")
    recipe = EncoderRecipe(
        cells=cells,
        dataset_id=store.dataset_id,
        n_cells=min(store.n_cells, max_cells or store.n_cells),
        architecture=architecture,
        model=model,
        model_fingerprint=fingerprint(model) if model else None,
        size=size or EncoderSize(),
        max_tokens=max_tokens,
        balance=balance,
        balance_temperature=balance_temperature,
        medians=medians,
    )
    if balance is not None:
        balance_of(store, balance, balance_temperature, recipe.n_cells)
    _require_trainable(recipe, store)
    return recipe


def _require_trainable(recipe: EncoderRecipe, store: CellStore) -> None:
    if recipe.needs_medians:
        recipe = replace(recipe, medians=dict.fromkeys(store.genes.index, 1.0))  # any will do to check sizes
    encoder = recipe._encoder(seed=0)
    expected = tahoe.TahoeEncoder if recipe.architecture == "tahoe" else geneformer.GeneformerEncoder
    if not isinstance(encoder, expected):
        raise InputError(
            f"--model {recipe.model}: holds a {type(encoder).__name__}, but --arch is {recipe.architecture}."
        )
    match = encoder.tokeniser.match(list(store.genes.index))
    if match.n_matched == 0:
        raise InputError(f"{recipe.cells}: none of its genes is known to the model.\n{match.report()}")
    limit = recipe.max_tokens
    if limit is not None and not 3 <= limit <= encoder.max_tokens:
        raise InputError(f"--max-tokens {limit}: this model takes 3 to {encoder.max_tokens} tokens a cell.")


def _masked_batches(
    recipe: EncoderRecipe, module: Any, start_step: int, share: Share
) -> Iterator[dict[str, torch.Tensor]]:
    """CPU batches of one worker."""
    store = CellStore.open(recipe.cells)
    tokeniser = module.encoder.tokeniser
    match = tokeniser.match(list(store.genes.index))
    reading = ShuffledCells(
        store,
        batch=share.batch,
        seed=share.seed,
        n_cells=recipe.n_cells,
        balance=recipe.balance,
        temperature=recipe.balance_temperature,
    )
    ranges, positions = tee(share.ranges(start_step))
    for rows, (start, stop) in zip(reading.read(ranges), positions, strict=True):
        # The position, not the cell, seeds the sample of a long cell: every epoch sees other genes of it.
        tokens: Tokens = tokeniser.tokenise(
            rows.indptr,
            rows.indices,
            rows.counts,
            match,
            max_tokens=recipe.max_tokens,
            seed=share.seed,
            cells=np.arange(start, stop),
        )
        yield module.mask(tokens, seed=_mask_seed(share.seed, start))


def _mask_seed(seed: int, position: int) -> int:
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
