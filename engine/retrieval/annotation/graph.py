"""The neighbour graph that maps and clusters are made from: scanpy's, whatever finds the neighbours.

Up to 4,096 cells they are found exactly. Above, through a graph of faiss, built by one thread, so that the
same cells have the same neighbours every time. (scanpy's own way for many cells, pynndescent 0.7, returns a
kind of matrix that scanpy 1.11 cannot read.) Legend: M cells, U width of the embeddings.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

NEIGHBOURS, EXACT_CELLS = 15, 4096
# Links of faiss' graph, and how widely it is searched: recall above 0.99 on embeddings of cells.
_LINKS, _SEARCHED = 32, 64

Float32 = npt.NDArray[np.float32]


def neighbour_graph(e_MU: Float32, seed: int) -> Any:
    """An AnnData of the cells with scanpy's graph of 15 neighbours, itself one of them."""
    import anndata
    import scanpy

    cells = anndata.AnnData(np.asarray(e_MU, np.float32))
    with warnings.catch_warnings():
        # Small inputs make umap-learn say what it does about them.
        warnings.simplefilter("ignore")
        neighbours = min(NEIGHBOURS, len(e_MU) - 1)
        finder = Nearest(neighbours) if len(e_MU) > EXACT_CELLS else None
        scanpy.pp.neighbors(cells, n_neighbors=neighbours, use_rep="X", random_state=seed, transformer=finder)
    return cells


def leiden(cells: Any, resolution: float, seed: int) -> npt.NDArray[np.int32]:
    """Clusters of a neighbour graph, numbered by size."""
    import scanpy

    scanpy.tl.leiden(
        cells, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False
    )
    found: npt.NDArray[np.int32] = cells.obs["leiden"].to_numpy().astype(np.int32)
    return found


def finder_of(e_MU: Float32) -> Any:
    """A faiss index of these cells by squared distance: exact among few, a graph among many."""
    import faiss

    index: Any = faiss.IndexFlatL2(e_MU.shape[1])
    if len(e_MU) > EXACT_CELLS:
        index = faiss.IndexHNSWFlat(e_MU.shape[1], _LINKS)
        index.hnsw.efSearch = _SEARCHED
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # threads would add in any order, and the graph would differ
    try:
        index.add(np.ascontiguousarray(e_MU, np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    return index


class Nearest:
    """What scanpy asks for the nearest cells, as scikit-learn's transformers are asked."""

    def __init__(self, n_neighbors: int) -> None:
        self.n_neighbors = n_neighbors

    def get_params(self, deep: bool = True) -> dict[str, int]:
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, e_MU: Float32) -> sparse.csr_matrix:
        """Distances to the nearest cells, the cell itself first."""
        rows = np.ascontiguousarray(e_MU, np.float32)
        squared_MK, near_MK = finder_of(rows).search(rows, self.n_neighbors + 1)
        own_M = np.arange(len(rows))
        # Of cells with equal embeddings any may come first; a search that misses the cell itself loses the
        # farthest instead.
        squared_MK[near_MK == own_M[:, None]] = -1
        order = np.argsort(squared_MK, axis=1, kind="stable")
        near_MK = np.take_along_axis(near_MK, order, 1)
        squared_MK = np.maximum(np.take_along_axis(squared_MK, order, 1), 0)
        missed = near_MK[:, 0] != own_M
        near_MK[missed, 1:], squared_MK[missed, 1:] = near_MK[missed, :-1], squared_MK[missed, :-1]
        near_MK[:, 0], squared_MK[:, 0] = own_M, 0
        kept = slice(0, self.n_neighbors)
        pointers = np.arange(0, len(rows) * self.n_neighbors + 1, self.n_neighbors)
        values = np.sqrt(squared_MK[:, kept]).ravel()
        return sparse.csr_matrix((values, near_MK[:, kept].ravel(), pointers), shape=(len(rows), len(rows)))
