"""Counts that look like droplet cells, in as many cells as a benchmark wants."""

from pathlib import Path

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

N_GENES, N_TYPES, DRAWN = 20_000, 25, 4_096


def synthetic_counts(n_cells: int) -> sparse.csr_matrix:
    """[n_cells, 20,000] float32: 25 cell types with genes of their own, some 2,100 genes and 6,300 counts a
    cell, three fifths ones (specs/storage.md section 2). Cells repeat after 4,096, too far apart for a codec
    to see."""
    rng = np.random.default_rng(0)
    abundance = rng.lognormal(0, 2.35, N_GENES)
    kind = rng.integers(0, N_TYPES, DRAWN)
    depth = rng.lognormal(np.log(5_800), 0.42, DRAWN).astype(int)
    parts: list[sparse.csr_matrix] = []
    for number in range(N_TYPES):
        raised = np.where(rng.random(N_GENES) < 0.05, rng.lognormal(1.2, 0.8, N_GENES), 1.0)
        cells = np.flatnonzero(kind == number)
        parts.append(_drawn(rng, abundance * raised, depth[cells]))
    drawn = sparse.vstack(parts, format="csr")[np.argsort(np.argsort(kind, kind="stable"))]
    whole = sparse.vstack([drawn] * -(-n_cells // DRAWN), format="csr")
    return sparse.csr_matrix(whole[:n_cells])


def _drawn(
    rng: np.random.Generator, abundance: npt.NDArray[np.float64], depth: npt.NDArray[np.int64]
) -> sparse.csr_matrix:
    """One row a cell: `depth` transcripts drawn by abundance."""
    edges = np.cumsum(abundance) / abundance.sum()
    genes = np.minimum(np.searchsorted(edges, rng.random(depth.sum())), N_GENES - 1)
    cells = np.repeat(np.arange(len(depth)), depth)
    places, counts = np.unique(cells * N_GENES + genes, return_counts=True)
    indptr = np.searchsorted(places, np.arange(len(depth) + 1) * N_GENES)
    return sparse.csr_matrix(
        (counts.astype(np.float32), (places % N_GENES).astype(np.int32), indptr), shape=(len(depth), N_GENES)
    )


def write_h5ad(path: Path, counts: sparse.csr_matrix) -> None:
    """gzip, as most files that are shared."""
    genes = pd.DataFrame(index=[f"ENSG{gene:011d}" for gene in range(counts.shape[1])])
    names = pd.DataFrame(index=[f"cell{number}" for number in range(counts.shape[0])])
    anndata.AnnData(counts, obs=names, var=genes).write_h5ad(path, compression="gzip")
