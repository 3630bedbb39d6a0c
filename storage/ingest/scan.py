"""The full pass over the counts before anything is written: every value is looked at, members are
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from storage.ingest.count_rows import store_rows
from storage.locations import Location
from storage.sources import open_source
from storage.validation.counts import LARGEST_COUNT, ValueScan

_HASH_BYTES = 1 << 24


@dataclass
class MemberScan:
    """What the cells `[start, stop)` of one file will be as a member."""

    start: int
    stop: int
    n_cells: int = 0
    """Cells kept."""
    nnz: int = 0
    total: int = 0
    largest: int = 0
    n_empty: int = 0
    values: ValueScan = field(default_factory=ValueScan)


def scan_members(
    path: str,
    counts: str,
    of_column: npt.NDArray[np.int32],
    min_genes: int,
    ranges: Sequence[tuple[int, int]],
) -> list[MemberScan]:
    """Scan ranges of cells of one file, one block in memory at a time. Raises UnreadableSource."""
    n_genes = int(of_column.max()) + 1
    with open_source(path) as source:
        matrix = source.matrices[counts]
        scans = []
        for start, stop in ranges:
            scan = MemberScan(start, stop)
            for first, block in matrix.blocks(start, stop):
                before = scan.values.n_bad
                scan.values.add(block.data, f"cells {first:,}-{first + block.shape[0]:,}")
                if scan.values.n_bad > before:
                    continue  # not countable; the scan goes on so that the message can say how many
                rows, _ = store_rows(block, of_column, n_genes, min_genes)
                scan.n_cells += rows.shape[0]
                scan.nnz += rows.nnz
                scan.total += int(rows.data.sum())
                scan.largest = max(scan.largest, int(rows.data.max(initial=0)))
                scan.n_empty += int((np.diff(rows.indptr) == 0).sum())
            # Columns that each fit may not fit when they are summed.
            scan.values.n_too_large += int(scan.largest > LARGEST_COUNT and not scan.values.n_too_large)
            scans.append(scan)
    return scans


def fingerprint(objects: Sequence[str]) -> str:
    """xxh3-128 over the bytes of a file, or of every file of a folder in order; independent of where it
    lies.
    """
    digest = xxhash.xxh3_128()
    for path in sorted(objects):
        location = Location.of(path)
        size = location.size("")
        digest.update(f"{size};".encode())
        for start in range(0, size, _HASH_BYTES):
            digest.update(location.read_ranges("", [(start, min(start + _HASH_BYTES, size))])[0])
    return digest.hexdigest()


def fingerprint_of_input(path: str) -> str:
    """See `fingerprint`; finds out itself which files belong to the input."""
    with open_source(path) as source:
        objects = list(source.objects)
    return fingerprint(objects)
