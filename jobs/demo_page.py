"""The demo's page: what the six jobs left on disk, gathered into one HTML file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine import models
from engine.interpret.cell_activations import peak_activations
from engine.interpret.inputs import FeatureInputs
from engine.interpret.page import content as shown
from engine.interpret.page.build import assets_hash, lineage_of, render
from engine.interpret.page.content import CellMap, Command, Curve, Measure, PageContent, Series, Step
from engine.interpret.projection import (
    COMPONENTS,
    expression_components,
    majority_share,
    neighbour_accuracy,
    umap_projection,
)
from engine.interpret.tables import Tables
from engine.training.metrics import read_metrics
from jobs.demo_searches import SEARCHES, held_out_measures
from storage.embeddings import Embeddings
from storage.errors import DamagedDataset
from storage.features import TABLES, FeatureTables
from storage.locations import Location

PAGE = "index.html"
LABEL = "cell_type"
CURVE_POINTS = 80

TITLE = "What a small model learnt from 700 blood cells"
FOOTER = (
    "Cells: 10x Genomics, Fresh 68k PBMCs (CC BY 4.0), the subset of 700 cells and 765 genes inside the "
    "scanpy wheel (BSD-3). Cell types: by correlation with sorted populations, as published with the data. "
    "One donor, a fraction of the genes, models trained for minutes: this page shows how the parts work "
    "together, not how good large models are. Features are tested against cell types one by one; a strong "
    "association does not say that the feature means that cell type."
)
QUALITY = (
    "A held-out cell is given the commonest cell type among its 15 nearest neighbours (5 folds). The models "
    "never saw a cell type, but they were trained on these same 700 cells. PCA of the same counts is the "
    "baseline."
)


@dataclass(frozen=True)
class Page:
    """What the page shows, in numbers; `did_work` is False when it was there already."""

    lineage: str
    n_cells: int
    n_features: int
    did_work: bool
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """The datasets of the demo, opened."""

    folder: Path
    inputs: FeatureInputs
    embeddings: Embeddings
    features: FeatureTables
    encoder_parameters: int
    encoder_layers: int
    encoder_curve: pa.Table
    autoencoder_curve: pa.Table

    @classmethod
    def open(cls, folder: Path, features: FeatureTables, embeddings: Embeddings) -> Made:
        encoder = models.load(folder / "encoder")
        return cls(
            folder=folder,
            inputs=FeatureInputs.open(
                str(folder / "autoencoder"), str(folder / "cache"), str(folder / "cells"), label=LABEL
            ),
            embeddings=embeddings,
            features=features,
            encoder_parameters=sum(parameter.numel() for parameter in encoder.parameters()),
            encoder_layers=encoder.n_layers,
            encoder_curve=_curve_of(folder / "encoder"),
            autoencoder_curve=_curve_of(folder / "autoencoder"),
        )


def write_page(
    folder: Path,
    *,
    seed: int = 0,
    searches: Sequence[shown.TextSearch] = (),
    held_out: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> Page:
    """Make FOLDER/index.html from the finished datasets beside it, unless it shows just those already.

    searches: what was asked of the index. held_out: what training measured on the cells it held out.
    """
    features = FeatureTables.open(str(folder / "features"))
    embeddings = Embeddings.open(str(folder / "embeddings"))
    asked = [asdict(search) for search in searches]
    made_from = [features.dataset_id, embeddings.dataset_id, assets_hash(), seed, asked, dict(held_out or {})]
    lineage = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
    page, n_features = folder / PAGE, int(features.facts["n_features_fired"])
    if not overwrite and page.exists() and lineage_of(page.read_text(encoding="utf-8")) == lineage:
        return Page(lineage, len(embeddings), n_features, did_work=False)
    made = Made.open(folder, features, embeddings)
    measures = measure(made, seed)
    unfinished = page.with_suffix(".tmp")
    content = replace(
        content_of(made, measures, lineage, seed),
        searches=tuple(searches),
        search_measures=held_out_measures(held_out, measures) if held_out else (),
        search_note=SEARCHES,
    )
    unfinished.write_text(render(content), encoding="utf-8")
    unfinished.replace(page)
    return Page(lineage, len(embeddings), n_features, did_work=True, measures=measures)


def measure(made: Made, seed: int) -> dict[str, float]:
    """Agreement of neighbours with the published cell types beside two baselines, and the final FVU."""
    label = made.inputs.label
    if label is None:
        raise ValueError("the demo's feature inputs were opened without labels")
    names = [label.labels[code] for code in label.code_C]
    counts = made.inputs.store.read(0, made.inputs.n_cells).to_csr()
    return {
        "neighbour_accuracy_embeddings": neighbour_accuracy(made.embeddings.X, names, seed),
        "neighbour_accuracy_pca": neighbour_accuracy(expression_components(counts, seed), names, seed),
        "majority_share": majority_share(names),
        "variance_unexplained": float(np.mean(_column(made.autoencoder_curve, "fvu")[-20:])),
    }


def content_of(made: Made, measures: dict[str, float], lineage: str, seed: int) -> PageContent:
    """Everything the page shows."""
    inputs, embeddings, features = made.inputs, made.embeddings, made.features
    names, label = inputs.names(), inputs.label
    if label is None:
        raise ValueError("the demo's feature inputs were opened without labels")
    return PageContent(
        title=TITLE,
        lead=(
            f"A Tahoe-x1 encoder of {made.encoder_parameters:,} parameters learnt to tell "
            f"hidden gene counts of {inputs.n_cells:,} blood cells. It was never shown a cell type. A sparse "
            "autoencoder then took what it holds about each gene apart into features."
        ),
        footer=FOOTER,
        quality_note=QUALITY,
        lineage=lineage,
        label_column="Cell type",
        street=_street(made),
        cells=CellMap(
            names.cell_names, label.labels, label.code_C.tolist(), umap_projection(embeddings.X, seed)
        ),
        tables=Tables(**{name: features.table(name) for name in TABLES}),
        peak_CF=peak_activations(inputs),
        curves=_curves(made),
        measures=_measures(measures, embeddings.width),
        commands=_commands(made.folder),
    )


def _street(made: Made) -> tuple[Step, ...]:
    facts, store, cache = made.features.facts, made.inputs.store, made.inputs.cache
    return (
        Step("Cell store", f"{store.n_cells:,}", f"cells × {store.n_genes:,} genes"),
        Step("Tokens", f"{store.nnz:,}", "counts above zero"),
        Step("Encoder", _short(made.encoder_parameters), f"parameters, {made.encoder_layers} layers"),
        Step("Embeddings", f"{made.embeddings.width}", "numbers a cell"),
        Step("Activations", f"{cache.n_tokens:,}", f"tokens at {made.inputs.hook}"),
        Step(
            "Autoencoder",
            f"{facts['n_features']:,}",
            f"features, {facts['mean_active_features']:.0f} active a token",
        ),
        Step("Feature tables", f"{facts['n_features_fired']:,}", "features that fire"),
    )


def _short(count: int) -> str:
    return f"{count / 1e6:.2g} M" if count >= 1e5 else f"{count / 1e3:.2g} k"


def _curves(made: Made) -> tuple[Curve, ...]:
    encoder, autoencoder = made.encoder_curve, made.autoencoder_curve
    heads = (
        ("from the gene's own token", "mse"),
        ("from the cell's embedding", "mvc_mse"),
        ("always saying the mean", "baseline_mse"),
    )
    fvu = _column(autoencoder, "fvu")
    return (
        Curve(
            title="Encoder",
            note="Squared error on the hidden genes, in expression bins (1 to 50); mean of nearby steps",
            x_label="step",
            series=tuple(_series(encoder, name, column) for name, column in heads),
            summary=_summary("Error on hidden genes", _column(encoder, "mse")),
        ),
        Curve(
            title="Sparse autoencoder",
            note="Share of the variance it does not explain, and of features that have gone silent",
            x_label="step",
            series=(
                _series(autoencoder, "variance not explained", "fvu"),
                _series(autoencoder, "silent features", "dead_fraction"),
            ),
            summary=_summary("Variance not explained", fvu),
            start=0.0,
        ),
    )


def _measures(measures: dict[str, float], width: int) -> tuple[Measure, ...]:
    def share(name: str) -> str:
        return f"{100 * measures[name]:.1f} %"

    return (
        Measure(
            "Encoder embeddings",
            share("neighbour_accuracy_embeddings"),
            f"of cells get their cell type from neighbours; {width} dimensions",
            ours=True,
        ),
        Measure(
            "PCA of log counts", share("neighbour_accuracy_pca"), f"the same with {COMPONENTS} components"
        ),
        Measure("Commonest cell type", share("majority_share"), "right without looking at the cell"),
        Measure(
            "Variance explained",
            f"{100 * (1 - measures['variance_unexplained']):.1f} %",
            "of the activations, by the few features active on a token",
            ours=True,
        ),
    )


def _commands(folder: Path) -> tuple[Command, ...]:
    return (
        Command("syncytium check CELLS.h5ad", "What is wrong with the file, and how to fix it."),
        Command("syncytium ingest CELLS.h5ad --output my/cells", "Raw counts to a cell store."),
        Command(
            "syncytium embed --cells my/cells --model MODEL --output my/embeddings",
            "MODEL: a Tahoe-x1 or Geneformer directory as downloaded. anndata.read_zarr opens the result.",
        ),
        Command(
            "syncytium cache --cells my/cells --model MODEL --hooks resid_post_6 --output my/cache",
            "What the model holds after its seventh block, token by token.",
        ),
        Command(
            "syncytium train-sae --cache my/cache --width 16384 --steps 20000 --output my/autoencoder",
            "A sparse autoencoder on those activations.",
        ),
        Command(
            "syncytium features --sae my/autoencoder --cache my/cache --cells my/cells --label cell_type "
            "--output my/features",
            "What each feature responds to, as tables.",
        ),
    )


def _curve_of(output: Path) -> pa.Table:
    table = read_metrics(Location.of(output))
    if table is None or table.num_rows == 0:
        raise DamagedDataset(f"{output}: the training curve (metrics.parquet) is missing")
    return table


def _column(curve: pa.Table, name: str) -> np.ndarray:
    return np.asarray(curve[name].to_numpy(zero_copy_only=False), dtype=np.float64)


def _series(curve: pa.Table, name: str, column: str) -> Series:
    """At most 80 points, each the mean of the steps around it: single batches of eight cells are noise."""
    groups = np.array_split(np.arange(curve.num_rows), min(CURVE_POINTS, curve.num_rows))
    step, values = _column(curve, "step"), _column(curve, column)
    return Series(
        name,
        [float(round(step[group].mean())) for group in groups],
        [float(f"{values[group].mean():.4g}") for group in groups],
    )


def _summary(what: str, values: np.ndarray) -> str:
    ends = max(1, len(values) // 20)
    return f"{what}: from {values[:ends].mean():.3g} at the start to {values[-ends:].mean():.3g} at the end"
