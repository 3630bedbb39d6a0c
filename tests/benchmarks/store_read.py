"""Reading cells of a store: in order, in shuffled blocks, as a training feed; against other ways to read."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numcodecs import blosc
from scipy import sparse

from storage import shard_reading
from storage.cells import CellStore
from storage.ingest import ingest
from storage.shards import CHUNK_ELEMENTS, checksum
from storage.shuffled_cells import ShuffledCells, runs
from tests.benchmarks.cpu_time import cpu_seconds
from tests.benchmarks.report import Figure, main
from tests.benchmarks.synthetic_counts import synthetic_counts, write_h5ad

ABOUT = """Cells per CPU-second of the same synthetic counts (20,480 cells, 20,000 genes, some 2,100 a cell)
through our reader and: anndata's backed mode on the gzip h5ad, zarr-python on our own store, Parquet in the
schema of Tahoe-100M (lists of int64 genes and float32 counts, row groups of 1,024 cells, snappy), and the
store's codecs alone: every chunk, in memory already, checked and decoded to its place in the arrays of
2,048 cells; both sides hand out genes and counts in the types they are stored in. How fast the codecs are
when what they decode is dropped (one buffer in the core's cache) is there too. Blocks are fetched 2,048
cells at a time. Page cache warm, best of interleaved passes; slow
readers read a share of the blocks."""

FETCH, IN_ORDER, ROW_GROUP = 2_048, 2_048, 1_024
# Cells of a block.
PATTERNS = {"in order": IN_ORDER, "256-cell blocks": 256, "64-cell blocks": 64}

UNIT = "cells/CPU-s"
CODEC, DROPPED = "the codecs alone", "the codecs alone, nothing kept"

Blocks = list[tuple[int, int]]
Read = Callable[[Blocks], int]


class Alternative(NamedTuple):
    """What ours is compared with: at least `target` times as fast; `share` of the blocks is enough for it."""

    name: str
    read: Read
    target: float
    share: float


def ours(store: CellStore, gene_type: npt.DTypeLike = np.int32) -> Read:
    def read(blocks: Blocks) -> int:
        size = blocks[0][1] - blocks[0][0]
        at_once = 1 if size == IN_ORDER else FETCH // size
        fetches = (blocks[start : start + at_once] for start in range(0, len(blocks), at_once))
        return sum(len(store.read_ranges(fetch, gene_type).counts) for fetch in fetches)

    return read


def alternatives(store: CellStore, h5ad: Path, parquet: Path) -> Iterator[Alternative]:
    backed = anndata.read_h5ad(h5ad, backed="r")

    def anndata_backed(blocks: Blocks) -> int:
        return sum(backed.X[start:stop].nnz for start, stop in blocks)

    group = zarr.open_group(str(store.location / "dataset_0" / "X"), mode="r")
    pointers, indices, values = group["indptr"][:], group["indices"], group["data"]

    def zarr_python(blocks: Blocks) -> int:
        found = 0
        for start, stop in blocks:
            low, high = int(pointers[start]), int(pointers[stop])
            found += min(len(indices[low:high]), len(values[low:high]))
        return found

    file = pq.ParquetFile(parquet)

    def tahoe_parquet(blocks: Blocks) -> int:
        found = 0
        for start, stop in blocks:
            groups = range(start // ROW_GROUP, (stop - 1) // ROW_GROUP + 1)
            rows = file.read_row_groups(list(groups), use_threads=False)
            rows = rows.slice(start - groups[0] * ROW_GROUP, stop - start).combine_chunks()
            genes, counts = (rows[name].chunk(0).flatten().to_numpy() for name in ("genes", "expressions"))
            found += min(len(genes), len(counts))
        return found

    yield Alternative("h5ad (gzip) backed", anndata_backed, 8.0, 0.1)
    yield Alternative("zarr-python on our store", zarr_python, 3.0, 0.25)
    yield Alternative("Parquet of Tahoe-100M's schema", tahoe_parquet, 1.0, 0.1)


def write_parquet(path: Path, counts: sparse.csr_matrix) -> None:
    offsets = pa.array(counts.indptr.astype(np.int32))
    lists = {"genes": counts.indices.astype(np.int64), "expressions": counts.data.astype(np.float32)}
    columns = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in lists.items()}
    pq.write_table(pa.table(columns), path, row_group_size=ROW_GROUP, compression="snappy")


def cell_rate(store: CellStore, read: Read, blocks: Blocks) -> float:
    """Cells per CPU-second; a reader that loses counts is an error."""
    started = time.process_time()
    found = read(blocks)
    spent = time.process_time() - started
    expected = sum(int(store.nnz_per_cell[start:stop].sum()) for start, stop in blocks)
    if found != expected:
        raise RuntimeError(f"{found} counts read, {expected} expected")
    return sum(stop - start for start, stop in blocks) / spent


def against_readers(
    store: CellStore, others: list[Alternative], passes: int, threads: int
) -> Iterator[Figure]:
    shard_reading.DECODING_THREADS = threads
    for pattern, size in PATTERNS.items():
        blocks = blocks_of(store, size)
        best = dict.fromkeys(["ours", *(other.name for other in others)], 0.0)
        for _ in range(passes):
            best["ours"] = max(best["ours"], cell_rate(store, ours(store), blocks))
            for other in others:
                some = blocks[: max(1, int(len(blocks) * other.share))]
                best[other.name] = max(best[other.name], cell_rate(store, other.read, some))
        for other in others:
            yield Figure.ratio(
                f"{pattern} vs {other.name}",
                best["ours"],
                best[other.name],
                f"{other.name}, {UNIT}",
                other.target,
            )


def against_the_codec(store: CellStore, passes: int) -> Iterator[Figure]:
    """In order and in blocks, on one decoding thread and on two."""
    arrays, chunk_bytes = packed_chunks(store), CHUNK_ELEMENTS * np.dtype(np.uint16).itemsize
    per_fetch = -(-int(store.nnz_per_cell.sum()) * FETCH // store.n_cells // CHUNK_ELEMENTS)
    dropped = np.empty(chunk_bytes, np.uint8)

    def decode(keep: bool) -> None:
        for chunks in arrays:
            for first in range(0, len(chunks), per_fetch):
                some = chunks[first : first + per_fetch]
                result = np.empty((len(some), chunk_bytes), np.uint8) if keep else [dropped] * len(some)
                for chunk, place in zip(some, result, strict=True):
                    if checksum(chunk[:-4]) != chunk[-4:]:
                        raise RuntimeError("a chunk of the store is damaged")
                    blosc.decompress(chunk[:-4], place)

    best: dict[str, float] = {}

    def keep_best(name: str, rate: float) -> None:
        best[name] = max(best.get(name, 0.0), rate)

    for _ in range(2 * passes):
        keep_best(CODEC, store.n_cells / cpu_seconds(lambda: decode(keep=True)))
        keep_best(DROPPED, store.n_cells / cpu_seconds(lambda: decode(keep=False)))
        for threads in (1, 2):
            shard_reading.DECODING_THREADS = threads
            for pattern, size in PATTERNS.items():
                name = f"{pattern}, {threads} thread{'s'[: threads - 1]}"
                keep_best(name, cell_rate(store, ours(store, np.uint16), blocks_of(store, size)))
    for name, rate in best.items():
        if name not in (CODEC, DROPPED):
            target = 0.9 if name == "in order, 1 thread" else None
            yield Figure.ratio(f"{name} vs the codec", rate, best[CODEC], f"{CODEC}, {UNIT}", target)
    in_order = best["in order, 1 thread"]
    yield Figure.ratio(
        "in order, 1 thread vs the codec dropping", in_order, best[DROPPED], f"{DROPPED}, {UNIT}"
    )


def blocks_of(store: CellStore, size: int) -> Blocks:
    """All cells, in blocks of `size`; shuffled unless that means in order."""
    blocks = [(start, min(start + size, store.n_cells)) for start in range(0, store.n_cells, size)]
    if size < IN_ORDER:
        np.random.default_rng(1).shuffle(blocks)
    return blocks


def packed_chunks(store: CellStore) -> list[list[bytes]]:
    """Every chunk of the genes and of the counts, with its checksum."""
    arrays = []
    for number in range(len(store.member_starts) - 1):
        member = store._member(number)
        for array in (member.indices, member.data):
            content = store.location.read(f"{array.name}/c/0")
            spans = array._index(0)[: -(-array.n // array.chunk_elements)]
            arrays.append([content[offset : offset + size] for offset, size in spans])
    return arrays


def feed_against_raw(store: CellStore, passes: int) -> Figure:
    """Shuffled batches of 256 cells as torch tensors, and the same cells read without being shuffled."""
    shard_reading.DECODING_THREADS = 1
    reading = ShuffledCells(store, batch=256, seed=0, buffer=8_192)
    n_cells = store.n_cells // 256 * 256
    windows = [
        runs(np.unique(reading.order.cells(start, min(start + reading.order.window, n_cells))))
        for start in range(0, n_cells, reading.order.window)
    ]

    def feed() -> None:
        parts = reading.read((start, start + 256) for start in range(0, n_cells, 256))
        cells = sum(len(rows.to_torch()[0]) - 1 for rows in parts)
        if cells != n_cells:
            raise RuntimeError(f"{cells} cells of {n_cells}")

    def raw() -> None:
        for ranges in windows:
            store.read_ranges(ranges)

    least = np.full(2, np.inf)
    for _ in range(2 * passes):
        least = np.minimum(least, [cpu_seconds(feed), cpu_seconds(raw)])
    fed, read = n_cells / least
    return Figure.ratio(
        "shuffled feed to torch vs reading", fed, read, f"the same cells read in blocks, {UNIT}", 0.8
    )


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    n_cells, passes = (2_048, 1) if smoke else (20_480, 4)
    counts = synthetic_counts(n_cells)
    write_h5ad(scratch / "counts.h5ad", counts)
    write_parquet(scratch / "counts.parquet", counts)
    ingest([str(scratch / "counts.h5ad")], str(scratch / "store"))
    store = CellStore.open(str(scratch / "store"))
    others = list(alternatives(store, scratch / "counts.h5ad", scratch / "counts.parquet"))
    return [
        *against_readers(store, others, passes, threads=1),
        *against_the_codec(store, passes),
        feed_against_raw(store, passes),
    ]


if __name__ == "__main__":
    raise SystemExit(main("store_read", ABOUT, measure))
