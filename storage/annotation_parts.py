"""What annotating a store has made already, part by part: a committed dataset that lies beside the file to be
written, and is deleted when the file is there.

    counted-000000/sums.f64          sums of log(count + 1) over the part's cells, by gene
    map/rows.i64 places.f32 clusters.i32      cells that the map was computed on, where they lie, clusters
    cells-000000/<name>.<type>       rows of the part's cells: places, clusters, scores, top genes ...
    cells-000000/x.values.f32 x.cells.i32 x.pointers.i64     normalised expression, by gene

Shape legend: C cells, G genes, M landmarks, K columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from storage.commits import Dataset, MemberPlan
from storage.locations import Location

KIND = "annotation-parts"
MAP, COUNTED, CELLS = "map", "counted", "cells"

_TYPES = {"f32": "<f4", "f64": "<f8", "i32": "<i4", "i64": "<i8", "u8": "u1"}
# Stored values of the genes that are read at once: 200 MiB with their cells.
_MOST_VALUES = 1 << 24

Array = npt.NDArray[Any]


def members(n_cells: int, part_cells: int) -> list[MemberPlan]:
    """The plan: the map, and for every range of cells its counts and all that is made of its cells."""
    found = [MemberPlan(MAP)]
    for kind in (COUNTED, CELLS):
        for number, start in enumerate(range(0, n_cells, part_cells)):
            facts = {"start": start, "stop": min(start + part_cells, n_cells)}
            found.append(MemberPlan(f"{kind}-{number:06d}", facts))
    return found


def kind_of(key: str) -> str:
    return key.partition("-")[0]


def commit_part(dataset: Dataset, key: str, arrays: Mapping[str, Array]) -> None:
    """arrays: by name and type, such as "places.f32"; shapes are the record's facts."""
    writer = dataset.member(key)
    for name, array in arrays.items():
        content = np.ascontiguousarray(array, _TYPES[name.rpartition(".")[2]])
        writer.put(f"{key}/{name}", content.tobytes())
    writer.commit({"shapes": {name: list(array.shape) for name, array in arrays.items()}})


class Parts:
    """Reader of committed parts."""

    def __init__(self, dataset: Dataset) -> None:
        self.location: Location = dataset.location
        self.plan = {member.key: member.facts for member in dataset.members}
        self._shapes = {record.key: record.facts["shapes"] for record in dataset.records()}

    def keys(self, kind: str) -> list[str]:
        """Those of one kind that are committed, in the order of their cells."""
        return [key for key in self.plan if kind_of(key) == kind and key in self._shapes]

    def range_of(self, key: str) -> tuple[int, int]:
        return int(self.plan[key]["start"]), int(self.plan[key]["stop"])

    def read(self, key: str, name: str) -> Array:
        content = self.location.read(f"{key}/{name}")
        shape = self._shapes[key][name]
        return np.frombuffer(content, _TYPES[name.rpartition(".")[2]]).reshape(shape)

    def has(self, key: str, name: str) -> bool:
        return name in self._shapes[key]

    def genes(self, n_cells: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """(first gene, normalised expression [G of the block, C]) for blocks of consecutive genes."""
        keys = self.keys(CELLS)
        pointers = [self.read(key, "x.pointers.i64").astype(np.int64) for key in keys]
        ends_G = np.sum(pointers, axis=0)
        first, n_genes = 0, len(ends_G) - 1
        while first < n_genes:
            stop = int(np.searchsorted(ends_G, ends_G[first] + _MOST_VALUES, side="right")) - 1
            stop = min(max(stop, first + 1), n_genes)
            blocks = [self._block(key, own, first, stop) for key, own in zip(keys, pointers, strict=True)]
            together: sparse.csr_matrix = sparse.hstack(blocks, format="csr")
            if together.shape[1] != n_cells:
                raise ValueError(f"{self.location}: parts of {together.shape[1]} cells, expected {n_cells}")
            yield first, together
            first = stop

    def _block(self, key: str, pointer_G: npt.NDArray[np.int64], first: int, stop: int) -> sparse.csr_matrix:
        low, high = 4 * int(pointer_G[first]), 4 * int(pointer_G[stop])
        values, cells = (
            np.frombuffer(self.location.read_ranges(f"{key}/{name}", [(low, high)])[0], dtype)
            for name, dtype in (("x.values.f32", "<f4"), ("x.cells.i32", "<i4"))
        )
        start, end = self.range_of(key)
        own = pointer_G[first : stop + 1] - pointer_G[first]
        return sparse.csr_matrix((values, cells, own), shape=(stop - first, end - start))
