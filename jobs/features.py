"""`syncytium features`: what the features of a sparse autoencoder fire on: genes, cells, labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    score: Literal["mean", "expression", "lift", "t"] = "mean"
    """Ranks the genes: mean activation where the gene occurs; sum of activation x expression (as sae-genomics
    does); how much likelier the feature fires on the gene; Student's t against all other tokens."""
    partners: int = 10
    """Features listed per feature that fire together with it. 0: none."""
    sample_tokens: int = 65_536
    """Tokens sampled to find them."""
    ranges: int | None = None
    """Ranges of features worked on separately, each with its own files. Default: one per 8,192 features."""
    sae_genomics: bool = True
    """Write the two JSON files; with a million features they take gigabytes."""


def run(options: Options) -> Outcome:
    from engine.interpret.cached_pass import CachedPass
    from engine.interpret.inputs import FeatureInputs
    from engine.interpret.run import FeatureOptions, explain
    from engine.interpret.tables import TableOptions

    output = options.output_location
    _require_at_least(options, 1, "top_genes", "top_cells", "min_gene_tokens", "sample_tokens", "ranges")
    _require_at_least(options, 0, "partners")
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
        CachedPass(inputs),
        FeatureOptions(
            TableOptions(options.top_genes, options.score, options.min_gene_tokens, options.partners),
            top_cells=options.top_cells,
            sample_tokens=options.sample_tokens,
            seed=options.seed,
            ranges=options.ranges,
            sae_genomics=options.sae_genomics,
        ),
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
        throughput={"tokens_per_second": round(result.spent.tokens / max(result.seconds, 1e-9), 1)},
        facts={"hook": inputs.hook, "label": options.label, **facts},
        did_work=result.did_work,
        peak_memory_bytes=result.spent.peak_memory_bytes,
    )


def _require_at_least(options: Options, least: int, *flags: str) -> None:
    for flag in flags:
        value = getattr(options, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag.replace('_', '-')} is {value}; it must be at least {least}.")


def main(argv: Sequence[str] | None = None) -> int:
    return launch("features", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
