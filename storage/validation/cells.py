"""Rules about cells: the table of cells, empty cells, and layouts (obsm)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.sources import Layout, Source
from storage.validation.findings import Finding

# CELLxGENE colours at most this many categories and CellWhisperer's compiler drops longer ones.
MOST_CATEGORIES = 500
_OBS_SAMPLE = 20_000
_NAME_PIECE = 1 << 18
# Layouts are two columns wide; an X_pca of a million cells would take longer to read than all other rules.
_LAYOUT_VALUES = 20_000_000


def obs_findings(source: Source) -> list[Finding]:
    """Columns of object dtype and columns with too many categories."""
    found = []
    sample = source.obs.rows(0, min(source.n_cells, _OBS_SAMPLE))
    for name in sample.columns:
        column = sample[name]
        where = f"obs[{name!r}]"
        if isinstance(column.dtype, pd.CategoricalDtype):
            found += _many(where, len(column.cat.categories))
        elif column.dtype == object:
            kinds = sorted({type(value).__name__ for value in column})
            message = f"object dtype ({', '.join(kinds)}), expected categories, numbers or truth values"
            fix = f"adata.obs[{name!r}] = adata.obs[{name!r}].astype('category')"
            found.append(Finding("warning", "object-column", where, source.n_cells, message, fix))
            found += _many(where, column.astype(str).nunique())
    return found


def _many(where: str, n: int) -> list[Finding]:
    if n <= MOST_CATEGORIES:
        return []
    message = f"{n:,} categories; more than {MOST_CATEGORIES} cannot be shown as colours"
    fix = "The column is kept. Leave it out with --obs-columns if nothing needs it."
    return [Finding("warning", "many-categories", where, n, message, fix)]


def name_hashes(source: Source) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every cell's name [n_cells]: 8 bytes a cell instead of the strings."""
    pieces = [np.empty(0, np.uint64)]
    for start in range(0, source.n_cells, _NAME_PIECE):
        names = source.obs.rows(start, min(start + _NAME_PIECE, source.n_cells), []).index
        pieces.append(pd.util.hash_array(names.to_numpy(dtype=object), categorize=False))
    return np.concatenate(pieces)


def name_findings(hashes: npt.NDArray[np.uint64]) -> list[Finding]:
    n_repeated = len(hashes) - len(np.unique(hashes))
    if not n_repeated:
        return []
    message = f"{n_repeated:,} of {len(hashes):,} cell names occur before"
    fix = "Cells are told apart by their order. adata.obs_names_make_unique() gives each its own name."
    return [Finding("warning", "repeated-cell-names", "obs index", n_repeated, message, fix)]


def empty_cell_findings(n_empty: int | None, n_cells: int, counts: str) -> list[Finding]:
    if n_empty is None:
        message = "empty cells are not counted in a sample of this layout; --full does"
        return [Finding("info", "empty-cells-unknown", counts, 0, message)]
    if n_empty == 0:
        return []
    message = f"{n_empty:,} of {n_cells:,} cells have no counts; their embeddings will be NaN"
    return [Finding("warning", "empty-cells", counts, n_empty, message, "--min-genes 1 leaves them out.")]


def feature_findings(var: pd.DataFrame, dropped: bool) -> list[Finding]:
    """Antibodies, peaks and other features beside genes in the columns of the counts."""
    others = non_genes(var)
    n_other = int(others.sum())
    if not n_other:
        return []
    kinds = ", ".join(sorted(set(var["feature_types"][others].astype(str))))
    if dropped:
        message = f"{n_other:,} columns that are no genes are left out ({kinds})"
        return [Finding("info", "other-features", "var['feature_types']", n_other, message)]
    message = f"{n_other:,} columns are no genes ({kinds}); their values would count as expression"
    fix = "adata = adata[:, adata.var['feature_types'] == 'Gene Expression']"
    return [Finding("warning", "other-features", "var['feature_types']", n_other, message, fix)]


def non_genes(var: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """[n_columns] true where 10x's `feature_types` says the column is not gene expression."""
    if "feature_types" not in var.columns:
        return np.zeros(len(var), dtype=bool)
    others: npt.NDArray[np.bool_] = (
        ~var["feature_types"].astype(str).isin(["Gene Expression", "", "nan"]).to_numpy()
    )
    # A column that never says "Gene Expression" follows another convention.
    return others if (~others).any() else np.zeros(len(var), dtype=bool)


def layout_findings(source: Source) -> list[Finding]:
    """`obsm["X_*"]`: an array (n_cells, >= 2) of numbers, finite or NaN (NaN hides the cell)."""
    found = []
    for name, layout in source.layouts.items():
        if name.startswith("X_"):
            found += _layout(f"obsm[{name!r}]", layout, source.n_cells)
    return found


def _layout(where: str, layout: Layout, n_cells: int) -> list[Finding]:
    fix = (
        "Store a NumPy array of shape (cells, 2 or more), or delete it. The cell store does not keep layouts."
    )
    if layout.rows is None or layout.dtype is None:
        return [Finding("warning", "bad-layout", where, 0, f"a {layout.kind}, expected an array", fix)]
    if len(layout.shape) != 2 or layout.shape[0] != n_cells or layout.shape[1] < 2:
        message = f"shape {layout.shape}, expected ({n_cells}, >= 2)"
        return [Finding("warning", "bad-layout", where, 0, message, fix)]
    if layout.dtype.kind not in "iuf":
        return [Finding("warning", "bad-layout", where, 0, f"type {layout.dtype}, expected numbers", fix)]
    n_infinite, rows = 0, max(1, (1 << 20) // layout.shape[1])
    for start in range(0, min(n_cells, _LAYOUT_VALUES // layout.shape[1]), rows):
        n_infinite += int(np.isinf(layout.rows(start, min(start + rows, n_cells))).sum())
    if not n_infinite:
        return []
    return [Finding("warning", "infinite-layout", where, n_infinite, f"{n_infinite:,} infinite values", fix)]
