"""Annotating a store: embeddings in, one h5ad out.

    embeddings, counts -> parts (committed one by one, in tasks of Ray)    engine.retrieval.annotation.parts
    parts -> arrays of the file, sums over clusters -> tables, evidence    here

A run that is killed goes on with the parts that are missing; copying them into the file is done again. The
file appears when it is whole, and then the parts go. Legend: C cells, T terms, U width of the space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import h5py
import numpy as np

from engine.retrieval.annotation.assembly import Assembled, assemble, top_genes_writer
from engine.retrieval.annotation.clusters import Evidence, evidence_of_field
from engine.retrieval.annotation.elements import MADE_BY, obs_of, uns_of
from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.annotation.layout import LayoutOptions
from engine.retrieval.annotation.parts import PartWork, Tasks, make_parts, normalisers, part_cells
from engine.retrieval.annotation.tables import shown_var
from engine.retrieval.annotation.zero_shot import ZeroShot, text_directions
from storage.annotation_parts import KIND, Parts, members
from storage.commits import Dataset
from storage.embeddings import Embeddings
from storage.h5ad_writing import new_h5ad, split_name
from storage.locations import Location
from storage.protocol.snapshots import canonical, hash_of

Report = Callable[[int, int, str], None]

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
    *,
    tasks: Tasks | None = None,
    overwrite: bool = False,
) -> Annotation:
    """Write the annotated file, taking up the parts that an earlier run has committed under OUTPUT.parts.

    Memory: the landmarks, obs, sums over clusters, and a part or a block of genes. Raises LineageMismatch
    where the parts there are of other inputs or options.
    """
    labels = zero_shot(inputs, options, embeddings.width)
    terms_TU = text_directions(inputs.text_side, inputs.terms, ("{}",), embeddings.width)
    work = PartWork(
        inputs.store,
        embeddings,
        inputs.n_cells,
        labels,
        terms_TU if 0 < len(terms_TU) <= TERMS_PER_CELL else None,
        options.n_top,
        LayoutOptions(options.landmarks, options.resolution, options.seed),
    )
    dataset = Dataset.plan(
        parts_location(output),
        kind=KIND,
        lineage={**lineage(inputs, options), "embedding_dataset": embeddings.dataset_id},
        members=members(inputs.n_cells, part_cells(inputs.n_cells)),
        overwrite=overwrite,
    )
    parts = make_parts(dataset, work, tasks or Tasks(), report)
    made = _write(inputs, embeddings, options, output, labels, terms_TU, parts, report)
    remove(dataset.location)
    return Annotation(
        lineage_id(inputs, options),
        made.layout.n_clusters,
        int(made.is_named_C.sum()),
        made.layout.n_landmarks,
    )


def parts_location(output: str) -> Location:
    """Where the parts of a file lie until it is written."""
    return Location.of(f"{output}.parts")


def remove(location: Location) -> None:
    """A dataset that the file holds now."""
    location.delete_all()
    if location.local is not None:
        location.local.rmdir()


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


def _write(
    inputs: AnnotationInputs,
    embeddings: Embeddings,
    options: AnnotationOptions,
    output: str,
    labels: ZeroShot,
    terms_TU: np.ndarray,
    parts: Parts,
    report: Report | None,
) -> Assembled:
    """The file, from parts that are all there."""
    var = shown_var(inputs.store.genes, normalisers(parts, inputs.n_cells))
    gene_names = list(var["gene_name"])
    with new_h5ad(output) as h5ad:
        write_top = top_genes_writer(h5ad, inputs, gene_names, options.n_top, options.top_genes_table)
        made = assemble(h5ad, inputs, parts, embeddings, write_top, len(labels.names), report)
        evidence = _evidence(inputs, made, labels, terms_TU, gene_names) if options.clusters else {}
        h5ad.write("obs", obs_of(inputs, made, evidence, labels))
        h5ad.write("var", var)
        stated = lineage(inputs, options), lineage_id(inputs, options)
        for name, element in uns_of(inputs, options.title, labels, made, evidence, *stated).items():
            h5ad.write(f"uns/{name}", element)
    return made


def _evidence(
    inputs: AnnotationInputs,
    made: Assembled,
    labels: ZeroShot,
    terms_TU: np.ndarray,
    gene_names: list[str],
) -> dict[str, list[Evidence]]:
    """By field, for each of its clusters."""
    score_NT = None
    if len(terms_TU):
        score_NT = (made.typical.mean_NU @ terms_TU.T * labels.scale).astype(np.float32)
    return {
        field.name: evidence_of_field(
            position,
            made.sums,
            made.expression,
            made.typical,
            labels,
            score_NT,
            inputs.libraries,
            inputs.obs,
            gene_names,
        )
        for position, field in enumerate(made.sums.fields)
    }
