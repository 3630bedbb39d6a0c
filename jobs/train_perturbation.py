"""`syncytium train-perturbation`: a predictor of what perturbations do, from a screen in a cell store."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from jobs.anatomy import Outcome, comma_separated, launch
from jobs.anatomy.training import TrainingFlags, train_job
from jobs.compare_saes import Paths
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.options import TrainingOptions
    from engine.training.recipes.perturbation import PerturbationRecipe


@dataclass(kw_only=True)
class ScreenFlags:
    """What the cells are, and what is held out."""

    cells: str
    """Cell store of the screen, as `ingest` writes it."""
    perturbation: str
    """obs column that names what was done to each cell: a gene, a drug, or several joined by `+`."""
    control: str
    """Label of unperturbed cells in that column."""
    context: str | None = None
    """obs column of the context (cell type, line). Default: all cells are of one."""
    drug_vectors: str | None = None
    """Table of drugs: a column drug, and a column fingerprint of zeros and ones or columns of numbers."""
    dose: str | None = None
    """obs column of the dose of a cell's drug, empty for genes; it enters as log(1 + dose)."""
    split: Literal["perturbation", "context"] = "perturbation"
    """What is held out: whole targets, with every dose and combination of one, or whole contexts."""
    held_out: str | None = None
    """Targets (or contexts) to hold out, e.g. STAT1,JAK2. Default: a share drawn by --seed."""
    hold_out_share: float = 0.2
    """Share of targets (or contexts) to hold out; 0: train on all."""
    gene_sets: Paths = field(default_factory=list)
    """GMT files (Reactome, Hallmark, GO ...): what is known of targets that were never perturbed."""
    gene_positions: str | None = None
    """Table with columns gene, chromosome, start, or a GTF: genes are read along the genome. Default: in the
    order of the store."""


@dataclass(kw_only=True)
class ModelFlags:
    """What is trained."""

    head: Literal["linear", "probabilistic"] = "linear"
    """linear: log-normalised expression, squared error. probabilistic: counts, negative binomial."""
    d_model: int = 16
    """Width. Larger models need more perturbations than screens of tens of targets have."""
    layers: int = 2
    """Bidirectional Mamba layers."""
    d_state: int = 16
    """State of a Mamba head."""
    block: Literal["mamba2", "mamba1"] = "mamba2"
    """Kind of Mamba block."""
    members: int = 4
    """Models trained together, each without some targets: on these it is seen how far to trust them, and
    their spread is part of the uncertainty."""
    prior: bool = True
    """Start from a closed-form guess (mean effect, relatives by --gene-sets, the target's own fall)."""
    pathway_dim: int = 16
    """Codes of genes by an autoencoder over control cells."""
    set_components: int = 32
    """Components of gene-set memberships among a gene's features, with --gene-sets."""
    conditions: int = 8
    """Perturbations of one optimiser step, over all workers."""
    cells_per_condition: int | None = None
    """Cells drawn of each; 0: the mean of all its cells. Default: 0 (linear), 64 (probabilistic)."""
    identity_dropout: float = 1.0
    """Share of training conditions whose targets are known by their features alone."""
    checkpoint_layers: bool = False
    """Compute layers again in the backward pass: memory of one layer instead of all."""
    original: bool = False
    """The layout of the virtual_cell prototype, without its defects; sizes are its own."""


@dataclass(kw_only=True)
class PlanFlags:
    """Asking first what it will take."""

    dry_run: bool = False
    """Print parameters, memory, traffic and hours of the run and train nothing."""
    genes: int | None = None
    """With --dry-run: genes of the store, where there is none yet to look at."""
    gpu_memory: float | None = None
    """With --dry-run: GB of each GPU; exit code 2 when the run needs more. Default: an H200's 141."""


@dataclass(kw_only=True)
class PerturbationTraining(TrainingFlags):
    """How to train, and where."""

    steps: int = 60
    """Optimiser steps. Screens of tens of targets are learned by heart in a hundred."""
    judge_every: int = 20
    """Steps between looks at what is held out (held_out_... in the curve), each with a checkpoint."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices: screens are small."""


@dataclass(kw_only=True)
class Options(ScreenFlags, ModelFlags, PlanFlags, PerturbationTraining):
    """Train a predictor of perturbation effects and score it on what was held out, beside baselines.

    Writes the model directory, metrics.json (held-out metrics of the model and of every baseline), the table
    evaluation/held_out.parquet and the page evaluation/index.html with a plot a perturbation, the training
    curve (metrics.parquet) and checkpoints. --lr defaults to 1e-3, cosine to 0.
    """

    GROUPS: ClassVar[dict[str, type]] = {
        "screen": ScreenFlags,
        "model": ModelFlags,
        "plan": PlanFlags,
        "training": PerturbationTraining,
    }


# Of the original's preset; genes, head, pathways and contexts are the screen's and the flags'.
ORIGINAL_SIZES = (
    *("d_model", "n_layers", "d_state", "headdim", "condition_dim", "gene_identity_dim"),
    *("locus_frequencies", "tie", "residual", "mean_response"),
)


def run(options: Options) -> Outcome:
    if not options.dry_run and (options.genes or options.gpu_memory):
        raise InputError("--genes and --gpu-memory: belong to --dry-run.")
    if options.dry_run:
        return _dry_run(options)
    output = options.output_location
    recipe = _recipe(options)
    outcome = train_job("train-perturbation", options, recipe, _training(options))
    metrics = json.loads(output.read("metrics.json"))
    outcome.counts_in = {"training": metrics["n_training"], "held_out": metrics["n_held_out"]}
    outcome.counts_out |= {"members": recipe.members}
    outcome.facts |= {"metrics": metrics}
    return outcome


def _training(options: Options) -> "TrainingOptions":
    return options.training_options(batch=options.conditions, lr=1e-3, decay="cosine", betas=(0.9, 0.95))


def _recipe(options: Options) -> "PerturbationRecipe":
    from engine.models import bimamba
    from engine.training.recipes.perturbation import plan
    from engine.training.recipes.perturbation.measured import ScreenSource

    sizes = _sizes(options)
    if options.original:
        preset = bimamba.original(1)
        sizes = {name: getattr(preset, name) for name in ORIGINAL_SIZES}
    return plan(
        ScreenSource(
            options.cells,
            options.perturbation,
            options.control,
            options.context,
            options.max_cells,
            options.dose,
        ),
        options.split,
        head=options.head,
        held_out=comma_separated(options.held_out or ""),
        hold_out_share=options.hold_out_share,
        sizes=sizes,
        members=options.members,
        cells_per_condition=options.cells_per_condition,
        uses_prior=options.prior,
        gene_sets=[path for paths in options.gene_sets for path in paths],
        positions=options.gene_positions,
        n_codes=50 if options.original else options.pathway_dim,
        n_components=0 if options.original else options.set_components,
        checkpoint_layers=options.checkpoint_layers,
        drug_vectors=options.drug_vectors,
        judge_every=options.judge_every,
        seed=options.seed,
    )


def _sizes(options: Options) -> dict[str, object]:
    inner = 2 * options.d_model
    return {
        "d_model": options.d_model,
        "n_layers": options.layers,
        "d_state": options.d_state,
        "block": options.block,
        "headdim": next(size for size in (64, 32, 16, 8, 4, 2, 1) if inner % size == 0),
        "condition_dim": max(options.d_model, 16),
        "gene_identity_dim": min(64, options.d_model),
        "identity_dropout": options.identity_dropout,
        # The prior has the mean effect already.
        "mean_response": not options.prior,
    }


def _dry_run(options: Options) -> Outcome:
    from engine.models import bimamba
    from engine.training.plan import H200, of_perturbation

    if options.genes:
        shape = {"n_genes": options.genes, "head": options.head, "pathway_dim": options.pathway_dim}
        sizes = {} if options.original else _sizes(options)
        config = (
            bimamba.original(options.genes)
            if options.original
            else bimamba.PerturbationConfig(**{**shape, **sizes})  # type: ignore[arg-type]
        )
    else:
        config = _recipe(options).config
    plan = of_perturbation(
        config,
        training=_training(options),
        members=options.members,
        checkpoint_layers=options.checkpoint_layers,
        cells_per_condition=options.cells_per_condition or 0,
        hardware=H200 if options.gpu_memory is None else H200.with_memory(options.gpu_memory * 1e9),
    )
    print(plan.text())
    plan.require_fits()
    return Outcome(counts_out={"plans": 1}, facts={"dry_run": plan.as_json()})


def main(argv: Sequence[str] | None = None) -> int:
    return launch("train-perturbation", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
