"""Gene embeddings: the mean final state of each gene over all cells that express it.

T packed tokens of a batch; G genes seen in a member; V vocabulary; D width of the encoder.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as safetensors_bytes

from engine.models import Encoder, PackedTokens, Tokens
from engine.streaming.copies import HostCopy
from engine.streaming.members import Member, cells_per_member, fixed_members
from engine.streaming.packing import token_positions
from engine.streaming.products.product import Source
from storage.commits import Dataset, MemberPlan, Snapshot

TABLE = "gene_embeddings.parquet"


@dataclass(frozen=True)
class GeneEmbeddingProduct:
    """Sums per member in float64, added in plan order at the end: the same table however the work was
    shared out.

    hook: whose states are averaged; "final" for the models' own convention.
    """

    hook: str = "final"

    kind = "gene_embeddings"

    def lineage(self) -> Mapping[str, Any]:
        return {"hook": self.hook, "pool": "gene"}

    def members(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> list[MemberPlan]:
        return fixed_members(len(nnz_per_cell), cells_per_member(len(nnz_per_cell)))

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> GeneCollector:
        return GeneCollector(self, encoder, tokens, member)

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        total = GeneSums.merged(_read_sums(dataset, record.key) for record in dataset.records())
        return dataset.finish({TABLE: _table_bytes(total, source)}, {"n_genes": len(total.token_G)})


@dataclass
class GeneSums:
    """token_G int32 sorted token ids; n_cells_G int64; sum_GD float64."""

    token_G: np.ndarray
    n_cells_G: np.ndarray
    sum_GD: np.ndarray

    @classmethod
    def merged(cls, parts: Iterator[GeneSums]) -> GeneSums:
        """All parts added up in the order given; memory is that of the genes seen so far and of one part."""
        total: GeneSums | None = None
        for part in parts:
            total = part if total is None else total + part
        if total is None:
            raise ValueError("no member to merge")
        return total

    def __add__(self, other: GeneSums) -> GeneSums:
        token_G = np.union1d(self.token_G, other.token_G)
        n_cells_G = np.zeros(len(token_G), dtype=np.int64)
        sum_GD = np.zeros((len(token_G), self.sum_GD.shape[1]), dtype=np.float64)
        for part in (self, other):
            rows = np.searchsorted(token_G, part.token_G)
            n_cells_G[rows] += part.n_cells_G
            sum_GD[rows] += part.sum_GD
        return GeneSums(token_G, n_cells_G, sum_GD)


class GeneCollector:
    def __init__(
        self, product: GeneEmbeddingProduct, encoder: Encoder, tokens: Tokens, member: Member
    ) -> None:
        self.product, self.encoder, self.member = product, encoder, member
        self.tokens = tokens
        special = np.fromiter(encoder.tokeniser.special_ids, np.int64, len(encoder.tokeniser.special_ids))
        seen = np.unique(tokens.ids_T)
        self.token_G = seen[~np.isin(seen, special)].astype(np.int32)
        self.n_cells_G = np.zeros(len(self.token_G), dtype=np.int64)
        self.sum_GD = torch.zeros(len(self.token_G), encoder.d_model, dtype=torch.float64)

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        ids_T = self.tokens.ids_T[token_positions(self.tokens.offsets, cells)]
        genes = np.flatnonzero(np.isin(ids_T, self.token_G))
        hook = self.product.hook
        x_RD = HostCopy(self.encoder(tokens, hooks=(hook,), rows_T=torch.from_numpy(genes)).hooks[hook])

        def place() -> None:
            rows = np.searchsorted(self.token_G, ids_T[genes])
            # On the CPU additions happen in token order; CUDA's index_add_ would add in any order.
            self.sum_GD.index_add_(0, torch.from_numpy(rows), x_RD.wait().double())
            self.n_cells_G += np.bincount(rows, minlength=len(self.token_G))

        return place

    def objects(self) -> Iterator[tuple[str, bytes]]:
        sums = {"token": self.token_G, "n_cells": self.n_cells_G, "sum": self.sum_GD.numpy()}
        yield _sums_name(self.member.key), safetensors_bytes(sums)

    def facts(self) -> Mapping[str, Any]:
        return {"start": self.member.start, "stop": self.member.stop, "n_tokens": self.tokens.n_tokens}


def _sums_name(key: str) -> str:
    return f"sums/{key}.safetensors"


def _read_sums(dataset: Dataset, key: str) -> GeneSums:
    arrays = read_safetensors(dataset.location.read(_sums_name(key)))
    return GeneSums(arrays["token"], arrays["n_cells"], arrays["sum"])


def _table_bytes(total: GeneSums, source: Source) -> bytes:
    """One row per gene of the vocabulary, by token id; a gene seen in no cell has n_cells 0 and an
    embedding of NaN.
    """
    tokens_V = np.array(
        [t for t in range(len(source.tokeniser.gene_ids)) if t not in source.tokeniser.special_ids],
        dtype=np.int32,
    )
    rows = np.searchsorted(total.token_G, tokens_V)
    seen_V = np.isin(tokens_V, total.token_G)
    n_cells_V = np.zeros(len(tokens_V), dtype=np.int64)
    n_cells_V[seen_V] = total.n_cells_G[rows[seen_V]]
    width = total.sum_GD.shape[1]
    mean_VD = np.full((len(tokens_V), width), np.nan, dtype=np.float32)
    mean_VD[seen_V] = (total.sum_GD / total.n_cells_G[:, None])[rows[seen_V]]
    genes = source.store.genes
    names = dict(zip(genes.index, genes["gene_name"], strict=True)) if "gene_name" in genes else {}
    ids = [source.tokeniser.gene_ids[token] for token in tokens_V]
    table = pa.table(
        {
            "gene": ids,
            "gene_name": pa.array([names.get(gene) for gene in ids], pa.string()),
            "token": tokens_V,
            "n_cells": n_cells_V,
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(mean_VD.reshape(-1)), width),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
