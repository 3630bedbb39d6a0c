"""What a joint model is measured on: cells drawn from a store, their labels and captions, and text vectors.

Legend: C cells measured, L labels, P distinct captions, G genes, U width of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from engine.retrieval.annotation.expression import normalised
from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.annotation.layout import rows_of
from engine.retrieval.annotation.vocabulary import Term
from engine.retrieval.annotation.zero_shot import text_directions
from storage.cells import CellStore
from storage.embeddings import Embeddings
from storage.errors import InputError

# Columns that tell donors, and what else cells were measured in, by the names the field gives them.
GROUPS = ("donor", "donor_id", "patient", "individual", "dataset", "sample", "batch")
BATCHES = ("batch", "assay", "dataset", "sample", "donor")

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """Labelled cells that baselines learn from: normalised expression [C, G] and numbers of labels."""

    expression: sparse.csr_matrix
    label_C: Int64
    described_as: str

    @classmethod
    def open(
        cls,
        path: str,
        column: str,
        labels: Sequence[Term],
        genes: pd.Index[Any],
        sample: int | None,
        seed: int,
    ) -> Reference:
        """Cells of a store that have one of the labels; genes it lacks are zero. Raises InputError when it
        has no such column, no such cell, or other genes.
        """
        store, names = CellStore.open(path), [term.name for term in labels]
        if column not in store.obs_columns:
            raise InputError(f"--reference {path}: has no obs column {column}.")
        of_gene = store.genes.index.get_indexer(genes)
        if (of_gene >= 0).sum() < len(genes) // 2:
            raise InputError(
                f"--reference {path}: has {(of_gene >= 0).sum():,} of the {len(genes):,} genes of --cells; "
                "expected at least half."
            )
        label_C = pd.Index(names).get_indexer(pd.Index(store.obs([column])[column].astype(str)))
        rows = np.flatnonzero(label_C >= 0)
        if not len(rows):
            raise InputError(f"--reference {path}: no cell has one of the labels.")
        if sample is not None and len(rows) > sample:
            rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
        expression = expression_of(store, rows)
        lacking = sparse.csr_matrix(np.zeros((len(rows), 1), np.float32))
        padded = sparse.hstack([expression, lacking], format="csc")
        aligned = padded[:, np.where(of_gene < 0, store.n_genes, of_gene)].tocsr()
        described = f"{len(rows):,} labelled cells of {path} ({store.dataset_id[:12]})"
        return cls(aligned, label_C[rows].astype(np.int64), described)


@dataclass(frozen=True)
class MeasuredCells:
    """Cells with a label and an embedding. rows: of the store, ascending. label_C: numbers in `labels`.
    caption_C: numbers in `captions`. group, batch: names of the columns, None where there is none.
    """

    store: CellStore
    rows: Int64
    e_CU: Float32
    obs: pd.DataFrame
    labels: tuple[str, ...]
    label_C: Int64
    captions: tuple[str, ...]
    caption_C: Int64
    group: str | None
    batch: str | None

    @classmethod
    def draw(
        cls,
        inputs: AnnotationInputs,
        embeddings: Embeddings,
        *,
        label: str,
        caption: str,
        group: str | None,
        batch: str | None,
        sample: int | None,
        seed: int,
    ) -> MeasuredCells:
        """At most `sample` cells, drawn at random from those with label, caption and embedding.

        Labels are those of `inputs`, in that order, and cells of other labels are left out. Raises
        InputError for a column that is not there, and when fewer than two labels occur.
        """
        obs, names = inputs.obs, tuple(term.name for term in inputs.labels)
        rows = labelled_rows(inputs, label, caption, group, batch)
        if sample is not None and len(rows) > sample:
            rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
        e_CU = rows_of(embeddings, rows) if len(rows) else np.empty((0, embeddings.width), np.float32)
        finite = np.isfinite(e_CU).all(axis=1)
        rows, e_CU = rows[finite], e_CU[finite]
        own = obs.iloc[rows]
        label_C = pd.Index(names).get_indexer(pd.Index(own[label].astype(str)))
        captions, caption_C = np.unique(own[caption].astype(str).to_numpy(dtype=str), return_inverse=True)
        return cls(
            inputs.store,
            rows,
            e_CU,
            own,
            names,
            label_C.astype(np.int64),
            tuple(map(str, captions)),
            caption_C.astype(np.int64),
            group or _first(GROUPS, own),
            batch or _first(BATCHES, own),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def groups(self) -> npt.NDArray[Any] | None:
        """The donor (or what stands for it) of each cell."""
        return None if self.group is None else self.obs[self.group].astype(str).to_numpy()

    @cached_property
    def batches(self) -> npt.NDArray[Any] | None:
        return None if self.batch is None else self.obs[self.batch].astype(str).to_numpy()

    @cached_property
    def expression(self) -> sparse.csr_matrix:
        """log1p of counts per 10,000 [C, G]."""
        return expression_of(self.store, self.rows)

    @cached_property
    def labels_present(self) -> Int64:
        """Numbers of the labels that occur."""
        return np.unique(self.label_C)


def labelled_rows(
    inputs: AnnotationInputs, label: str, caption: str, group: str | None, batch: str | None
) -> Int64:
    """Cells with a caption and one of the labels. Raises InputError for a column that is not there, and when
    fewer than two of the labels occur.
    """
    obs, names = inputs.obs, [term.name for term in inputs.labels]
    for flag, name in (("label", label), ("caption", caption), ("group", group), ("batch", batch)):
        if name is not None and name not in obs.columns:
            raise InputError(f"--{flag} {name}: no such obs column; there are {', '.join(obs.columns)}.")
    known = obs[label].astype(str).isin(names) & obs[label].notna() & obs[caption].notna()
    rows = np.flatnonzero(known.to_numpy())
    n_labels = obs[label].iloc[rows].nunique()
    if n_labels < 2:
        raise InputError(
            f"--label {label}: cells of {n_labels} of the {len(names)} labels asked; at least two are needed."
        )
    return rows.astype(np.int64)


def expression_of(store: CellStore, rows: Int64) -> sparse.csr_matrix:
    """Normalised expression of some cells (ascending rows), read block by block."""
    parts = []
    for start, stop in store.row_blocks(4096):
        low, high = np.searchsorted(rows, [start, stop])
        if low < high:
            parts.append(normalised(store.read(start, stop).to_csr()[rows[low:high] - start]))
    together: sparse.csr_matrix = sparse.vstack(parts, format="csr")
    return together


@dataclass(frozen=True)
class Texts:
    """Unit vectors of labels [L, U] and of distinct captions [P, U], and what cosines are multiplied with."""

    label_LU: Float32
    caption_PU: Float32
    scale: float

    @classmethod
    def of(cls, inputs: AnnotationInputs, cells: MeasuredCells, templates: Sequence[str]) -> Texts:
        side, width = inputs.text_side, cells.e_CU.shape[1]
        captions = [Term(text, (text,)) for text in cells.captions]
        return cls(
            text_directions(side, inputs.labels, templates, width),
            text_directions(side, captions, ("{}",), width),
            1.0 / side.temperature,
        )


def _first(names: Sequence[str], obs: pd.DataFrame) -> str | None:
    """The first column of these names with more than one value."""
    return next((name for name in names if name in obs.columns and obs[name].nunique() > 1), None)
