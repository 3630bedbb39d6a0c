"""`syncytium features`: what the features of a sparse autoencoder fire on: genes, cells, labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.anatomy import JobOptions, Outcome, ProgressLine, launch
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """Feature tables (parquet) with each feature's top genes, top cells and label enrichment, and the files
    feature_gene_associations.json and feature_cell_associations.json."""

    sae: str
    """Autoencoder directory: SAELens' format, as `train-sae` writes it."""
    cache: str
    """Activation cache of the autoencoder's model at its hook point."""
    cells: str
    """Cell store the cache was made from: names of cells, and their labels."""
    label: str | None = None
    """obs column whose values are tested for enrichment, e.g. cell_type. Default: none."""
    hook: str | None = None
    """Hook point of the cache to read. Default: the one the autoencoder was trained at."""
    top_genes: int = 100
    """Genes listed per feature."""
    top_cells: int = 100
    """Cells listed per feature."""
    min_gene_tokens: int = 1
    """Leave genes with fewer tokens than this out of the ranking; a mean over two tokens says little."""


def run(options: Options) -> Outcome:
    from engine.interpret.inputs import FeatureInputs
    from engine.interpret.run import FeatureOptions, explain

    output = options.output_location
    for flag in ("top_genes", "top_cells", "min_gene_tokens"):
        if getattr(options, flag) < 1:
            raise InputError(
                f"--{flag.replace('_', '-')} is {getattr(options, flag)}; it must be at least 1."
            )
    inputs = FeatureInputs.open(
        options.sae,
        options.cache,
        options.cells,
        hook=options.hook,
        label=options.label,
        max_cells=options.max_cells,
    )
    result = explain(
        inputs,
        FeatureOptions(options.top_genes, options.top_cells, options.min_gene_tokens),
        output,
        address=options.address,
        overwrite=options.overwrite,
        report=ProgressLine("features"),
    )
    facts = result.snapshot.facts
    return Outcome(
        lineage=result.snapshot.lineage_id,
        counts_in={"tokens": inputs.cache.n_tokens, "cells": inputs.n_cells, "features": inputs.n_features},
        counts_out={"features_fired": facts["n_features_fired"], "gene_tokens": facts["n_gene_tokens"]},
        throughput={"tokens_per_second": round(result.n_tokens / max(result.seconds, 1e-9), 1)},
        facts={"hook": inputs.hook, "label": options.label, **facts},
        did_work=result.did_work,
        peak_memory_bytes=result.peak_memory_bytes,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("features", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
