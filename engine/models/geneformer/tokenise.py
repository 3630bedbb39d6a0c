"""Counts to Geneformer tokens: a cell's genes by falling count/median (rank value encoding).

Genes of equal value are ordered by token id. The original leaves that order to an unstable sort, whose
outcome depends on the CPU; everything else is identical to it.
Legend: T tokens or entries of all cells, C cells, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from engine.models.errors import ModelError
from engine.models.matching import GeneMatch, gene_match, without_version
from engine.models.tokens import IntArray, Tokens

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
CLASSES = {CLS: 1, "": 2}


class GeneformerTokeniser:
    """Tokeniser of one Geneformer vocabulary. `<cls>` and `<eos>` in it make the model a V2.

    tokens: gene or special -> id. medians: gene -> non-zero median expression; a gene without one cannot be
    ranked and is not matched. mapping: alias (upper case) -> gene. max_tokens: specials included.
    """

    def __init__(
        self,
        tokens: Mapping[str, int],
        medians: Mapping[str, float],
        mapping: Mapping[str, str],
        max_tokens: int,
    ) -> None:
        missing = [token for token in (PAD, MASK) if token not in tokens]
        if missing:
            raise ModelError(f"token_dictionary: {' and '.join(missing)} is missing")
        self.vocabulary = dict(tokens)
        self.medians, self.mapping = dict(medians), dict(mapping)
        self.pad_id, self.mask_id = self.vocabulary[PAD], self.vocabulary[MASK]
        self.has_specials = CLS in tokens and EOS in tokens
        self.max_tokens = max_tokens
        self.gene_ids = [""] * (max(self.vocabulary.values()) + 1)
        for token, token_id in self.vocabulary.items():
            self.gene_ids[token_id] = token
        classes = [CLASSES.get(token, 2 if token.startswith("<") else 0) for token in self.gene_ids]
        self.token_classes = np.array(classes, np.int8)
        self.special_ids = frozenset(np.flatnonzero(self.token_classes).tolist())
        self._median_V = np.array([self.medians.get(gene, np.nan) for gene in self.gene_ids])
        self._rankable_V = (self.token_classes == 0) & (self._median_V > 0) & np.isfinite(self._median_V)

    def match(self, gene_ids: Sequence[str]) -> GeneMatch:
        """Columns by Ensembl id or alias, in any case, with or without version suffix."""
        column_to_token = np.fromiter(map(self._token, gene_ids), np.int32, len(gene_ids))
        return gene_match(column_to_token, gene_ids)

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
        """See `engine.models.tokens.Tokeniser`. Longer cells are cropped, so nothing here is random.

        Columns of the same gene are summed. A cell without a gene of the vocabulary gets no token at all
        (`Tokens.empty_cells`), not even `<cls>`. max_tokens may exceed the model's to see whole cells.
        """
        n_specials = 2 if self.has_specials else 0
        limit = (self.max_tokens if max_tokens is None else max_tokens) - n_specials
        if limit < 1:
            raise ModelError(
                f"max_tokens {max_tokens}: no room for a gene beside {n_specials} special tokens"
            )
        n_cells = len(indptr) - 1
        ids_T, counts_T, cell_T = self._genes(indptr, indices, counts, match)
        # The total of a cell and the factor 10,000 of the original scale all its genes alike.
        value_T = counts_T / self._median_V[ids_T]
        order_T = np.lexsort((ids_T, -value_T, cell_T))
        ids_T = ids_T[order_T]
        n_genes_C = np.bincount(cell_T, minlength=n_cells)
        rank_T = np.arange(len(ids_T)) - np.repeat(np.cumsum(n_genes_C) - n_genes_C, n_genes_C)
        ids_T = ids_T[rank_T < limit]
        return self._with_specials(ids_T, np.minimum(n_genes_C, limit))

    def _genes(
        self, indptr: IntArray, indices: IntArray, counts: npt.NDArray[Any], match: GeneMatch
    ) -> tuple[IntArray, npt.NDArray[np.float64], IntArray]:
        """Token id, count (> 0) and cell of each expressed gene, cell by cell; columns of one gene summed."""
        if match.duplicates:
            shape = (len(indptr) - 1, match.n_columns)
            known = np.flatnonzero(match.column_to_token >= 0)
            collapse = scipy.sparse.csr_array(
                (np.ones(len(known)), (known, match.column_to_token[known])),
                (match.n_columns, len(self.gene_ids)),
            )
            summed = scipy.sparse.csr_array((counts.astype(np.float64), indices, indptr), shape) @ collapse
            ids_T, counts_T, indptr = summed.indices, summed.data, summed.indptr
        else:
            ids_T, counts_T = match.column_to_token[indices], counts
        cell_T = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        kept_T = (ids_T >= 0) & (counts_T > 0)
        return ids_T[kept_T], counts_T[kept_T].astype(np.float64), cell_T[kept_T]

    def _with_specials(self, ids_T: IntArray, n_genes_C: IntArray) -> Tokens:
        lengths = n_genes_C + (2 * (n_genes_C > 0) if self.has_specials else 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.empty(offsets[-1], np.int32)
        is_gene = np.ones(offsets[-1], bool)
        if self.has_specials:
            filled = n_genes_C > 0
            first, last = offsets[:-1][filled], offsets[1:][filled] - 1
            ids[first], ids[last] = self.vocabulary[CLS], self.vocabulary[EOS]
            is_gene[first] = is_gene[last] = False
        ids[is_gene] = ids_T
        return Tokens(ids, np.zeros(len(ids), np.float32), offsets)

    def _token(self, gene_id: str) -> int:
        """Token id of a gene id or alias; -1 where there is none."""
        upper = gene_id.upper()
        for name in (upper, without_version(upper)):
            token = self.vocabulary.get(self.mapping.get(name, name), -1)
            if token >= 0 and self._rankable_V[token]:
                return token
        return -1
