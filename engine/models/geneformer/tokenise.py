"""Counts to Geneformer tokens: a cell's genes by falling count/median (rank value encoding).

Genes of equal value are ordered by token id. The original leaves that order to an unstable sort, whose
outcome depends on the CPU; everything else is identical to it.
Legend: T tokens or entries of all cells, C cells, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from engine.models.errors import ModelError
from engine.models.lookup import look_up, pieces
from engine.models.matching import GeneMatch, gene_match, without_version
from engine.models.tokens import IntArray, Tokens

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
CLASSES = {CLS: 1, "": 2}
# Counts below this are ordered by a table; larger ones are rare enough to be sorted out one by one.
_COMMON = 64


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
        ids_T, counts_T, n_genes_C = self._genes(indptr, indices, counts, match)
        rank_T, ids_by_rank = self._ranks(ids_T, counts_T)
        kept_C = np.minimum(n_genes_C, limit)
        lengths = kept_C + n_specials * (n_genes_C > 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Tokens are places in the order until all are sorted; `<cls>` and `<eos>` come last in it.
        place_T = np.empty(offsets[-1], rank_T.dtype)
        if n_specials:
            filled = n_genes_C > 0
            place_T[offsets[:-1][filled]], place_T[offsets[1:][filled] - 1] = len(ids_by_rank) + np.arange(2)
            ids_by_rank = np.append(ids_by_rank, [self.vocabulary[CLS], self.vocabulary[EOS]])
        stops = np.cumsum(n_genes_C)
        spans = zip(*(x.tolist() for x in (stops - n_genes_C, stops, offsets[:-1], kept_C)), strict=True)
        for start, stop, first, n_kept in spans:
            genes = rank_T[start:stop]
            genes.sort()
            first += n_specials // 2
            place_T[first : first + n_kept] = genes[:n_kept]
        ids_T = look_up(ids_by_rank.astype(np.int32), place_T)
        return Tokens(ids_T, np.zeros(len(place_T), np.float32), offsets)

    def _ranks(
        self, ids_T: IntArray, counts_T: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.unsignedinteger[Any]], IntArray]:
        """Place of each entry in the order by falling value, then token id, and the token id at each place.

        Cells share most of their pairs of gene and count: the pairs are put in order once, and what is left
        to do for a cell is to sort small integers.
        """
        n_ids = len(self.gene_ids)
        n_known = _COMMON * n_ids
        is_rare = counts_T >= _COMMON
        if counts_T.dtype.kind == "f":
            is_rare |= counts_T != np.floor(counts_T)
        rare = np.flatnonzero(is_rare)
        rare_ids, rare_counts, rare_number = _distinct(ids_T[rare], counts_T[rare], n_known)
        present = np.zeros(n_known + len(rare_ids), bool)
        present[n_known:] = True
        for _, pair in self._pairs(ids_T, counts_T):
            present[pair] = True
        pair_U = np.flatnonzero(present)
        known = pair_U[: len(pair_U) - len(rare_ids)]
        ids_U = np.concatenate([known % n_ids, rare_ids])
        # The total of a cell and the factor 10,000 of the original scale all its genes alike.
        value_U = np.concatenate([known // n_ids, rare_counts]) / self._median_V[ids_U]
        order_U = np.lexsort((ids_U, -value_U))
        # Small integers sort faster; two places are left for special tokens.
        dtype = np.dtype("u2" if len(order_U) + 2 <= 1 << 16 else "u4")
        rank: npt.NDArray[np.unsignedinteger[Any]] = np.empty(len(present), dtype)
        rank[pair_U[order_U]] = np.arange(len(order_U))
        rank_T = np.empty(len(ids_T), dtype)
        for part, pair in self._pairs(ids_T, counts_T):
            np.take(rank, pair, out=rank_T[part], mode="clip")
        rank_T[rare] = rank[rare_number]
        return rank_T, ids_U[order_U]

    def _pairs(
        self, ids_T: IntArray, counts_T: npt.NDArray[Any]
    ) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        """One number for the count and token of each entry, a piece of them at a time.

        Most counts are small and genes come in order, so that what is looked up by it lies close together.
        Counts that are not common get the number of some other pair.
        """
        for part in pieces(len(ids_T)):
            common = np.minimum(counts_T[part], _COMMON - 1)
            pair = np.multiply(common, len(self.gene_ids), dtype=np.int64, casting="unsafe")
            pair += ids_T[part]
            yield part, pair

    def _genes(
        self, indptr: IntArray, indices: IntArray, counts: npt.NDArray[Any], match: GeneMatch
    ) -> tuple[IntArray, npt.NDArray[Any], IntArray]:
        """Token id and count (> 0) of each expressed gene, cell by cell, and how many a cell has; columns of
        one gene summed."""
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
            ids_T, counts_T = look_up(match.column_to_token, indices), counts
        if match.n_matched == match.n_columns and counts_T.min(initial=1) > 0:
            return ids_T, counts_T, np.diff(indptr)
        kept_T = (ids_T >= 0) & (counts_T > 0)
        n_genes_C = np.diff(np.concatenate([[0], np.cumsum(kept_T)])[indptr])
        return ids_T[kept_T], counts_T[kept_T], n_genes_C

    def _token(self, gene_id: str) -> int:
        """Token id of a gene id or alias; -1 where there is none."""
        upper = gene_id.upper()
        for name in (upper, without_version(upper)):
            token = self.vocabulary.get(self.mapping.get(name, name), -1)
            if token >= 0 and self._rankable_V[token]:
                return token
        return -1


def _distinct(
    ids_T: IntArray, counts_T: npt.NDArray[Any], first: int
) -> tuple[IntArray, npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The different pairs of token and count, and the number of each entry's pair, counted from `first`."""
    order = np.lexsort((counts_T, ids_T))
    ids, counts = ids_T[order], counts_T[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ids[1:] != ids[:-1]) | (counts[1:] != counts[:-1])
    number = np.empty(len(order), np.int64)
    number[order] = first + np.cumsum(is_new) - 1
    return ids[is_new], counts[is_new], number
