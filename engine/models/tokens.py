"""Cells as packed tokens: one flat array per quantity and the offsets of the cells in it; nothing is padded.

Legend: T packed tokens, C cells.
"""
# ruff: noqa: N802 - shape suffixes are capitals on attributes too

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.models.errors import ModelError
from engine.models.layout import CellLayout, sent
from engine.models.matching import GeneMatch

__all__ = ["GeneMatch", "PackedTokens", "Tokeniser", "Tokens"]

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tokens:
    """Tokenised cells in host memory, as the tokenisers make them.

    ids_T: int32, index into the model's vocabulary.
    values_T: float32, the expression value beside each token (Tahoe: bin, -2 where a token has no value;
        Geneformer: 0, the order carries the expression).
    offsets: int64 [C+1]; cell i owns tokens offsets[i]:offsets[i+1]. A cell may own none.
    """

    ids_T: IntArray
    values_T: FloatArray
    offsets: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.ids_T):
            raise ModelError(
                f"tokens: offsets must run from 0 to the number of tokens ({len(self.ids_T)}), "
                f"found {self.offsets[:1].tolist()}..{self.offsets[-1:].tolist()}"
            )
        if len(self.values_T) != len(self.ids_T):
            raise ModelError(f"tokens: {len(self.ids_T)} ids but {len(self.values_T)} values")

    @property
    def n_cells(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        return len(self.ids_T)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per cell, int64 [C]."""
        return np.diff(self.offsets)

    @property
    def empty_cells(self) -> npt.NDArray[np.int64]:
        """Rows of the cells that own no token."""
        return np.flatnonzero(self.lengths == 0)

    @property
    def cell_T(self) -> npt.NDArray[np.int64]:
        """Cell (row of this batch) of every token, int64 [T]."""
        return np.repeat(np.arange(self.n_cells), self.lengths)

    @property
    def position_T(self) -> npt.NDArray[np.int64]:
        """Position of every token within its cell, int64 [T]."""
        return np.arange(self.n_tokens) - np.repeat(self.offsets[:-1], self.lengths)

    def select(self, cells: Sequence[int] | IntArray) -> Tokens:
        """The given cells (rows of this batch) in the given order, repeated where asked twice."""
        rows = np.asarray(cells, dtype=np.int64)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source_T = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Tokens(self.ids_T[source_T], self.values_T[source_T], offsets)

    def to_torch(self, device: torch.device | str = "cpu") -> PackedTokens:
        """The same tokens as tensors on `device`, with the layout that packed attention needs."""
        device = torch.device(device)
        return PackedTokens(
            ids_T=sent(self.ids_T.astype(np.int64), device),
            values_T=sent(np.ascontiguousarray(self.values_T, np.float32), device),
            layout=CellLayout(self.offsets, device),
            whole_values=_are_whole(self.values_T),
        )

    @staticmethod
    def concatenate(parts: Sequence[Tokens]) -> Tokens:
        """All cells of all parts, in order. No part gives no cell."""
        if not parts:
            return Tokens(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(1, np.int64))
        lengths = np.concatenate([part.lengths for part in parts])
        return Tokens(
            np.concatenate([part.ids_T for part in parts]),
            np.concatenate([part.values_T for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )


class Tokeniser(Protocol):
    """Counts to tokens, vectorised over a block of cells.

    vocabulary: token -> id. gene_ids: Ensembl id (or special token) of every token id, in id order.
    token_classes: int8 by token id: 0 gene, 1 cell token (`<cls>`), 2 any other special.
    max_tokens: the model's own limit, special tokens included.
    """

    vocabulary: dict[str, int]
    gene_ids: list[str]
    token_classes: npt.NDArray[np.int8]
    special_ids: frozenset[int]
    pad_id: int
    max_tokens: int

    def match(self, gene_ids: Sequence[str]) -> GeneMatch:
        """Which columns of a count matrix with these gene ids the model knows."""

    def tokenise(
        self,
        indptr: IntArray,
        indices: IntArray,
        counts: npt.NDArray[Any],
        match: GeneMatch,
        *,
        max_tokens: int | None = None,
        seed: int = 0,
        first_cell: int = 0,
        cells: IntArray | None = None,
    ) -> Tokens:
        """Tokens of a CSR block of raw counts (indptr starts at 0, indices are columns of `match`).

        max_tokens: limit per cell, special tokens included; None: the model's own.
        seed, first_cell: where a longer cell must be sampled, the draw depends on (seed, global index of the
            cell) alone; row i is cell first_cell + i, or cells[i] where the rows are not consecutive.
        """


@dataclass(frozen=True)
class PackedTokens:
    """Tokenised cells on the device that will encode them.

    ids_T: int64. values_T: float32. layout: where each cell's tokens lie. whole_values: every value is known
    to be a whole number and none is below -2, as bins, counts and markers are. (Found on the host, for a
    device would have to be waited for.)
    """

    ids_T: Tensor
    values_T: Tensor
    layout: CellLayout
    whole_values: bool = False

    @staticmethod
    def from_tensors(ids_T: Tensor, values_T: Tensor, offsets: Tensor) -> PackedTokens:
        """From the flat tensors of a training batch; offsets may live on any device."""
        layout = CellLayout(offsets.cpu().numpy().astype(np.int64), ids_T.device)
        whole = values_T.device.type == "cpu" and _are_whole(values_T.numpy())
        return PackedTokens(ids_T.long(), values_T.float(), layout, whole)

    @property
    def n_cells(self) -> int:
        return self.layout.n_cells

    @property
    def n_tokens(self) -> int:
        return len(self.ids_T)


def _are_whole(values_T: FloatArray) -> bool:
    return bool(np.all((values_T == np.rint(values_T)) & (values_T >= -2)))
