"""From a file's rows to the store's: the one transformation every stored count went through.

Both the scan before writing and the writing itself use it, so what was checked is what is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse


def store_rows(
    block: sparse.csr_matrix, of_column: npt.NDArray[np.int32], n_genes: int, min_genes: int
) -> tuple[sparse.csr_matrix, npt.NDArray[np.bool_]]:
    """(rows of the kept cells [n_kept, n_genes] int64, which cells of the block are kept).

    `of_column[j]` is the store's gene of column j, -1 for columns left out. Columns of one gene are
    summed, zeros are dropped, genes ascend within a cell. Cells with fewer than `min_genes` genes are
    left out.
    """
    indptr, columns, values = block.indptr, block.indices, block.data
    genes = of_column[columns]
    keep_values = (values != 0) & (genes >= 0)
    if not keep_values.all():
        kept_before = np.concatenate([[0], np.cumsum(keep_values)])
        lengths = np.diff(kept_before[indptr])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        genes, values = genes[keep_values], values[keep_values]
    counts = _whole(values)
    rows = sparse.csr_matrix((counts, genes, indptr), shape=(block.shape[0], n_genes))
    rows.sum_duplicates()
    kept: npt.NDArray[np.bool_] = np.diff(rows.indptr) >= min_genes
    return (rows if kept.all() else rows[kept]), kept


def _whole(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    whole = np.rint(values) if values.dtype.kind == "f" else values
    return np.asarray(whole, dtype=np.int64)


def stored_dtype(largest: int) -> np.dtype[Any]:
    """uint16 where it holds the largest number (0..65,535), else uint32. SMART-seq reads exceed 300,000."""
    return np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
