"""`syncytium predict-perturbation`: predicted cells of perturbations nobody has made, as AnnData."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from jobs.anatomy import JobOptions, Outcome, ProgressLine, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.perturbation.labels import Contract
    from engine.perturbation.predictor import Predictor
    from engine.perturbation.screen import Screen


@dataclass(kw_only=True)
class Options(JobOptions):
    """Writes one .h5ad file to --output: cells drawn around each predicted mean, and in `varm` the mean, its
    difference from the control and its uncertainty, gene by gene.

    The state before the perturbation is that of the control cells in --cells, context by context.
    """

    model: str
    """Model directory, as `train-perturbation` writes it."""
    cells: str
    """Cell store with control cells over the model's genes: the training store, or one of new contexts."""
    perturbations: str
    """Genes, combinations joined by `+` and drugs with their dose, separated by commas, or a file of lines:
    STAT1,STAT1+IRF1,drug@0.5."""
    drug_vectors: str | None = None
    """Further drugs, as `train-perturbation` takes them."""
    contract: Literal["cell-eval", "vcc2025", "vcc2026", "gears", "scperturb", "state"] = "cell-eval"
    """Column names, control label and scale of the file."""
    cells_per_perturbation: int = 400
    """Cells drawn of each perturbation and context. 0: one row, the mean itself (log1p contracts only)."""
    perturbation: str | None = None
    """obs column of --cells that marks control cells. Default: the one the model was trained with."""
    control: str | None = None
    """Label of control cells. Default: the one the model was trained with."""
    context: str | None = None
    """obs column of the context. Default: the one the model was trained with."""


def run(options: Options) -> Outcome:
    from engine.perturbation import labels, predictions
    from engine.perturbation.predictor import Predictor
    from storage.checkpoints import fingerprint
    from storage.ingest.scan import fingerprint_of_input

    if not options.output or not options.output.endswith(".h5ad"):
        raise InputError(f"--output {options.output}: give a file name that ends in .h5ad.")
    output, contract = options.output_location, labels.CONTRACTS[options.contract]
    n = options.cells_per_perturbation
    if n < 0 or (n == 0 and contract.counts):
        raise InputError(
            f"--cells-per-perturbation {n}: at least 1 for --contract {options.contract}, which wants cells "
            "of integer counts; 0 (one row, the mean) only for contracts of log1p values."
        )
    predictor = Predictor.load(options.model)
    if options.drug_vectors:
        predictor.drugs = predictor.drugs.and_those_of(options.drug_vectors)
    screen = _controls(options, predictor)
    asked = predictions.asked(options.perturbations)
    targets = [labels.targets(label, screen.control) for label in asked]
    empty = [label for label, names in zip(asked, targets, strict=True) if not names]
    if empty:
        raise InputError(f"--perturbations {', '.join(empty)}: the control is no perturbation.")
    for warning in predictor.require_known(targets):
        print(f"warning: {warning}", file=sys.stderr)
    lineage = predictions.lineage_of(
        model=fingerprint(options.model),
        drugs=fingerprint_of_input(options.drug_vectors) if options.drug_vectors else None,
        cells=screen.where,
        control=screen.control,
        contexts=sorted({str(one) for one in screen.contexts}),
        perturbations=asked,
        contract=options.contract,
        cells_per_perturbation=n,
        seed=options.seed,
    )
    contexts = sorted(context for context, label in screen.groups if label == screen.control)
    counts_out = {"perturbations": len(asked) * len(contexts)}
    if predictions.is_there(output, lineage, overwrite=options.overwrite):
        return Outcome(lineage=lineage, counts_out=counts_out, did_work=False, writes_record=False)
    n_cells = _write(options, predictor, screen, asked, contexts, contract, lineage)
    return Outcome(
        lineage=lineage,
        counts_in={"control_cells": int((screen.perturbations == screen.control).sum())},
        counts_out={**counts_out, "cells": n_cells},
        writes_record=False,
    )


def _controls(options: Options, predictor: "Predictor") -> "Screen":
    """The cells before the perturbation. Raises InputError when their genes are not the model's."""
    from engine.perturbation.screen import open_store
    from storage.cells import CellStore

    facts = predictor.facts
    screen = open_store(
        CellStore.open(options.cells),
        perturbation=options.perturbation or facts.perturbation_column,
        control=options.control or facts.control,
        context=options.context or facts.context_column,
        max_cells=options.max_cells,
    )
    missing = sorted(set(predictor.genes) - set(screen.genes))
    if missing:
        raise InputError(
            f"{options.cells}: lacks {len(missing):,} of the model's {len(predictor.genes):,} genes "
            f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); ingest it with the gene list "
            "of the training store."
        )
    return screen


def _write(
    options: Options,
    predictor: "Predictor",
    screen: "Screen",
    asked: Sequence[str],
    contexts: Sequence[str],
    contract: "Contract",
    lineage: str,
) -> int:
    from scipy import sparse

    from engine.perturbation import labels
    from engine.perturbation.differential import mean_of
    from engine.perturbation.drawn_cells import DrawnCells
    from engine.perturbation.normalise import log_normalised
    from engine.perturbation.predictions import PredictionFile, on_scale

    number = {gene: place for place, gene in enumerate(screen.genes)}
    columns = np.array([number[gene] for gene in predictor.genes])
    report, rng = ProgressLine("predict-perturbation"), np.random.default_rng(options.seed)
    targets = [labels.targets(label, screen.control) for label in asked]
    doses = [labels.dose(label) for label in asked]
    done, total = 0, len(asked) * len(contexts)
    with PredictionFile(options.output_location, predictor.genes, contract, lineage) as file:
        for context in contexts:
            ((_, control_CG),) = screen.stream([(context, screen.control)])
            control_CG = control_CG[:, columns]
            control_G = mean_of(log_normalised(control_CG))
            effects = predictor.predict(control_G, targets, context, doses)
            drawn = DrawnCells(control_CG)
            for place, label in enumerate(asked):
                parts = labels.parts(label, screen.control)
                mean_G = effects.mean_QG[place]
                if options.cells_per_perturbation:
                    cells_CG = on_scale(drawn.draw(mean_G, options.cells_per_perturbation, rng), contract)
                else:
                    cells_CG = sparse.csr_matrix(mean_G[None, :])
                file.add(cells_CG, parts, screen.control, context)
                file.describe(
                    f"{context}|{labels.TOGETHER.join(parts)}",
                    mean=mean_G,
                    delta=effects.delta_QG[place],
                    uncertainty=effects.uncertainty_QG[place],
                )
                done += 1
                report(done, total, "perturbations")
            if contract.control is not None:
                file.add(on_scale(control_CG, contract), (), screen.control, context)
        return file.n_cells


def main(argv: Sequence[str] | None = None) -> int:
    return launch("predict-perturbation", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
