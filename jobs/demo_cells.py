"""The demo's cells: the 10x PBMC subset that travels inside the scanpy wheel, as integer counts.

700 peripheral blood cells x 765 genes, of 10x Genomics' "Fresh 68k PBMCs" (Zheng et al. 2017, CC BY 4.0). The
wheel stores log1p(counts per 10,000) rounded to three decimals, and the UMI total of every cell; the integers
are recovered from both. No download, no scanpy import.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from storage.errors import InputError

WHEEL_FILE = Path("datasets", "10x_pbmc68k_reduced.h5ad")
LABEL = "cell_type"
PER = 1e4
"""The normalisation of the stored values: counts per 10,000."""


def wheel_file() -> Path:
    """The h5ad inside the installed scanpy. Raises InputError when this scanpy does not carry it."""
    spec = importlib.util.find_spec("scanpy")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / WHEEL_FILE).is_file():
            return Path(folder) / WHEEL_FILE
    raise InputError(
        f"The demo's cells are missing: no {WHEEL_FILE} in scanpy ({folders or 'not installed'}). "
        "Install it with: pip install scanpy"
    )


def recover_counts(log_per_10k: sparse.csr_matrix, umi_per_cell: np.ndarray) -> sparse.csr_matrix:
    """Integers behind log1p(10,000 * count / total), as int32 CSR [cells, genes]: expm1, rescale, round.

    `umi_per_cell` are the totals over all genes, stored or not. Raises ValueError when a value is not within
    half a count of an integer, for then rounding would guess.
    """
    counts = log_per_10k.tocsr(copy=True)
    totals = np.repeat(np.asarray(umi_per_cell, dtype=np.float64), np.diff(counts.indptr))
    exact = np.expm1(counts.data.astype(np.float64)) * totals / PER
    rounded = np.rint(exact)
    residual = float(np.abs(exact - rounded).max(initial=0.0))
    # The rounding to three decimals moves a count by up to 0.0005 * (count + total/10,000): 0.11 at most
    # here.
    if residual >= 0.25 or (rounded < 1).any():
        raise ValueError(
            f"These values are not log1p of counts per 10,000: off an integer by {residual:.3f}."
        )
    counts.data = rounded.astype(np.int32)
    counts.sort_indices()
    return counts


def demo_cells() -> anndata.AnnData:
    """700 cells x 765 genes: X integer counts, obs['cell_type'], var index = gene symbol."""
    with warnings.catch_warnings():
        # The file predates anndata 0.8, and the reader says so part by part.
        warnings.simplefilter("ignore")
        stored = anndata.read_h5ad(wheel_file())
    obs, symbols = stored.obs, stored.raw.var_names.astype(str)
    return anndata.AnnData(
        X=recover_counts(sparse.csr_matrix(stored.raw.X), obs["n_counts"].to_numpy()),
        obs=pd.DataFrame(
            {
                LABEL: pd.Categorical(obs["bulk_labels"].astype(str)),
                "cell_cycle_phase": pd.Categorical(obs["phase"].astype(str)),
                "umi_all_genes": obs["n_counts"].to_numpy(np.int32),
            },
            index=obs.index.astype(str).rename("cell"),
        ),
        var=pd.DataFrame({"gene_name": symbols.to_numpy()}, index=symbols.rename("gene")),
        uns={"source": "10x Genomics Fresh 68k PBMCs (CC BY 4.0), subset in the scanpy wheel (BSD-3)"},
    )


def write_demo_cells(path: Path) -> bool:
    """Write `demo_cells()` as h5ad unless the file is there already; True when it was written."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with warnings.catch_warnings():
        # anndata announces a future default for string columns; nothing a reader of the demo can act on.
        warnings.simplefilter("ignore", FutureWarning)
        demo_cells().write_h5ad(unfinished, compression="gzip")
    unfinished.replace(path)
    return True


def write_cell_types(cells: Path, types: Path) -> None:
    """The distinct cell types of the demo's cells, one a line."""
    names = anndata.read_h5ad(cells, backed="r").obs[LABEL].cat.categories
    types.write_text("".join(f"{name}\n" for name in names))
