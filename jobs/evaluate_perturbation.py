"""`syncytium evaluate-perturbation`: how good predicted perturbations are, every number beside baselines'."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

ALL = "control,mean_delta,context_mean,same_perturbation,nearest_neighbour,ridge,additive,replicate"


@dataclass(kw_only=True)
class Options(JobOptions):
    """metrics.json, perturbations.parquet and .csv (one row a perturbation and contender), index.html.

    Metrics are those of cell-eval 0.8 (Virtual Cell Challenge 2025) and, where both files hold raw counts,
    of vcc2026. The prediction may cover some of the real perturbations: baselines then know the others.
    """

    real: str
    """AnnData file (.h5ad) of real cells, controls among them."""
    predicted: str
    """AnnData file of predicted cells over the same genes: integer counts or log1p."""
    perturbation: str | None = None
    """obs column that names the perturbation. Default: target_gene, gene, perturbation or condition, if just
    one of them is there."""
    control: str | None = None
    """Label of unperturbed cells. Default: the usual ones, if just one of them is there."""
    context: str | None = None
    """obs column of the context (cell type, line); each is scored by itself. Default: one context."""
    baselines: str = ALL
    """What stands beside the prediction."""
    target_sum: float = 1e4
    """Counts that cells are scaled to before log1p, in files of raw counts."""
    differential: bool = True
    """Test genes of every contender (DES and others); most of the time is spent there."""
    distance_cells: int = 1000
    """Cells of a perturbation that E-distances are taken of, all pairs of them; 0: neither these nor
    clusters."""


def run(options: Options) -> Outcome:
    from engine.perturbation.evaluation.options import EvaluationOptions
    from engine.perturbation.evaluation.run import evaluate
    from engine.perturbation.evaluation.score import Pair
    from engine.perturbation.screen import open_h5ad

    output = options.output_location
    asked = comma_separated(options.baselines)
    unknown = sorted(set(asked) - set(comma_separated(ALL)))
    if unknown:
        raise InputError(f"--baselines {', '.join(unknown)}: there are {ALL}.")
    if not options.target_sum > 0:
        raise InputError(f"--target-sum {options.target_sum}: a number of counts, above 0.")
    if options.distance_cells < 0:
        raise InputError(f"--distance-cells {options.distance_cells}: a number of cells, or 0 for none.")
    real = open_h5ad(
        options.real,
        perturbation=options.perturbation,
        control=options.control,
        context=options.context,
    )
    predicted = open_h5ad(
        options.predicted,
        perturbation=_same_column(options.predicted, options.perturbation),
        control=real.control,
        context=_same_column(options.predicted, options.context, required=True),
        needs_controls=False,
    )
    result = evaluate(
        Pair.of(real, predicted),
        EvaluationOptions(
            baselines=asked,
            depth=options.target_sum,
            differential=options.differential,
            distance_cells=options.distance_cells,
            seed=options.seed,
        ),
        output,
        overwrite=options.overwrite,
        report=ProgressLine("evaluate-perturbation"),
    )
    for warning in result.metrics["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return Outcome(
        lineage=result.snapshot.lineage_id,
        counts_in={"real_cells": real.n_cells, "predicted_cells": predicted.n_cells},
        counts_out={"perturbations": result.metrics["n_perturbations"]},
        facts={name: result.metrics[name] for name in ("contenders", "vcc2026_scores", "warnings")},
        did_work=result.did_work,
    )


def _same_column(path: str, column: str | None, *, required: bool = False) -> str | None:
    """The column asked for, where the prediction has it too; else what its own contract calls it."""
    from storage.sources import h5ad

    with h5ad.open(path) as source:
        there = column in source.obs.columns
    if column is not None and required and not there:
        raise InputError(f"{path}: obs has no column {column!r} (--context).")
    return column if there else None


def main(argv: Sequence[str] | None = None) -> int:
    return launch("evaluate-perturbation", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
