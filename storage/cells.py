"""The cell store: raw counts of any number of cells over one list of genes, read in blocks of rows.

    STORE/                       zarr v3 group with annbatch's collection attributes
      dataset_0/ ...             AnnData groups of up to 131,072 cells; `anndata.read_zarr` opens each
      _obs/part-000000.parquet   the cells' columns and addresses, one file a member
      _obs/columns.json          their types and categories
      _log/                      the commit log (`storage.commits`)

Layout: `specs/storage.md` 3.1. Write one with `storage.ingest`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from scipy import sparse

from storage.commits import Snapshot, open_snapshot
from storage.locations import Location
from storage.obs_tables import N_GENES, TOTAL, columns_from_json, decode_numbers, decode_parts
from storage.shard_reading import ShardedArray, carry_out, read_single_chunk

if TYPE_CHECKING:
    import torch

KIND = "cells"
COLUMNS_OBJECT = "_obs/columns.json"
# Row pointers and shard indices of a member take about 1 MB; a store of a billion cells has 7,630 members.
_OPEN_MEMBERS = 64
_DASK_ROWS = 16_384


@dataclass(frozen=True)
class CellRows:
    """Counts of some cells: cell i has genes `indices[indptr[i]:indptr[i+1]]`, ascending, with their
    `counts`.
    """

    indptr: npt.NDArray[np.int64]
    """[n_rows + 1], starts at 0."""
    indices: npt.NDArray[np.int32]
    """[nnz] row of `CellStore.genes`."""
    counts: npt.NDArray[Any]
    """[nnz] uint16, or uint32 where a count exceeds 65,535."""
    n_genes: int

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1

    def to_csr(self) -> sparse.csr_matrix:
        """[n_rows, n_genes] float32 with int32 indices, what scipy and scanpy work on without surprises."""
        shape = (self.n_rows, self.n_genes)
        return sparse.csr_matrix((self.counts.astype(np.float32), self.indices, self.indptr), shape=shape)

    def to_torch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """indptr, indices and counts over the same memory. torch has few operations on uint16: move the
        counts to their device first and cast them there, half the bytes travel.
        """
        import torch

        return torch.from_numpy(self.indptr), torch.from_numpy(self.indices), torch.from_numpy(self.counts)


@dataclass(frozen=True)
class CellBlock(CellRows):
    """The consecutive cells `[start, stop)` of a store."""

    start: int = 0
    stop: int = 0


class RowMemory:
    """Memory for rows, used again by the next reading: fresh pages of the system would cost a tenth of it."""

    def __init__(self) -> None:
        self._bytes: dict[str, npt.NDArray[np.uint8]] = {}

    def array(self, name: str, n: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """`[n]` of any numbers. What was handed out under this name before is overwritten."""
        size = n * np.dtype(dtype).itemsize
        if name not in self._bytes or len(self._bytes[name]) < size:
            # An eighth more for slightly larger readings to come; pages not touched cost nothing.
            self._bytes[name] = np.empty(size + size // 8, np.uint8)
        return self._bytes[name][:size].view(dtype)


class _Member:
    """Open arrays of one member."""

    def __init__(self, snapshot: Snapshot, group: str, sizes: dict[str, int]) -> None:
        self.indptr = read_single_chunk(snapshot.location, f"{group}/X/indptr")
        self.data = ShardedArray(snapshot.location, f"{group}/X/data", sizes)
        self.indices = ShardedArray(snapshot.location, f"{group}/X/indices", sizes)


class CellStore:
    """A finished cell store, read-only. Pickles as its path."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._starts = np.concatenate([[0], np.cumsum([m.facts["n_cells"] for m in snapshot.members])])
        self._members: OrderedDict[int, _Member] = OrderedDict()

    @classmethod
    def open(cls, path: str | Location) -> CellStore:
        """The newest snapshot. Raises InputError when there is none, DamagedDataset when objects are
        missing.
        """
        snapshot = open_snapshot(Location.of(path), KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.location, self.snapshot.version)

    @property
    def location(self) -> Location:
        return self.snapshot.location

    @property
    def dataset_id(self) -> str:
        return self.snapshot.dataset_id

    @property
    def n_cells(self) -> int:
        return int(self._starts[-1])

    @property
    def n_genes(self) -> int:
        return int(self.snapshot.facts["n_genes"])

    @property
    def nnz(self) -> int:
        return sum(int(member.facts["nnz"]) for member in self.snapshot.members)

    @property
    def member_starts(self) -> npt.NDArray[np.int64]:
        """First cell of each member, and the number of cells at the end [n_members + 1]. Blocks inside
        read fastest.
        """
        return self._starts.astype(np.int64)

    @cached_property
    def genes(self) -> pd.DataFrame:
        """One row a gene in the order of the columns; index = gene id, `gene_name` and the files' own
        columns.
        """
        import anndata  # half a second that workers which only read counts do not spend

        group = zarr.open_group(str(self.location / "dataset_0"), mode="r")
        table: pd.DataFrame = anndata.io.read_elem(group["var"])
        return table

    @cached_property
    def nnz_per_cell(self) -> npt.NDArray[np.int32]:
        """Genes with a count in each cell [n_cells]."""
        return decode_numbers(self._parts(), N_GENES).astype(np.int32)

    @cached_property
    def total_counts(self) -> npt.NDArray[np.int64]:
        """Sum of all counts of each cell [n_cells]."""
        return decode_numbers(self._parts(), TOTAL).astype(np.int64)

    def obs(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The cells' columns in store order, index = cell names. Raises KeyError for a column it does not
        have.
        """
        known = columns_from_json(self.snapshot.read(COLUMNS_OBJECT))
        missing = [name for name in columns or () if name not in {column.name for column in known}]
        if missing:
            raise KeyError(
                f"{self.location}: obs has no {missing}; it has {[column.name for column in known]}"
            )
        return decode_parts(self._parts(), known, columns)

    @property
    def obs_columns(self) -> list[str]:
        return [column.name for column in columns_from_json(self.snapshot.read(COLUMNS_OBJECT))]

    def read(self, start: int, stop: int) -> CellBlock:
        """Cells `[start, stop)`, across members if need be. Raises DamagedDataset, IndexError."""
        rows = self.read_ranges([(start, stop)])
        return CellBlock(rows.indptr, rows.indices, rows.counts, rows.n_genes, start, stop)

    def read_ranges(
        self,
        ranges: Sequence[tuple[int, int]],
        gene_type: npt.DTypeLike = np.int32,
        memory: RowMemory | None = None,
    ) -> CellRows:
        """Several ranges of cells in the order given, in as few requests as possible: for shuffled
        reading. gene_type: of `indices`. memory: where the rows come to lie, fresh memory for None.
        """
        memory = memory or RowMemory()
        by_member: dict[int, list[tuple[int, int]]] = {}
        places: dict[int, list[int]] = {}
        lengths = [np.empty(0, np.int64)]
        at = 0
        for start, stop in ranges:
            for number, low, high in self._pieces(start, stop):
                pointers = self._member(number).indptr[low : high + 1]
                wanted = (int(pointers[0]), int(pointers[-1]))
                by_member.setdefault(number, []).append(wanted)
                places.setdefault(number, []).append(at)
                lengths.append(np.diff(pointers))
                at += wanted[1] - wanted[0]
        members = {number: self._member(number) for number in by_member}
        dtypes = [member.data.dtype for member in members.values()]
        indices = memory.array("indices", at, gene_type)
        counts = memory.array("counts", at, np.result_type(np.uint16, *dtypes))
        reads = []
        for number, member in members.items():
            reads += member.indices.reads(by_member[number], places[number], indices)
            reads += member.data.reads(by_member[number], places[number], counts)
        carry_out(reads, self.location)
        return CellRows(_row_pointers(lengths), indices, counts, self.n_genes)

    def to_dask(self, rows: int = _DASK_ROWS) -> Any:
        """dask.array [n_cells, n_genes] of scipy CSR float32 blocks of at most `rows` cells, none across
        members.
        """
        import dask
        import dask.array

        meta: Any = sparse.csr_matrix(np.zeros((0, 0), np.float32))
        read = dask.delayed(_read_csr, pure=True)
        blocks = [
            dask.array.from_delayed(read(self, start, stop), (stop - start, self.n_genes), meta=meta)
            for start, stop in self.row_blocks(rows)
        ]
        return dask.array.concatenate(blocks, axis=0)

    def row_blocks(self, rows: int) -> list[tuple[int, int]]:
        """Ranges of at most `rows` cells that cover the store; none straddles two members."""
        starts = self.member_starts.tolist()
        return [
            (start, min(start + rows, stop))
            for first, stop in pairwise(starts)
            for start in range(first, stop, rows)
        ]

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(member, first row, end row) of a range of cells."""
        if not 0 <= start <= stop <= self.n_cells:
            raise IndexError(f"{self.location}: cells {start}-{stop} of a store of {self.n_cells}")
        pieces = []
        while start < stop:
            member = int(np.searchsorted(self._starts, start, side="right")) - 1
            end = min(stop, int(self._starts[member + 1]))
            first = int(self._starts[member])
            pieces.append((member, start - first, end - first))
            start = end
        return pieces

    def _member(self, number: int) -> _Member:
        if number not in self._members:
            record = self.snapshot.members[number]
            sizes = {name: stored.size for name, stored in record.objects.items()}
            self._members[number] = _Member(self.snapshot, record.facts["group"], sizes)
            if len(self._members) > _OPEN_MEMBERS:
                self._members.popitem(last=False)
        self._members.move_to_end(number)
        return self._members[number]

    def _parts(self) -> list[bytes]:
        return [self.snapshot.read(member.facts["obs"]) for member in self.snapshot.members]


def _row_pointers(lengths: list[Any]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)


@lru_cache(maxsize=8)
def _reopened(location: Location, version: int) -> CellStore:
    """Once per process: tasks that receive a store must not each list its objects again."""
    return CellStore(open_snapshot(location, KIND, version))


def _read_csr(store: CellStore, start: int, stop: int) -> sparse.csr_matrix:
    return store.read(start, stop).to_csr()
