"""Pairs of a cell and its caption: which there are, in which order they are seen, as batches of tensors.

Legend: B pairs of a micro-batch, T packed tokens, S tokens of the longest text, D width of features.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import tee
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from engine.captions import Captions
from engine.models.tokens import Tokens
from engine.training.recipe import Batch, Share
from engine.training.recipes.joint.weights import read_weights
from storage.cells import CellRows, CellStore
from storage.embeddings import Embeddings
from storage.errors import InputError
from storage.shuffled_cells import ShuffledCells, read_cells

if TYPE_CHECKING:
    from engine.models.joint import JointModel
    from engine.training.recipes.joint.recipe import JointRecipe

Int64 = npt.NDArray[np.int64]


class Pairs:
    """The pairs of one recipe. Get them with `pairs_of`, which keeps the last ones.

    learnt, held_out: ascending store rows of the cells to learn from and to judge by.
    """

    def __init__(self, recipe: JointRecipe) -> None:
        self.recipe = recipe
        self.store = CellStore.open(recipe.cells)
        self.captions: Captions = recipe.captions.read(self.store, recipe.n_cells)
        self.cell_features = Embeddings.open(recipe.cell_features) if recipe.cell_features else None
        usable_C = usable(recipe, self.store, self.captions)
        held_C = recipe.split.held_out(self.store, usable_C, recipe.split_seed)
        if self.cell_features is not None:
            # A cell without tokens has features of NaN, and nothing to learn from.
            usable_C &= _finite(self.cell_features, recipe.n_cells)
        self.learnt: Int64 = np.flatnonzero(usable_C & ~held_C)
        self.held_out: Int64 = np.flatnonzero(usable_C & held_C)
        if not len(self.learnt):
            raise InputError(f"{recipe.cells}: no cell to learn from is left; its cells have no tokens.")

    @cached_property
    def text_features(self) -> npt.NDArray[np.float32] | None:
        """Of every caption, where the text tower is locked."""
        return Embeddings.open(self.recipe.text_features).X if self.recipe.text_features else None

    def reading(self, batch: int, seed: int) -> ShuffledCells:
        """The cells to learn from, shuffled."""
        return ShuffledCells(
            self.store,
            batch=batch,
            seed=seed,
            n_cells=self.recipe.n_cells,
            balance=self.recipe.balance,
            temperature=self.recipe.balance_temperature,
            chosen=self.learnt,
        )

    def batches(self, model: JointModel, start_step: int, share: Share) -> Iterator[Batch]:
        """CPU micro-batches of one worker, without end."""
        reading = self.reading(share.batch, share.seed)
        ranges, positions = tee(share.ranges(start_step))
        if self.cell_features is not None:
            for start, stop in ranges:
                cells = reading.order.cells(start, stop)
                features = torch.from_numpy(self.cell_features.rows(cells))
                yield {"cell_features_BD": features, **self._others(model, cells)}
        else:
            for rows, (start, stop) in zip(reading.read(ranges), positions, strict=True):
                cells = reading.order.cells(start, stop)
                draws = np.arange(start, stop)
                rows = thinned(rows, self.recipe.thinning, share.seed, draws)
                tokens = self.tokens(model, rows, draws, share.seed)
                yield self._with_tokens(model, tokens, cells)

    def cells(self, model: JointModel, cells: Int64) -> Batch:
        """These cells as a batch, without their texts."""
        if self.cell_features is not None:
            return {"cell_features_BD": torch.from_numpy(self.cell_features.rows(cells))}
        return _of_tokens(self.tokens(model, read_cells(self.store, cells), cells, self.recipe.token_seed))

    def texts(self, model: JointModel, numbers: Int64) -> Batch:
        """These captions as a batch, without cells."""
        if self.text_features is not None:
            return {"text_features_BD": torch.from_numpy(self.text_features[numbers])}
        tokens = model.text_tower.tokenise([self.captions.texts[number] for number in numbers])
        return {"text_ids_BS": tokens.ids_BS, "text_mask_BS": tokens.mask_BS}

    def tokens(self, model: JointModel, rows: CellRows, draws: Int64, seed: int) -> Tokens:
        """draws: what seeds the sample of genes of each cell that is too long."""
        tokeniser = model.cell_tower.tokeniser
        match = self._match(tokeniser)
        limit = self.recipe.max_tokens
        return tokeniser.tokenise(
            rows.indptr, rows.indices, rows.counts, match, max_tokens=limit, seed=seed, cells=draws
        )

    def _with_tokens(self, model: JointModel, tokens: Tokens, cells: Int64) -> Batch:
        filled = _filled(tokens)
        return {**_of_tokens(tokens.select(filled)), **self._others(model, cells[filled])}

    def _others(self, model: JointModel, cells: Int64) -> Batch:
        """Texts, caption numbers and weights of these cells: texts once, however many cells have them."""
        numbers = self.captions.of_cell_C[cells].astype(np.int64)
        distinct, of_pair = np.unique(numbers, return_inverse=True)
        weights = self._weights
        found = {f"{side}_weights_B": torch.from_numpy(of_C[cells]) for side, of_C in weights.items()}
        return {
            **self.texts(model, distinct),
            "text_of_pair_B": torch.from_numpy(of_pair),
            "captions_B": torch.from_numpy(numbers),
            **found,
        }

    @cached_property
    def _weights(self) -> dict[str, npt.NDArray[np.float32]]:
        return read_weights(self.recipe.weights) if self.recipe.weights else {}

    def _match(self, tokeniser: Any) -> Any:
        if not hasattr(self, "_matched"):
            self._matched = tokeniser.match(list(self.store.genes.index))
        return self._matched


@lru_cache(maxsize=1)
def pairs_of(recipe: JointRecipe) -> Pairs:
    """Opened once in a process."""
    return Pairs(recipe)


def usable(recipe: JointRecipe, store: CellStore, captions: Captions) -> npt.NDArray[np.bool_]:
    """Whether each cell has a caption and counts, and is not left out."""
    usable_C = (captions.of_cell_C >= 0) & (store.nnz_per_cell[: recipe.n_cells] > 0)
    for values in recipe.leave_out:
        usable_C &= ~values.of(store, recipe.n_cells, "--leave-out")
    return usable_C


def _finite(features: Embeddings, n_cells: int) -> npt.NDArray[np.bool_]:
    size = features.chunk_cells
    parts = [
        np.isfinite(features.rows(np.arange(start, min(start + size, n_cells)))).all(axis=1)
        for start in range(0, n_cells, size)
    ]
    return np.concatenate(parts)


def _of_tokens(tokens: Tokens) -> Batch:
    return {
        "ids_T": torch.from_numpy(tokens.ids_T.astype(np.int64)),
        "values_T": torch.from_numpy(np.ascontiguousarray(tokens.values_T, np.float32)),
        "offsets": torch.from_numpy(tokens.offsets),
    }


def thinned(rows: CellRows, least: float, seed: int, positions: Int64) -> CellRows:
    """The cells as if sequenced less deeply: of each, every molecule is kept with a probability drawn between
    `least` and 1. The draw depends on the seed and the cell's position in the stream alone.
    """
    if least >= 1:
        return rows
    counts = rows.counts.astype(np.int64)
    for start, stop, position in zip(rows.indptr[:-1], rows.indptr[1:], positions, strict=True):
        random = np.random.default_rng([seed, 7, int(position)])
        counts[start:stop] = random.binomial(counts[start:stop], random.uniform(least, 1))
    there = counts > 0
    indptr = np.concatenate([[0], np.cumsum(there)])[rows.indptr]
    return CellRows(indptr, rows.indices[there], counts[there].astype(rows.counts.dtype), rows.n_genes)


def _filled(tokens: Tokens) -> Int64:
    """Rows of a batch, where the one before it stands for a cell without tokens: workers must bring as many
    pairs as each other."""
    has = tokens.lengths > 0
    if has.all():
        return np.arange(tokens.n_cells)
    if not has.any():
        raise InputError("none of the cells of a batch has a gene that the cell tower knows.")
    rows = np.where(has, np.arange(tokens.n_cells), -1)
    before = np.maximum.accumulate(rows)
    return np.where(before < 0, np.flatnonzero(has)[0], before)
