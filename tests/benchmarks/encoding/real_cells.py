"""The cells that the encoder benchmarks run on: real ones of ../shared/data, or a few synthetic ones."""

import os

import anndata
import numpy as np
from scipy import sparse

from tests.benchmarks.report import REPOSITORY

SHARED = os.environ.get("SYNCYTIUM_SHARED", str(REPOSITORY.parent / "shared"))


def real_cells(name: str) -> tuple[sparse.csr_matrix, list[str]]:
    """Raw counts of a file of the shared folder, and the Ensembl ids of their columns."""
    cells = anndata.read_h5ad(f"{SHARED}/data/{name}")
    named = (cells.var["ensembl_id"] != "") & ~cells.var["ensembl_id"].duplicated()
    cells = cells[:, named.to_numpy()]
    return sparse.csr_matrix(cells.X).astype(np.float32), list(cells.var["ensembl_id"])


def few_cells() -> tuple[sparse.csr_matrix, list[str]]:
    """24 synthetic cells of very different depth, 120 genes: enough to prove that a benchmark runs."""
    random = np.random.default_rng(0)
    counts = random.poisson(random.gamma(1.0, 1.0, (24, 1)), (24, 120)).astype(np.float32)
    counts[:, 0] += 1
    return sparse.csr_matrix(counts), [f"ENSG{gene:011d}" for gene in range(120)]
