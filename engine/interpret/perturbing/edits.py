"""Perturbing genes in tokens: what a tokeniser would have made of a cell in which they were gone, or highest.

Geneformer's tokens are ranks: a deleted gene leaves the list and the others move up, an overexpressed gene
comes first. That is just what tokenising the changed counts gives, the gene that moves into a full list
included. Tahoe-x1's are values beside genes: a deleted gene's token is left out, an overexpressed one gets
the highest bin; the bins of the other genes stay those of the unperturbed cell.
Source of the idea: in silico deletion and activation of Geneformer (Theodoris et al., Nature 2023).
Legend: T tokens of one cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.models import Tokeniser, Tokens
from engine.models.geneformer.tokenise import GeneformerTokeniser

Kind = Literal["delete", "overexpress", "drug"]
KINDS: tuple[Kind, ...] = ("delete", "overexpress", "drug")


@dataclass(frozen=True)
class Perturbation:
    """One or several genes (token ids), changed together; or the drug that a cell was given, a row of the
    model's table, in a cell whose genes stay as they are.
    """

    kind: Kind
    genes: tuple[int, ...]
    drug: int | None = None


@dataclass(frozen=True)
class TokenEditor:
    """How tokens of one tokeniser are perturbed.

    max_tokens: of a cell, special tokens included. top_value: of an overexpressed gene; None where tokens
    have no values and their order is what counts.
    """

    is_gene_V: npt.NDArray[np.bool_]
    max_tokens: int
    top_value: float | None

    @classmethod
    def of(cls, tokeniser: Tokeniser, max_tokens: int) -> TokenEditor:
        ranked = isinstance(tokeniser, GeneformerTokeniser)
        top = None if ranked else float(tokeniser.config.num_bins - 1)  # type: ignore[attr-defined]
        return cls(tokeniser.token_classes == 0, max_tokens, top)

    def tokens_to_read(self, perturbations: tuple[Perturbation, ...]) -> int:
        """Of a cell, so that those that move up when genes are deleted are there."""
        if self.top_value is not None:
            return self.max_tokens
        return self.max_tokens + max((len(each.genes) for each in perturbations), default=0)

    def unperturbed(self, cell: Tokens) -> Tokens:
        """The cell as the model sees it."""
        return self._kept(cell, np.ones(cell.n_tokens, bool))

    def concerns(self, cell: Tokens, perturbation: Perturbation) -> bool:
        """Whether it makes another cell: what is not there cannot be deleted, and one gene must be left."""
        if perturbation.kind != "delete":
            return True
        deleted_T = np.isin(cell.ids_T, perturbation.genes)
        return bool(deleted_T.any() and (self.is_gene_V[cell.ids_T] & ~deleted_T).any())

    def perturbed(self, cell: Tokens, perturbation: Perturbation) -> Tokens:
        """One cell (as many tokens as `tokens_to_read` says) with its genes changed."""
        if perturbation.kind == "drug":
            return self.unperturbed(cell)
        others_T = ~np.isin(cell.ids_T, perturbation.genes)
        if perturbation.kind == "delete":
            return self._kept(cell, others_T)
        new = np.array(perturbation.genes, np.int32)
        return self._kept(cell, others_T, new)

    def _kept(
        self, cell: Tokens, kept_T: npt.NDArray[np.bool_], first: npt.NDArray[np.int32] | None = None
    ) -> Tokens:
        """Special tokens, the genes of `first`, then the kept ones, as many as have room."""
        first = np.zeros(0, np.int32) if first is None else first
        gene_T = self.is_gene_V[cell.ids_T]
        genes = np.flatnonzero(gene_T & kept_T)[: self.max_tokens - int((~gene_T).sum()) - len(first)]
        specials = np.flatnonzero(~gene_T)
        head, tail = specials[specials < _first(gene_T)], specials[specials >= _first(gene_T)]
        ids = np.concatenate([cell.ids_T[head], first, cell.ids_T[genes], cell.ids_T[tail]])
        top = np.full(len(first), self.top_value or 0.0, np.float32)
        values = np.concatenate([cell.values_T[head], top, cell.values_T[genes], cell.values_T[tail]])
        return Tokens(ids.astype(np.int32), values.astype(np.float32), np.array([0, len(ids)], np.int64))


def _first(gene_T: npt.NDArray[np.bool_]) -> int:
    """Place of the first gene; of the end where there is none."""
    return int(gene_T.argmax()) if gene_T.any() else len(gene_T)
