"""`syncytium perturb-in-silico`: what deleting or overexpressing genes, or a drug, does to an encoder's
cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.perturbing.run import Request
    from engine.streaming.inputs import ModelFacts


@dataclass(kw_only=True)
class Options(JobOptions):
    """Delete or overexpress genes in the tokens of cells, or change their drug, and tabulate how far each
    cell's embedding moves, and whether towards a goal state, gene by gene or drug by drug."""

    cells: str
    """Cell store, as `ingest` writes it."""
    model: str
    """Encoder directory: Geneformer or Tahoe-x1."""
    kind: Literal["delete", "overexpress", "drug"] = "delete"
    """delete: the gene's token is gone. overexpress: it comes first (Geneformer) or has the highest value
    (Tahoe-x1), in cells that do not express it too. drug: the cell's drug token is another (Tahoe-x1 with its
    drug table)."""
    drugs: str | None = None
    """With --kind drug: names in the model's table, separated by commas; each is a perturbation."""
    base_drug: str | None = None
    """With --kind drug: what unperturbed cells were given, e.g. DMSO_TF. Default: not known."""
    genes: str = "all"
    """Gene symbols or ids, separated by commas; all: every gene of the store that the model knows. Each is a
    perturbation of its own."""
    together: bool = False
    """Perturb all of --genes at once."""
    label: str | None = None
    """obs column of states; needs --goal."""
    goal: str | None = None
    """Value of --label that cells could be moved to: its cells' mean embedding."""
    start: str | None = None
    """Value of --label whose cells are perturbed. Default: all that are not in the goal."""
    goal_cells: int = 2000
    """At most so many cells stand for the goal."""
    layer: int | None = None
    """Block whose output is pooled to the cell embedding. Default: the model's convention."""
    pool: Literal["cls", "mean"] | None = None
    """How it is pooled. Default: the model's convention."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. Default: the model's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the encoder computes in."""
    actors: int | None = None
    """At most so many encoders at once. Default: as many as the cluster has room for."""
    threads: int = 1
    """CPU threads of each encoder."""
    batch_tokens: int = 8192
    """Budget of a packed batch of perturbed cells."""


def run(options: Options) -> Outcome:
    from engine.interpret.perturbing.run import perturb_cells
    from engine.streaming.inputs import Inputs
    from jobs.anatomy.streaming import outcome_of, recipe_of, workers_of

    output = options.output_location
    workers = workers_of(options.address, options.actors, options.threads)
    request = _request(options)
    inputs = Inputs.open(options.cells, options.model, options.max_cells, drug_token=options.kind == "drug")
    _require_fit(options, inputs.model)
    recipe = recipe_of(
        inputs,
        max_tokens=options.max_tokens,
        precision=options.precision,
        seed=options.seed,
        batch_tokens=options.batch_tokens,
        tensor_parallel=1,
    )
    encoding = perturb_cells(
        inputs,
        request,
        output,
        recipe=recipe,
        workers=workers,
        overwrite=options.overwrite,
        report=ProgressLine("perturb-in-silico"),
    )
    outcome = outcome_of(encoding, inputs)
    facts = encoding.snapshot.facts
    names = {"cells": "n_cells", "perturbations": "n_perturbations", "pairs": "n_pairs"}
    outcome.counts_out = {name: facts[fact] for name, fact in names.items()}
    return outcome


def _request(options: Options) -> "Request":
    """What is asked, as far as it can be checked without opening anything."""
    from engine.interpret.perturbing import States
    from engine.interpret.perturbing.run import Request

    if (options.label is None) != (options.goal is None) or (options.start and not options.goal):
        raise InputError("--label and --goal belong together (and --start needs both); give both or none.")
    if options.goal_cells < 1:
        raise InputError(f"--goal-cells is {options.goal_cells}; it must be at least 1.")
    of_drugs = options.kind == "drug"
    if of_drugs != (options.drugs is not None) or (options.base_drug and not of_drugs):
        raise InputError("--drugs (and --base-drug) belong to --kind drug, which needs them.")
    if of_drugs and (options.genes != "all" or options.together):
        raise InputError("--genes and --together: not with --kind drug, which changes no gene.")
    states = None
    if options.label is not None and options.goal is not None:
        states = States(options.label, options.goal, options.start)
    return Request(
        kind=options.kind,
        genes=None if options.genes == "all" else comma_separated(options.genes),
        together=options.together,
        states=states,
        goal_cells=options.goal_cells,
        layer=options.layer,
        pool=options.pool,
        drugs=comma_separated(options.drugs or ""),
        base_drug=options.base_drug,
    )


def _require_fit(options: Options, model: "ModelFacts") -> None:
    model.layer(options.layer)
    if (options.pool or model.default_pool) == "cls" and not model.has_cell_token:
        raise InputError(f"--pool cls: {options.model} has no cell token; use --pool mean.")


def main(argv: Sequence[str] | None = None) -> int:
    return launch("perturb-in-silico", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
