"""From committed parts to the arrays of the file, one part or block of genes at a time.

Legend: C cells, G genes, K top genes, L labels, T terms, U width of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.retrieval.annotation.clusters import ClusterField, EmbeddingSums, TypicalCells
from engine.retrieval.annotation.expression import BLOCK_CELLS, ClusterSums, membership, thinned
from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.annotation.layout import Layout
from engine.retrieval.annotation.tables import shown_obs
from engine.retrieval.annotation.zero_shot import Named
from storage.annotation_parts import CELLS, MAP, Parts
from storage.embeddings import Embeddings
from storage.h5ad_writing import H5adFile

UMAP, EMBEDS, TOP_GENES = "obsm/X_cellwhisperer_umap", "obsm/transcriptome_embeds", "obsm/top_genes"
LABEL_SCORES, TERM_SCORES = "obsm/label_scores", "obsm/term_scores"

Report = Callable[[int, int, str], None]


@dataclass
class Assembled:
    """What of all cells is kept in memory: a few numbers a cell, and sums over clusters."""

    layout: Layout
    best_C: npt.NDArray[np.int32]
    confidence_C: npt.NDArray[np.float32]
    is_named_C: npt.NDArray[np.bool_]
    has_term_scores: bool
    sums: EmbeddingSums
    typical: TypicalCells = field(init=False)
    expression: ClusterSums = field(init=False)


def assemble(
    h5ad: H5adFile,
    inputs: AnnotationInputs,
    parts: Parts,
    embeddings: Embeddings,
    write_top: Callable[[int, npt.NDArray[np.int32]], None],
    n_labels: int,
    report: Report | None = None,
) -> Assembled:
    """Write every array of the file; sums over the clusters are added up on the way."""
    found = _rows_kept(parts, inputs, embeddings.width, n_labels)
    _write_rows(h5ad, inputs, parts, embeddings, write_top, found, report)
    found.typical = TypicalCells(found.sums)
    for start, stop in _blocks(0, inputs.n_cells):
        found.typical.add(start, embeddings.read(start, stop))
    h5ad.write_csc((inputs.n_cells, inputs.store.n_genes), _genes(parts, inputs, found))
    return found


def top_genes_writer(
    h5ad: H5adFile, inputs: AnnotationInputs, gene_names: Sequence[str], n_top: int, as_table: bool
) -> Callable[[int, npt.NDArray[np.int32]], None]:
    """What writes the top genes of some cells: as rows of var, or as CellWhisperer's table of names."""
    if not as_table:
        rows = h5ad.rows(TOP_GENES, inputs.n_cells, n_top, np.int32)
        return lambda start, top_CK: rows.__setitem__(slice(start, start + len(top_CK)), top_CK)
    columns = [f"Top_{place + 1}" for place in range(n_top)]
    names = shown_obs(inputs.obs[[]]).index.to_numpy()
    codes = h5ad.categorical_rows(TOP_GENES, columns, names, gene_names)

    def write(start: int, top_CK: npt.NDArray[np.int32]) -> None:
        for column, best_C in zip(codes, top_CK.T, strict=True):
            column[start : start + len(best_C)] = best_C

    return write


def _rows_kept(parts: Parts, inputs: AnnotationInputs, width: int, n_labels: int) -> Assembled:
    keys = parts.keys(CELLS)
    places, clusters, best, confidence, named = (
        [parts.read(key, name) for key in keys]
        for name in ("places.f32", "clusters.i32", "best.i32", "confidence.f32", "named.u8")
    )
    layout = Layout.of_parts(places, clusters, len(parts.read(MAP, "rows.i64")))
    fields = [ClusterField.of_leiden(layout.cluster_C)]
    fields += [ClusterField.of_column(name, inputs.obs[name]) for name in inputs.fields]
    return Assembled(
        layout,
        np.concatenate(best).astype(np.int32),
        np.concatenate(confidence).astype(np.float32),
        np.concatenate(named).astype(bool),
        parts.has(keys[0], "terms.f32"),
        EmbeddingSums(fields, width, n_labels),
    )


def _write_rows(
    h5ad: H5adFile,
    inputs: AnnotationInputs,
    parts: Parts,
    embeddings: Embeddings,
    write_top: Callable[[int, npt.NDArray[np.int32]], None],
    found: Assembled,
    report: Report | None,
) -> None:
    n_cells, keys = inputs.n_cells, parts.keys(CELLS)
    h5ad.rows(UMAP, n_cells, 2)[...] = found.layout.place_C2
    embeds = h5ad.rows(EMBEDS, n_cells, embeddings.width)
    scored = {"labels.f32": LABEL_SCORES, "terms.f32": TERM_SCORES}
    rows = {
        name: h5ad.rows(path, n_cells, parts.read(keys[0], name).shape[1])
        for name, path in scored.items()
        if parts.has(keys[0], name)
    }
    for key in keys:
        start, stop = parts.range_of(key)
        for name, written in rows.items():
            written[start:stop] = parts.read(key, name)
        write_top(start, parts.read(key, "top.i32").astype(np.int32))
        for first, end in _blocks(start, stop):
            embeds[first:end] = e_CU = embeddings.read(first, end)
            own = slice(first, end)
            named = Named(
                np.empty((end - first, 0), np.float32),
                found.best_C[own],
                found.confidence_C[own],
                found.is_named_C[own],
            )
            found.sums.add(first, e_CU, named)
        if report is not None:
            report(stop, n_cells, "cells written")


def _genes(parts: Parts, inputs: AnnotationInputs, found: Assembled) -> Iterator[sparse.csr_matrix]:
    """X by blocks of genes, and their sums over clusters."""
    fields = found.sums.fields
    sizes = [len(each.names) for each in fields]
    member_NC = membership([each.number_C for each in fields], sizes)
    found.expression = ClusterSums.zeros(sum(sizes), inputs.store.n_genes)
    nnz = int(inputs.store.nnz_per_cell[: inputs.n_cells].sum(dtype=np.int64))
    for first, by_gene in parts.genes(inputs.n_cells):
        found.expression.add_genes(first, member_NC, by_gene)
        yield thinned(by_gene, nnz)


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, BLOCK_CELLS):
        yield first, min(first + BLOCK_CELLS, stop)
