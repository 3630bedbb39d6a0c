"""Annotating a store: embeddings in, one h5ad out, in passes of blocks of cells.

    embeddings -> layout (landmarks in memory) -> names, cluster sums      one block of cells at a time
    counts -> gene normalisers -> top genes, normalised X, cluster sums    one block of cells at a time

The file appears when it is whole. Legend: C cells, K top genes, L labels, T terms, U width of the space.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.retrieval.annotation.captions import as_json
from engine.retrieval.annotation.clusters import (
    LEIDEN,
    ClusterField,
    EmbeddingSums,
    Evidence,
    TypicalCells,
    evidence_of_field,
)
from engine.retrieval.annotation.expression import ExpressionPass, gene_normalisers
from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.annotation.layout import BLOCK_CELLS, Layout, LayoutOptions, lay_out
from engine.retrieval.annotation.tables import organism_of, shown_obs, shown_var
from engine.retrieval.annotation.zero_shot import UNASSIGNED, Named, ZeroShot, text_directions
from storage.embeddings import Embeddings
from storage.h5ad_writing import H5adFile, new_h5ad, split_name
from storage.protocol.snapshots import canonical, hash_of

Report = Callable[[int, int, str], None]

MADE_BY = "syncytium"
UMAP, EMBEDS, TOP_GENES = "obsm/X_cellwhisperer_umap", "obsm/transcriptome_embeds", "obsm/top_genes"
LABEL_SCORES, TERM_SCORES = "label_scores", "term_scores"
# More terms than this are scored for clusters only: a million cells times 1,000 terms are 4 GB.
TERMS_PER_CELL = 1000


@dataclass(frozen=True)
class AnnotationOptions:
    """templates: how labels are put into words. min_confidence, min_cosine: below them a cell is not named.
    n_top: top genes kept of a cell; top_genes_table: as CellWhisperer's table of names, else as rows of var.
    landmarks, resolution: see LayoutOptions. clusters: whether clusters get titles and captions. title: of
    the data set, for people. embedded: what decides the embeddings beside cells and model, in words.
    """

    templates: tuple[str, ...] = ("celltype",)
    min_confidence: float = 0.5
    min_cosine: float = -1.0
    n_top: int = 100
    top_genes_table: bool = False
    landmarks: int = 50_000
    resolution: float = 1.0
    clusters: bool = True
    title: str = ""
    embedded: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Annotation:
    """What was written: clusters of `leiden`, cells that were named, landmarks of the map."""

    lineage_id: str
    n_clusters: int
    n_named: int
    n_landmarks: int


def lineage(inputs: AnnotationInputs, options: AnnotationOptions) -> dict[str, Any]:
    """Everything the file depends on."""
    return {**inputs.facts, **asdict(options), "templates": list(options.templates)}


def lineage_id(inputs: AnnotationInputs, options: AnnotationOptions) -> str:
    return hash_of(canonical(lineage(inputs, options)))


def lineage_of_file(output: str) -> str | None:
    """What an annotated file says it was made from; None where there is none, or another file."""
    folder, name = split_name(output)
    if folder.local is None or not (folder.local / name).is_file() or not h5py.is_hdf5(folder.local / name):
        return None
    with h5py.File(folder.local / name) as root:
        found = root.get(f"uns/{MADE_BY}/lineage_id")
        return None if found is None else str(found.asstr()[()])


def annotate(
    inputs: AnnotationInputs,
    embeddings: Embeddings,
    options: AnnotationOptions,
    output: str,
    report: Report | None = None,
) -> Annotation:
    """Write the annotated file. Memory: the landmarks, one block of cells, obs, and sums over clusters."""
    n_cells = inputs.n_cells
    where = LayoutOptions(options.landmarks, options.resolution, options.seed)
    layout = lay_out(embeddings, n_cells, where, report)
    labels = zero_shot(inputs, options, embeddings.width)
    with new_h5ad(output) as h5ad:
        fields = [ClusterField.of_leiden(layout.cluster_C)]
        fields += [ClusterField.of_column(name, inputs.obs[name]) for name in inputs.fields]
        scored = _Scored(inputs, h5ad, labels, fields, embeddings.width, options)
        scored.run(embeddings, n_cells, report)
        h5ad.rows(UMAP, n_cells, 2)[...] = layout.place_C2
        var, expression = _write_expression(h5ad, inputs, fields, options, report)
        evidence = scored.evidence(expression, list(var["gene_name"])) if options.clusters else {}
        h5ad.write("obs", _obs(inputs, layout, scored, evidence, labels))
        h5ad.write("var", var)
        for name, element in _uns(inputs, options, labels, scored, layout, evidence).items():
            h5ad.write(f"uns/{name}", element)
    n_named = int(scored.is_named_C.sum())
    return Annotation(lineage_id(inputs, options), layout.n_clusters, n_named, layout.n_landmarks)


def zero_shot(inputs: AnnotationInputs, options: AnnotationOptions, width: int) -> ZeroShot:
    """The labels as directions of the common space."""
    side = inputs.text_side
    return ZeroShot(
        tuple(term.name for term in inputs.labels),
        text_directions(side, inputs.labels, options.templates, width),
        1.0 / side.temperature,
        options.min_confidence,
        options.min_cosine,
    )


class _Scored:
    """The passes over embeddings: scores written, names and sums over clusters kept."""

    def __init__(
        self,
        inputs: AnnotationInputs,
        h5ad: H5adFile,
        labels: ZeroShot,
        fields: Sequence[ClusterField],
        width: int,
        options: AnnotationOptions,
    ) -> None:
        self.inputs, self.labels, n_cells = inputs, labels, inputs.n_cells
        terms = [term for own in inputs.libraries.values() for term in own]
        self.term_names = [term.name for term in terms]
        self.terms_TU = text_directions(inputs.text_side, terms, ("{}",), width)
        self.sums = EmbeddingSums(fields, width, len(labels.names))
        self.best_C = np.full(n_cells, -1, np.int32)
        self.confidence_C = np.full(n_cells, np.nan, np.float32)
        self.is_named_C = np.zeros(n_cells, bool)
        self.embeds = h5ad.rows(EMBEDS, n_cells, width)
        self.scores = h5ad.rows(f"obsm/{LABEL_SCORES}", n_cells, len(labels.names))
        per_cell = 0 < len(terms) <= TERMS_PER_CELL
        self.term_scores = h5ad.rows(f"obsm/{TERM_SCORES}", n_cells, len(terms)) if per_cell else None

    def run(self, embeddings: Embeddings, n_cells: int, report: Report | None) -> None:
        for start in range(0, n_cells, BLOCK_CELLS):
            stop = min(start + BLOCK_CELLS, n_cells)
            e_CU = embeddings.read(start, stop)
            named = self.labels.name(e_CU)
            self._keep(slice(start, stop), e_CU, named)
            self.sums.add(start, e_CU, named)
            if report is not None:
                report(stop, n_cells, "cells named")
        self.typical = TypicalCells(self.sums)
        for start in range(0, n_cells, BLOCK_CELLS):
            self.typical.add(start, embeddings.read(start, min(start + BLOCK_CELLS, n_cells)))

    def _keep(self, rows: slice, e_CU: np.ndarray, named: Named) -> None:
        self.best_C[rows], self.confidence_C[rows] = named.best_C, named.confidence_C
        self.is_named_C[rows] = named.is_named_C
        self.embeds[rows], self.scores[rows] = e_CU, named.score_CL
        if self.term_scores is not None:
            self.term_scores[rows] = e_CU @ self.terms_TU.T * self.labels.scale

    def evidence(self, expression: ExpressionPass, gene_names: list[str]) -> dict[str, list[Evidence]]:
        """By field, for each of its clusters."""
        score_NT = None
        if len(self.terms_TU):
            score_NT = (self.typical.mean_NU @ self.terms_TU.T * self.labels.scale).astype(np.float32)
        return {
            field.name: evidence_of_field(
                position,
                self.sums,
                expression.sums,
                self.typical,
                self.labels,
                score_NT,
                self.inputs.libraries,
                self.inputs.obs,
                gene_names,
            )
            for position, field in enumerate(self.sums.fields)
        }


def _write_expression(
    h5ad: H5adFile,
    inputs: AnnotationInputs,
    fields: Sequence[ClusterField],
    options: AnnotationOptions,
    report: Report | None,
) -> tuple[pd.DataFrame, ExpressionPass]:
    """X and top genes; the gene table, and the sums over clusters."""
    store, n_cells = inputs.store, inputs.n_cells
    normaliser_G = gene_normalisers(store, n_cells, report)
    var = shown_var(store.genes, normaliser_G)
    keep_top = _top_genes_kept(h5ad, inputs, options, list(var["gene_name"]))
    sizes, numbers = [len(field.names) for field in fields], [field.number_C for field in fields]
    passed = ExpressionPass(store, n_cells, normaliser_G, options.n_top, keep_top, numbers, sizes)
    h5ad.write_csc((n_cells, store.n_genes), passed.run(report))
    return var, passed


def _top_genes_kept(
    h5ad: H5adFile, inputs: AnnotationInputs, options: AnnotationOptions, gene_names: list[str]
) -> Callable[[int, npt.NDArray[np.int32]], None]:
    """What writes the top genes of a block of cells."""
    if not options.top_genes_table:
        rows = h5ad.rows(TOP_GENES, inputs.n_cells, options.n_top, np.int32)
        return lambda start, top_CK: rows.__setitem__(slice(start, start + len(top_CK)), top_CK)
    columns = [f"Top_{place + 1}" for place in range(options.n_top)]
    names = shown_obs(inputs.obs[[]]).index.to_numpy()
    codes = h5ad.categorical_rows(TOP_GENES, columns, names, gene_names)

    def keep(start: int, top_CK: npt.NDArray[np.int32]) -> None:
        for column, best_C in zip(codes, top_CK.T, strict=True):
            column[start : start + len(best_C)] = best_C

    return keep


def _obs(
    inputs: AnnotationInputs,
    layout: Layout,
    scored: _Scored,
    evidence: Mapping[str, Sequence[Evidence]],
    labels: ZeroShot,
) -> pd.DataFrame:
    obs = shown_obs(inputs.obs)
    names = pd.Index([str(number) for number in range(layout.n_clusters)])
    obs[LEIDEN] = pd.Categorical.from_codes(layout.cluster_C, names)
    for field in scored.sums.fields:
        if field.name in evidence:
            titles = [as_json(each)["title"] for each in evidence[field.name]]
            of_cell = np.array([*titles, None], dtype=object)[field.number_C]
            obs[field.label_column] = pd.Categorical(of_cell, categories=list(dict.fromkeys(titles)))
    best = pd.Categorical.from_codes(scored.best_C, pd.Index(labels.names))
    obs["zero_shot_best_label"] = best
    named = best.add_categories([UNASSIGNED]) if UNASSIGNED not in best.categories else best
    obs["zero_shot_label"] = pd.Series(named, index=obs.index).where(scored.is_named_C, UNASSIGNED)
    obs["zero_shot_confidence"] = scored.confidence_C
    return obs


def _uns(
    inputs: AnnotationInputs,
    options: AnnotationOptions,
    labels: ZeroShot,
    scored: _Scored,
    layout: Layout,
    evidence: Mapping[str, Sequence[Evidence]],
) -> dict[str, Any]:
    """CellWhisperer's entries, and ours: label_names (columns of label_scores), term_names, cluster_evidence
    (JSON: field -> cluster -> title, caption and evidence), and what the file was made from.
    """
    organism, taxon = organism_of(inputs.obs)
    model_name = inputs.joint.rstrip("/").rsplit("/", 1)[-1]
    dataset = str(inputs.store.location).rsplit("/", 1)[-1]
    stated = {
        field.name: dict(zip(field.names, map(as_json, evidence[field.name]), strict=True))
        for field in scored.sums.fields
        if field.name in evidence
    }
    uns = {
        "dataset_name": dataset,
        "model_name": model_name,
        "terms": {
            library.replace("/", "-"): np.array([term.name for term in terms], dtype=object)
            for library, terms in inputs.libraries.items()
        },
        "version": {"corpora_schema_version": "1.1.0", "corpora_encoding_version": "0.1.0"},
        "title": options.title or f"{dataset} ({model_name})",
        "layer_descriptions": "X: log1p after 10K total-normalization",
        "organism": organism,
        "organism_ontology_term_id": taxon,
        "default_embedding": "X_cellwhisperer_umap",
        "label_names": np.array(labels.names, dtype=object),
        "cluster_evidence": json.dumps(stated, ensure_ascii=False),
        MADE_BY: {
            "lineage_id": lineage_id(inputs, options),
            "lineage": json.dumps(lineage(inputs, options), sort_keys=True),
            "scale": labels.scale,
            "landmarks": layout.n_landmarks,
        },
    }
    if scored.term_scores is not None:
        uns["term_names"] = np.array(scored.term_names, dtype=object)
    return uns
