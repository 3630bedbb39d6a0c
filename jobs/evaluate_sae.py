"""`syncytium evaluate-sae`: how good a sparse autoencoder is, every number beside its baselines'."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from jobs.compare_saes import Paths
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """metrics.json and tables (parquet): variance unexplained, L0, densities, labels told apart, sparse
    probes; with --model also what the encoder loses; with --against which features come back.

    Beside the autoencoder stand a random one, one with a frozen random decoder, PCA and the encoder's own
    neurons, with as many active features a token.
    """

    sae: str
    """Autoencoder directory: SAELens' format, as `train-sae` writes it."""
    cache: str
    """Activation cache of the autoencoder's model at its hook point; best of cells it was not trained on."""
    cells: str | None = None
    """Cell store the cache was made from: labels, and groups of cells."""
    model: str | None = None
    """Encoder directory, with --cells: reconstructions are spliced into it."""
    label: str | None = None
    """obs column that features are tested against, e.g. cell_type."""
    group: str | None = None
    """obs column of donors or datasets, held out by probes and reported one by one. Default: donor, dataset,
    batch or sample, if there; else the members of the store."""
    against: Paths = field(default_factory=list)
    """Autoencoders of other seeds: how many features they share."""
    hook: str | None = None
    """Hook point to read. Default: the one the autoencoder was trained at."""
    tokens: int = 2_000_000
    """About so many tokens are looked at, those of whole cells drawn by --seed; 0 for all. A feature is only
    dead when it is silent on 10 million."""
    probe_cells: int = 4096
    """Cells that sparse probes are trained and tested on."""
    downstream_cells: int = 512
    """With --model: cells that go through the encoder."""
    frozen_steps: int | None = None
    """Steps of 2,048 tokens the frozen decoder's encoder is trained for. Default: for as many tokens as the
    autoencoder was, but no more than two million."""
    baselines: str = "random_sae,frozen_decoder,pca,neurons"
    """Leave some out where they cost too much: the two autoencoders are as wide as the evaluated one."""


def run(options: Options) -> Outcome:
    from engine.interpret.evaluation.baselines import BASELINES
    from engine.interpret.evaluation.inputs import EvaluationInputs
    from engine.interpret.evaluation.options import EvaluationOptions, default_frozen_steps
    from engine.interpret.evaluation.run import evaluate

    output = options.output_location
    for flag, least in (("tokens", 0), ("probe_cells", 1), ("downstream_cells", 1), ("frozen_steps", 1)):
        value = getattr(options, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag.replace('_', '-')} is {value}; it must be at least {least}.")
    asked = comma_separated(options.baselines)
    unknown = sorted(set(asked) - set(BASELINES))
    if unknown:
        raise InputError(f"--baselines {', '.join(unknown)}: there are {', '.join(BASELINES)}.")
    inputs = EvaluationInputs.open(
        options.sae,
        options.cache,
        cells_path=options.cells,
        model_path=options.model,
        label=options.label,
        group=options.group,
        hook=options.hook,
        against=[path for paths in options.against for path in paths],
        max_cells=options.max_cells,
    )
    result = evaluate(
        inputs,
        EvaluationOptions(
            tokens=options.tokens or None,
            probe_cells=options.probe_cells,
            downstream_cells=options.downstream_cells,
            frozen_steps=options.frozen_steps or default_frozen_steps(inputs.config.metadata),
            seed=options.seed,
            baselines=tuple(name for name in BASELINES if name in asked),
        ),
        output,
        address=options.address,
        overwrite=options.overwrite,
        report=ProgressLine("evaluate-sae"),
    )
    window, warnings = result.metrics["window"], result.metrics["warnings"]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return Outcome(
        lineage=result.snapshot.lineage_id,
        counts_in={"tokens": inputs.cache.n_tokens, "cells": inputs.n_cells},
        counts_out={
            "tokens": window["tokens"],
            "dictionaries": len(result.metrics["dictionaries"]),
        },
        throughput={"tokens_per_second": round(window["tokens"] / max(result.seconds, 1e-9), 1)},
        facts={"hook": inputs.hook, "label": options.label, "warnings": warnings, **result.metrics},
        did_work=result.did_work,
        peak_memory_bytes=result.peak_memory_bytes,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("evaluate-sae", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
