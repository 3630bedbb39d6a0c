"""A screen: cells with what was done to them, read perturbation by perturbation from h5ad or a cell store.

Legend: C cells, G genes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from engine.perturbation import labels as naming
from engine.perturbation.normalise import Scale, scale_of
from storage.cells import CellStore
from storage.errors import InputError
from storage.sources import h5ad
from storage.sources.source import CountMatrix

CELLS_AT_ONCE = 16_384
"""Cells held while a screen is read: groups are gathered up to so many, one pass over their rows each."""
# Rows between two wanted ones that are read along rather than asked for anew.
_GAP = 256
_SAMPLES = 16

Group = tuple[str, str]
"""(context, perturbation)."""


@dataclass(frozen=True)
class Screen:
    """Labelled cells over one list of genes; nothing but labels is in memory."""

    where: str
    genes: list[str]
    """Names as perturbation labels use them, in the order of the columns."""
    perturbations: npt.NDArray[np.object_]
    """[C] canonical label of each cell."""
    contexts: npt.NDArray[np.object_]
    """[C]"""
    control: str
    scale: Scale
    read: Callable[[npt.NDArray[np.int64]], sparse.csr_matrix]
    """Ascending cell numbers -> their rows."""
    has_controls: bool = True

    @property
    def n_cells(self) -> int:
        return len(self.perturbations)

    @cached_property
    def groups(self) -> dict[Group, npt.NDArray[np.int64]]:
        """Cell numbers of every (context, perturbation), sorted by name; controls included."""
        table = pd.DataFrame({"context": self.contexts, "perturbation": self.perturbations})
        found: Any = table.groupby(["context", "perturbation"], sort=True, observed=True).indices
        return {(str(c), str(p)): np.asarray(rows, np.int64) for (c, p), rows in found.items()}

    def targets(self, perturbation: str) -> tuple[str, ...]:
        return naming.targets(perturbation, self.control)

    def target_rows(self, perturbation: str) -> npt.NDArray[np.int64]:
        """Numbers of the genes that a perturbation hits and that are measured."""
        rows = naming.gene_rows(self.targets(perturbation), self.genes)
        return np.array(sorted(rows.values()), dtype=np.int64)

    def stream(self, wanted: Sequence[Group]) -> Iterator[tuple[Group, sparse.csr_matrix]]:
        """The cells of each group, in the order asked; at most CELLS_AT_ONCE or one group in memory."""
        rows = self.groups
        gathered: list[Group] = []
        size = 0
        for group in wanted:
            if gathered and size + len(rows[group]) > CELLS_AT_ONCE:
                yield from self._together(gathered, rows)
                gathered, size = [], 0
            gathered.append(group)
            size += len(rows[group])
        yield from self._together(gathered, rows)

    def _together(
        self, gathered: Sequence[Group], rows: dict[Group, npt.NDArray[np.int64]]
    ) -> Iterator[tuple[Group, sparse.csr_matrix]]:
        if not gathered:
            return
        cells = np.unique(np.concatenate([rows[group] for group in gathered]))
        matrix_CG = self.read(cells)
        for group in gathered:
            yield group, matrix_CG[np.searchsorted(cells, rows[group])]


def open_h5ad(
    path: str,
    *,
    perturbation: str | None = None,
    control: str | None = None,
    context: str | None = None,
    needs_controls: bool = True,
) -> Screen:
    """An AnnData file of any of `labels.CONTRACTS`. Raises InputError when it is not clear what is what.

    needs_controls: False for predictions, which may leave control cells to the real screen; `control` must
    then be given.
    """
    source = h5ad.open(path)
    if "X" not in source.matrices:
        raise InputError(f"{path}: has no X; predictions and screens hold expression there.")
    matrix = source.matrices["X"]
    column = naming.perturbation_column(path, source.obs.columns, perturbation)
    context = naming.context_column(path, source.obs.columns, context)
    obs = source.obs.rows(0, source.n_cells, [column, *([context] if context else [])])
    var = source.genes_frame("X")
    values = np.concatenate([np.zeros(0), *(sample.values for sample in matrix.samples(_SAMPLES))])
    return _labelled(
        path,
        var,
        obs,
        column,
        context,
        control,
        scale_of(f"{path}: X", values),
        lambda cells: _rows_of(matrix, cells),
        needs_controls,
    )


def open_store(
    store: CellStore,
    *,
    perturbation: str,
    control: str | None = None,
    context: str | None = None,
    dose: str | None = None,
    max_cells: int | None = None,
) -> Screen:
    """The cells of a store, raw counts. dose: column of the dose of each cell's drug, empty for others.

    Raises InputError when columns or control cells are missing.
    """
    where = str(store.location)
    column = naming.perturbation_column(where, store.obs_columns, perturbation)
    context = naming.context_column(where, store.obs_columns, context)
    dose = naming.dose_column(where, store.obs_columns, dose)
    obs = store.obs([name for name in dict.fromkeys([column, context, dose]) if name])
    return _labelled(
        where,
        store.genes,
        obs.iloc[: max_cells or len(obs)],
        column,
        context,
        control,
        "counts",
        lambda cells: store.read_ranges(_runs(cells)).to_csr(),
        needs_controls=True,
        dose=dose,
    )


def _labelled(
    where: str,
    var: pd.DataFrame,
    obs: pd.DataFrame,
    column: str,
    context: str | None,
    control: str | None,
    scale: Scale,
    read: Callable[[npt.NDArray[np.int64]], sparse.csr_matrix],
    needs_controls: bool,
    dose: str | None = None,
) -> Screen:
    if column == context:
        raise InputError(
            f"{where}: {column!r} names both the perturbation and the context; give two columns."
        )
    if obs[column].isna().any():
        raise InputError(
            f"{where}: obs/{column} is empty for {int(obs[column].isna().sum()):,} cells; label every cell."
        )
    raw = obs[column].astype(str).to_numpy(dtype=object)
    there = set(raw)
    if needs_controls or control is None or control in there:
        control = naming.control_label(where, there, control)
    elif any(label in there for label in naming.CONTROL_LABELS):
        # A prediction in another contract: GEARS' `ctrl` against `non-targeting` of the real file.
        control = naming.control_label(where, there, None)
    contexts = (
        np.full(len(obs), naming.ANY_CONTEXT, dtype=object)
        if context is None
        else obs[context].astype(str).to_numpy(dtype=object)
    )
    if dose is not None:
        raw = naming.with_doses(where, raw, _doses(where, obs[dose]), control)
    perturbations = naming.canonical(raw, control)
    genes = _gene_names(where, var, {gene for label in there for gene in naming.targets(label, control)})
    return Screen(where, genes, perturbations, contexts, control, scale, read, control in there)


def _doses(where: str, column: pd.Series) -> npt.NDArray[np.float64]:
    """NaN where a cell has none. Raises InputError for what is no number."""
    numbers = pd.to_numeric(column.astype(object).replace("", np.nan), errors="coerce")
    strange = column[numbers.isna() & column.notna() & (column.astype(str) != "")]
    if len(strange):
        raise InputError(
            f"{where}: obs/{column.name} holds {strange.iloc[0]!r}; doses are numbers of one unit."
        )
    return numbers.to_numpy(dtype=np.float64)


def _gene_names(where: str, var: pd.DataFrame, targets: set[str]) -> list[str]:
    """Symbols or ids, whichever the perturbations are named by; `gene_name` where both are as good.

    Raises InputError when the names that would do stand for several genes.
    """
    columns = [var["gene_name"]] if "gene_name" in var.columns else []
    offered = [[str(name) for name in names] for names in (*columns, var.index)]
    unique = [names for names in offered if len(set(names)) == len(names)]
    if not unique:
        twice = pd.Index(offered[0])[pd.Index(offered[0]).duplicated()]
        raise InputError(f"{where}: gene {twice[0]} occurs more than once; sum or rename it.")
    return max(unique, key=lambda names: len(targets & set(names)))


def _rows_of(matrix: CountMatrix, cells: npt.NDArray[np.int64]) -> sparse.csr_matrix:
    """Rows of ascending cell numbers; short gaps are read along."""
    parts: list[Any] = [sparse.csr_matrix(np.zeros((0, matrix.shape[1]), np.float32))]
    breaks = np.flatnonzero(np.diff(cells) > _GAP) + 1
    for run in np.split(cells, breaks):
        if not len(run):
            continue
        for first, block in matrix.blocks(int(run[0]), int(run[-1]) + 1):
            inside = run[(run >= first) & (run < first + block.shape[0])] - first
            parts.append(block[inside])
    found: sparse.csr_matrix = sparse.vstack(parts, format="csr")
    found.sum_duplicates()
    return found


def _runs(cells: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges `[start, stop)` of consecutive numbers."""
    if not len(cells):
        return []
    parts = np.split(cells, np.flatnonzero(np.diff(cells) > 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]
