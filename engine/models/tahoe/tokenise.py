"""Counts to Tahoe-x1 tokens: <cls>, then the cell's stored entries in column order with their binned counts.

Legend: T tokens or entries of all cells, C cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models.errors import ModelError
from engine.models.lookup import look_up
from engine.models.matching import GeneMatch, gene_match
from engine.models.tahoe.binning import bin_values, log_values
from engine.models.tahoe.config import CollatorConfig
from engine.models.tokens import FloatArray, IntArray, Tokens

CELL_TOKEN, DRUG_TOKEN = "<cls>", "<drug>"
# Of a 64-bit sampling key: 20 bits cell of the block, 27 bits random draw, 17 bits position in the cell.
CELL_BITS, POSITION_BITS = 20, 17


class TahoeTokeniser:
    """Tokeniser of one Tahoe-x1 vocabulary (vocab.json) and its collator options.

    Genes match by exact string. Explicit zeros stay tokens, duplicate columns stay duplicate tokens, and an
    empty cell is just `<cls>`.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], config: CollatorConfig, drugs: Mapping[str, int] | None = None
    ) -> None:
        needed = (CELL_TOKEN, DRUG_TOKEN) if config.use_chem_token else (CELL_TOKEN,)
        missing = [token for token in needed if token not in vocabulary]
        if missing:
            raise ModelError(f"vocab.json: {' and '.join(missing)} is missing")
        self.vocabulary = dict(vocabulary)
        self.config = config
        self.drugs = dict(drugs or {})
        self.pad_id = config.pad_token_id
        self.max_tokens = config.max_length
        self.gene_ids = [""] * (max(self.vocabulary.values()) + 1)
        for token, token_id in self.vocabulary.items():
            self.gene_ids[token_id] = token
        self.token_classes = np.array(list(map(_token_class, self.gene_ids)), np.int8)
        self.special_ids = frozenset(np.flatnonzero(self.token_classes).tolist())

    def match(self, gene_ids: Sequence[str]) -> GeneMatch:
        """Exact matches of the columns' Ensembl ids; special tokens never match a column."""
        tokens = (self.vocabulary.get(gene_id, -1) for gene_id in gene_ids)
        column_to_token = np.fromiter(tokens, np.int32, len(gene_ids))
        known = column_to_token >= 0
        column_to_token[known] = np.where(
            self.token_classes[column_to_token[known]] == 0, column_to_token[known], -1
        )
        return gene_match(column_to_token, gene_ids)

    def drug_ids(self, drugs: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """Row of the drug table for each cell's drug name; unknown and missing drugs are `<pad>`, row 0."""
        padding = self.drugs.get("<pad>", 0)
        return np.array([self.drugs.get(drug or "<pad>", padding) for drug in drugs], np.int64)

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
        """See `engine.models.tokens.Tokeniser`. Values are binned over the whole cell, before sampling."""
        limit = self.max_tokens if max_tokens is None else max_tokens
        n_head = 1 + self.config.use_chem_token
        n_kept = self.config.keep_first_n_tokens
        if limit < max(n_head, n_kept):
            raise ModelError(
                f"max_tokens {limit}: a cell needs room for its first {max(n_head, n_kept)} tokens"
            )
        ids_T, values_T, n_genes_C = look_up(match.column_to_token, indices), counts, np.diff(indptr)
        if match.n_matched < match.n_columns:
            known_T = ids_T >= 0
            n_genes_C = np.diff(np.concatenate([[0], np.cumsum(known_T)])[indptr])
            ids_T, values_T = ids_T[known_T], counts[known_T]
        values_T = values_T.astype(np.float32)
        if n_kept == n_head:
            tokens = self._with_head(ids_T, self._scaled(values_T, n_genes_C), n_genes_C, n_head)
        else:
            tokens = self._with_head(ids_T, values_T, n_genes_C, n_head)
            rest_T = tokens.position_T >= n_kept
            rest_C = np.maximum(tokens.lengths - n_kept, 0)
            tokens.values_T[rest_T] = self._scaled(tokens.values_T[rest_T], rest_C)
        if not np.any(tokens.lengths > limit):
            return tokens
        global_C = first_cell + np.arange(tokens.n_cells) if cells is None else np.asarray(cells)
        return _shortened(tokens, limit, n_kept if self.config.sampling else limit, seed, global_C)

    def _with_head(self, ids_T: IntArray, values_T: FloatArray, n_genes_C: IntArray, n_head: int) -> Tokens:
        """The special tokens in front of each cell's genes."""
        offsets = np.concatenate([[0], np.cumsum(n_genes_C + n_head)]).astype(np.int64)
        ids = np.empty(offsets[-1], np.int32)
        values = np.full(offsets[-1], self.config.pad_value, np.float32)
        ids[offsets[:-1]] = self.vocabulary[CELL_TOKEN]
        if n_head == 2:
            ids[offsets[:-1] + 1] = self.vocabulary[DRUG_TOKEN]
        is_gene = np.ones(offsets[-1], bool)
        for place in range(n_head):
            is_gene[offsets[:-1] + place] = False
        ids[is_gene], values[is_gene] = ids_T, values_T
        return Tokens(ids, values, offsets)

    def _scaled(self, values_T: FloatArray, lengths: IntArray) -> FloatArray:
        """Binned (or log-scaled, or raw) values of cells with so many values each."""
        config = self.config
        if config.do_binning:
            return bin_values(values_T, lengths, n_bins=config.num_bins, right=config.right_binning)
        return log_values(values_T, lengths, config.target_sum) if config.log_transform else values_T


def _token_class(token: str) -> int:
    """0 gene, 1 cell token, 2 any other special (they are all written in angle brackets)."""
    if token == CELL_TOKEN:
        return 1
    return 2 if not token or token.startswith("<") else 0


def _shortened(tokens: Tokens, limit: int, n_kept: int, seed: int, global_C: IntArray) -> Tokens:
    """Cells longer than `limit` cut to it: the first n_kept tokens and a uniform sample of the others.

    The tokens that stay keep their order (the original shuffles them; the model does not see order). n_kept =
    limit truncates. A token's draw depends on seed, cell and position only.
    """
    long_C = tokens.lengths > limit
    lengths = tokens.lengths[long_C]
    if tokens.n_cells >> CELL_BITS or int(lengths.max()) >> POSITION_BITS:
        raise ModelError(
            f"tokenise at most {1 << CELL_BITS:,} cells of {1 << POSITION_BITS:,} tokens at once"
        )
    cut_T = np.flatnonzero(np.repeat(long_C, tokens.lengths))
    position_T = tokens.position_T[cut_T].astype(np.uint64)
    draw_T = _random_keys(seed, np.repeat(global_C[long_C], lengths), position_T)
    draw_T >>= np.uint64(CELL_BITS + POSITION_BITS)
    draw_T[position_T < n_kept] = 0
    row_T = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    # One number says cell, draw and position, so that a plain sort ranks the draws of every cell, and ties
    # between draws go by position on any machine.
    key_T = (row_T << np.uint64(64 - CELL_BITS)) | (draw_T << np.uint64(POSITION_BITS)) | position_T
    key_T.sort()
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    dropped_T = np.arange(len(cut_T)) - starts >= limit
    at_T = starts + (key_T & np.uint64((1 << POSITION_BITS) - 1)).astype(np.int64)
    keep_T = np.ones(tokens.n_tokens, bool)
    keep_T[cut_T[at_T[dropped_T]]] = False
    offsets = np.concatenate([[0], np.cumsum(np.minimum(tokens.lengths, limit))]).astype(np.int64)
    return Tokens(tokens.ids_T[keep_T], tokens.values_T[keep_T], offsets)


def _random_keys(seed: int, cell_T: IntArray, position_T: IntArray) -> npt.NDArray[np.uint64]:
    """A well mixed 64-bit number for each (seed, cell, position): chained splitmix64 (Steele et al. 2014)."""
    key = np.full(len(cell_T), seed & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for part in (cell_T, position_T):
        key = (key ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key ^= key >> np.uint64(31)
    return key
