"""`syncytium compare-saes`: which features sparse autoencoders share, over seeds, layers and models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import tyro

from jobs.anatomy import JobOptions, Outcome, ProgressLine, launch
from storage.errors import InputError

# Given more than once, or with several values, or both.
Paths = tyro.conf.UseAppendAction[list[tuple[str, ...]]]


@dataclass(kw_only=True)
class Options(JobOptions):
    """Match the features of every two autoencoders, and score each feature by how many of the others have it.

    Of the same activations (seeds, widths, architectures) by the direction a feature writes; of other layers
    or models by what it fires on: the same gene of the same cell in caches of one cell store.
    """

    sae: Paths
    """Autoencoder directory; give two or more: --sae A --sae B."""
    cache: Paths = field(default_factory=list)
    """Activation cache that holds what the autoencoders read, one for each model. Needed for other layers and
    models; adds to any comparison which features fire, and how much alike cells look (CKA)."""
    by: Literal["auto", "decoder", "tokens", "cells"] = "auto"
    """decoder: cosine of decoder directions. tokens, cells: correlation of activations, token by token or as
    means of cells. auto: decoder for the same activations, else tokens."""
    same_above: float = 0.7
    """Similarity above which two features count as the same."""
    tokens: int = 500_000
    """With --cache: tokens compared, of cells from all over the store."""
    candidates: int = 8
    """Partners kept of every feature for the one-to-one assignment."""


def run(options: Options) -> Outcome:
    from engine.interpret.comparison import ComparisonOptions, compare, open_subjects

    output = options.output_location
    if not 0 < options.same_above < 1:
        raise InputError(f"--same-above is {options.same_above}; it must be between 0 and 1.")
    for flag in ("tokens", "candidates"):
        if getattr(options, flag) < 1:
            raise InputError(f"--{flag} is {getattr(options, flag)}; it must be at least 1.")
    chosen = ComparisonOptions(
        options.by, options.same_above, options.tokens, options.candidates, options.max_cells
    )
    subjects = open_subjects(_paths(options.sae), _paths(options.cache), chosen)
    result = compare(
        subjects, chosen, output, overwrite=options.overwrite, report=ProgressLine("compare-saes")
    )
    pairs = result.metrics["pairs"]
    return Outcome(
        lineage=result.snapshot.lineage_id,
        counts_in={"autoencoders": len(subjects)},
        counts_out={"pairs": len(pairs), "features": result.snapshot.facts["n_features"]},
        facts=result.metrics,
        did_work=result.did_work,
    )


def _paths(given: list[tuple[str, ...]]) -> list[str]:
    return [path for paths in given for path in paths]


def main(argv: Sequence[str] | None = None) -> int:
    return launch("compare-saes", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
