"""Activation caches of one cell store, aligned: the same gene of the same cell, whichever model saw it.

Legend: T tokens that all caches have, D width of a cache, G token ids of a model's vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.activations import ActivationCache
from storage.activations.shards import header_bytes, read_header, shard_name
from storage.commits import Record
from storage.errors import DamagedDataset, InputError
from storage.genes import without_version

if TYPE_CHECKING:
    import torch

Int64 = npt.NDArray[np.int64]
# Small reads of object stores, in flight at once.
READERS = 16


@dataclass(frozen=True)
class SharedGenes:
    """Genes that all vocabularies know, by gene id without its version.

    number_G: for each cache the number of a gene by token id, -1 for tokens that are no gene or not shared.
    """

    number_G: tuple[Int64, ...]
    n: int

    @classmethod
    def of(cls, caches: Sequence[ActivationCache]) -> SharedGenes:
        ids = [
            [
                without_version(gene) if kind == "gene" else None
                for gene, kind in zip(cache.genes["gene_id"], cache.genes["class"], strict=True)
            ]
            for cache in caches
        ]
        shared = sorted(set.intersection(*({gene for gene in side if gene} for side in ids)))
        number = {gene: place for place, gene in enumerate(shared)}
        return cls(
            tuple(np.array([number.get(gene or "", -1) for gene in side], np.int64) for side in ids),
            len(shared),
        )


class AlignedTokens(NamedTuple):
    """Row t of all activations is about the same gene of the same cell."""

    acts: tuple[torch.Tensor, ...]
    """`[T, D]` of each cache, in the dtype stored (fp8 as float32)."""
    cell: Int64
    """Row of the token's cell in the cell store, `[T]`, ascending."""
    gene: Int64
    """Token id in the first cache's vocabulary, `[T]`."""


class AlignedCaches:
    """Reader of the gene tokens that several caches have in common, block by block.

    A block is the cells of one member of the cache that has fewest of them, so each of its members is read
    once and those of the others at most twice.
    """

    def __init__(self, caches: Sequence[ActivationCache], hooks: Sequence[str]) -> None:
        """`hooks`: one of each cache. Raises InputError for caches of different cells, or without a gene in
        common."""
        self.caches, self.hooks = tuple(caches), tuple(hooks)
        stores = [cache.metadata.get("store", "") for cache in caches]
        if len(set(stores)) > 1:
            found = ", ".join(
                f"{cache.snapshot.location} of store {store or 'unknown'}"
                for cache, store in zip(caches, stores, strict=True)
            )
            raise InputError(f"the caches are of different cells ({found}); make them from one cell store.")
        self.genes = SharedGenes.of(caches)
        if not self.genes.n:
            names = " and ".join(str(cache.snapshot.location) for cache in caches)
            raise InputError(f"{names}: no gene id is in all vocabularies, so no tokens can be aligned.")

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Cells [start, stop) of each block."""
        fewest = min(self.caches, key=lambda cache: len(cache.members))
        return [_cells(member) for member in fewest.members]

    def count(self) -> Int64:
        """Tokens of each block. Reads eight bytes a token of every cache, not the activations."""
        with ThreadPoolExecutor(READERS) as readers:
            counts = readers.map(lambda block: len(_common(self._keys(block))), range(len(self.blocks)))
            return np.fromiter(counts, np.int64, len(self.blocks))

    def read(self, block: int) -> AlignedTokens:
        """One block, sorted by cell and gene. Raises DamagedDataset."""
        import torch

        keys: list[Int64] = []
        acts: list[torch.Tensor] = []
        genes: list[Int64] = []
        for side in range(len(self.caches)):
            key, x, gene = zip(*self._tokens(side, block), strict=True)
            keys.append(np.concatenate(key))
            acts.append(torch.cat(x))
            genes.append(np.concatenate(gene))
        common = _common(keys)
        rows = [_places(key, common) for key in keys]
        return AlignedTokens(
            tuple(x[torch.from_numpy(place)] for x, place in zip(acts, rows, strict=True)),
            common // self.genes.n,
            genes[0][rows[0]],
        )

    def _tokens(self, side: int, block: int) -> Iterator[tuple[Int64, torch.Tensor, Int64]]:
        """(keys, activations, token ids) of a cache's shared tokens in a block, member by member."""
        import torch

        cache, hook = self.caches[side], self.hooks[side]
        members = self._members(side, block)
        if not members:
            nothing = np.empty(0, np.int64)
            yield nothing, torch.empty(0, cache.d), nothing
        for member in members:
            tokens = cache.read(hook, member.key)
            keys, rows = self._keyed(side, block, tokens.cell, tokens.gene)
            yield keys, tokens.acts[torch.from_numpy(rows)], tokens.gene[rows].astype(np.int64)

    def _keys(self, block: int) -> list[Int64]:
        """Cell and gene of every shared token of a block as one number, for each cache."""
        found = []
        for side, (cache, hook) in enumerate(zip(self.caches, self.hooks, strict=True)):
            parts = [np.empty(0, np.int64)]
            for member in self._members(side, block):
                cell_T, gene_T = _columns(cache, shard_name(hook, member.key))
                parts.append(self._keyed(side, block, cell_T, gene_T)[0])
            found.append(np.concatenate(parts))
        return found

    def _keyed(
        self, side: int, block: int, cell_T: npt.NDArray[np.uint32], gene_T: npt.NDArray[np.uint32]
    ) -> tuple[Int64, Int64]:
        """(keys, rows) of the tokens that are of the block's cells and of shared genes."""
        start, stop = self.blocks[block]
        number_T = self.genes.number_G[side][gene_T]
        rows = np.flatnonzero((number_T >= 0) & (cell_T >= start) & (cell_T < stop))
        return cell_T[rows].astype(np.int64) * self.genes.n + number_T[rows], rows

    def _members(self, side: int, block: int) -> list[Record]:
        start, stop = self.blocks[block]
        members = self.caches[side].members
        return [member for member in members if _cells(member)[0] < stop and start < _cells(member)[1]]


def _cells(member: Record) -> tuple[int, int]:
    return int(member.facts["start"]), int(member.facts["stop"])


def _common(keys: Sequence[Int64]) -> Int64:
    """The keys that all have, ascending, each once."""
    return reduce(np.intersect1d, keys[1:], np.unique(keys[0]))


def _places(keys: Int64, wanted: Int64) -> Int64:
    """Where each of the wanted keys is first found."""
    order = np.argsort(keys, kind="stable")
    places: Int64 = order[np.searchsorted(keys, wanted, sorter=order)]
    return places


def _columns(cache: ActivationCache, name: str) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Cell and gene of every token of a shard."""

    def read(start: int, stop: int) -> bytes:
        return cache.snapshot.read_ranges(name, [(start, stop)])[0]

    try:
        header, origin = read_header(read), header_bytes(read)
        spans = [header[column]["data_offsets"] for column in ("cell", "gene")]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedDataset(f"{cache.snapshot.location}/{name}: no activation shard ({error})") from error
    cell_T, gene_T = (np.frombuffer(read(origin + start, origin + stop), "<u4") for start, stop in spans)
    return cell_T, gene_T
