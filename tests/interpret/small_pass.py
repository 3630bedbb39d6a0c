"""A small random case every test of the feature pass can afford to compute by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from engine.interpret.codes import sparse_codes
from engine.interpret.features import GeneTokens, Observer, whole_cell_chunks
from engine.interpret.names import Names
from engine.interpret.state import FeatureState, PassPlan
from engine.models.sae import SparseCodes

WIDTH, FEATURES, GENES, CELLS = 6, 12, 9, 40
SPECIAL = 2
LABELS = ("B cell", "monocyte", "T cell")


class ThresholdEncoder:
    """A deterministic stand-in for an autoencoder: activations on a coarse grid, so that ties happen."""

    def __init__(self, seed: int) -> None:
        self.weight_DF = torch.randn(WIDTH, FEATURES, generator=torch.Generator().manual_seed(seed))
        self.weight_DF[:, FEATURES - 1] = 0.0

    def encode_sparse(self, x_TD: torch.Tensor, /) -> SparseCodes:
        value_TK, index_TK = self.encode(x_TD).sort(dim=1, descending=True)
        return SparseCodes(index_TK, value_TK)

    def encode(self, x_TD: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.round((x_TD @ self.weight_DF) * 4) / 4 - 1.0)


@dataclass
class SmallPass:
    """Tokens of 40 cells in shuffled order, two of nine token ids special, every seventh cell without a
    label."""

    plan: PassPlan
    sae: ThresholdEncoder
    x_TD: torch.Tensor
    cell_T: np.ndarray
    gene_T: np.ndarray
    position_T: np.ndarray
    expression_T: np.ndarray
    is_gene_G: np.ndarray
    label_of_cell: np.ndarray
    names: Names

    @classmethod
    def random(cls, seed: int, **plan: float) -> SmallPass:
        rng = np.random.default_rng(seed)
        n_tokens = 300
        cell_T = rng.integers(0, CELLS, n_tokens).astype(np.uint32)
        label_of_cell = rng.integers(0, len(LABELS), CELLS)
        label_of_cell[::7] = -1
        is_gene_G = np.arange(GENES) >= SPECIAL
        names = Names(
            gene_id_G=[f"ENSG{gene}" for gene in range(GENES)],
            gene_name_G=[f"GENE{gene}" for gene in range(GENES)],
            cell_names=[f"cell{cell}" for cell in range(CELLS)],
            cell_labels=[None if code < 0 else LABELS[code] for code in label_of_cell],
            labels=LABELS,
        )
        x_TD = torch.from_numpy(rng.standard_normal((n_tokens, WIDTH)).astype(np.float32))
        return cls(
            PassPlan(FEATURES, GENES, len(LABELS), **plan),
            ThresholdEncoder(seed),
            x_TD,
            cell_T,
            rng.integers(0, GENES, n_tokens).astype(np.uint32),
            np.arange(n_tokens),
            rng.integers(0, 4, n_tokens).astype(np.float32),
            is_gene_G,
            label_of_cell,
            names,
        )

    def observe(self, tokens: Sequence[int] | np.ndarray) -> FeatureState:
        """State of the gene tokens among these."""
        rows = np.asarray(tokens, dtype=np.int64)
        rows = rows[self.is_gene_G[self.gene_T[rows]]]
        rows = rows[np.argsort(self.cell_T[rows], kind="stable")]
        observer = Observer(self.plan, self.label_of_cell)
        for start, stop in whole_cell_chunks(self.cell_T[rows]):
            at = rows[start:stop]
            tokens_T = GeneTokens(
                self.cell_T[at], self.gene_T[at], self.position_T[at], self.expression_T[at]
            )
            observer.add(tokens_T, sparse_codes(self.sae, self.x_TD[torch.from_numpy(at)], FEATURES))
        return observer.state()

    def whole(self) -> FeatureState:
        return self.observe(np.arange(len(self.cell_T)))

    def by_cells(self, edges: Sequence[int]) -> list[FeatureState]:
        """One state per range of cells between `edges`."""
        return [
            self.observe(np.flatnonzero((self.cell_T >= start) & (self.cell_T < stop)))
            for start, stop in pairwise(edges)
        ]

    @property
    def activations(self) -> np.ndarray:
        return self.sae.encode(self.x_TD).numpy()

    @property
    def gene_tokens(self) -> np.ndarray:
        return np.flatnonzero(self.is_gene_G[self.gene_T])
