"""Reading row blocks of a cell store: ours, zarr-python on the same bytes, and h5py on the h5ad."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import zarr
from scipy import sparse

from storage.cells import CellStore
from storage.ingest import ingest
from tests.benchmarks.report import Figure, main

ABOUT = """Cells per second through three readers of the same synthetic counts (1,950 genes a cell, 61% ones):
ours and zarr-python's pipeline on the same store, and h5py row slices of the h5ad (gzip) it was made from.
Page cache warm, best of three passes each, interleaved."""

N_GENES, GENES_PER_CELL, BLOCK = 20_000, 1_950, 256
PASSES = 3

Read = Callable[[int, int], int]


def synthetic_counts(path: Path, n_cells: int) -> None:
    """An h5ad whose cells look like droplet cells: a few abundant genes, a long tail, mostly ones."""
    rng = np.random.default_rng(0)
    popularity = rng.lognormal(0, 1.5, N_GENES)
    popularity /= popularity.sum()
    # The first arrivals of exponential clocks are a draw without replacement, weighted by their rates.
    arrivals = rng.standard_exponential((n_cells, N_GENES), dtype=np.float32) / popularity.astype(np.float32)
    genes = np.sort(np.argpartition(arrivals, GENES_PER_CELL, axis=1)[:, :GENES_PER_CELL], axis=1)
    counts = rng.geometric(0.61, size=genes.shape).astype(np.float32)
    indptr = np.arange(n_cells + 1) * GENES_PER_CELL
    matrix = sparse.csr_matrix((counts.ravel(), genes.ravel(), indptr), shape=(n_cells, N_GENES))
    cells = anndata.AnnData(matrix)
    cells.var_names = [f"ENSG{gene:011d}" for gene in range(N_GENES)]
    cells.write_h5ad(path, compression="gzip")


def readers(store: CellStore, h5ad: Path) -> Iterator[tuple[str, Read]]:
    def ours(start: int, stop: int) -> int:
        return len(store.read(start, stop).counts)

    group = zarr.open_group(str(store.location / "dataset_0" / "X"), mode="r")
    pointers, indices, values = group["indptr"][:], group["indices"], group["data"]

    def zarr_python(start: int, stop: int) -> int:
        low, high = int(pointers[start]), int(pointers[stop])
        return min(len(indices[low:high]), len(values[low:high]))

    file = h5py.File(h5ad)
    offsets = file["X/indptr"][:]

    def h5py_slices(start: int, stop: int) -> int:
        low, high = int(offsets[start]), int(offsets[stop])
        return min(len(file["X/indices"][low:high]), len(file["X/data"][low:high]))

    yield "ours", ours
    yield "zarr-python", zarr_python
    yield "h5py", h5py_slices


def rate(read: Read, blocks: list[tuple[int, int]]) -> float:
    """Cells per second of one pass over the blocks."""
    started = time.perf_counter()
    values = sum(read(start, stop) for start, stop in blocks)
    seconds = time.perf_counter() - started
    cells = sum(stop - start for start, stop in blocks)
    if values != cells * GENES_PER_CELL:
        raise RuntimeError(f"read {values} values of {cells} cells; expected {cells * GENES_PER_CELL}")
    return cells / seconds


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    n_cells = 2_048 if smoke else 20_480
    h5ad = scratch / "counts.h5ad"
    synthetic_counts(h5ad, n_cells)
    ingest([str(h5ad)], str(scratch / "store"))
    store = CellStore.open(str(scratch / "store"))
    in_order = [(start, min(start + 4_096, n_cells)) for start in range(0, n_cells, 4_096)]
    shuffled = [(start, start + BLOCK) for start in range(0, n_cells, BLOCK)]
    np.random.default_rng(1).shuffle(shuffled)
    figures = []
    for pattern, blocks in (("sequential", in_order), (f"shuffled {BLOCK}-cell blocks", shuffled)):
        best = {name: 0.0 for name, _ in readers(store, h5ad)}
        for _ in range(PASSES):
            for name, read in readers(store, h5ad):
                best[name] = max(best[name], rate(read, blocks))
        for alternative, target in (("zarr-python", 2.0), ("h5py", 4.0)):
            figures.append(
                Figure(
                    name=f"{pattern} vs {alternative}",
                    value=best["ours"] / best[alternative],
                    unit="x",
                    target=target,
                    better="higher",
                    ours=best["ours"],
                    theirs=best[alternative],
                    theirs_is=f"{alternative}, cells/s",
                )
            )
    return figures


if __name__ == "__main__":
    raise SystemExit(main("store_read", ABOUT, measure))
