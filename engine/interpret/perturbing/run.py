"""Perturbing the cells of a store in silico: choose genes and cells, find the goal, stream all pairs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import ray_session
from engine.interpret.inputs import LabelColumn
from engine.interpret.perturbing.edits import Kind, Perturbation, TokenEditor
from engine.interpret.perturbing.goal import States, mean_embedding_on_ray, spread
from engine.interpret.perturbing.product import PerturbedCellsProduct
from engine.streaming.inputs import Inputs
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.run import Encoding, Progress, encode
from storage.activations import gene_table
from storage.errors import InputError
from storage.locations import Location

GOAL_CELLS = 2000


@dataclass(frozen=True)
class Request:
    """What is asked. genes: ids or symbols; None for every gene of the store that the model knows.

    together: all genes at once, as one perturbation. states: start and goal; None for no goal. goal_cells: at
    most so many cells stand for the goal. layer, pool: of embeddings; None for the model's own.
    drugs: names in the model's table of drugs, with kind "drug". base_drug: what unperturbed cells were
    given; None for not known.
    """

    kind: Kind
    genes: tuple[str, ...] | None
    together: bool = False
    states: States | None = None
    goal_cells: int = GOAL_CELLS
    layer: int | None = None
    pool: str | None = None
    drugs: tuple[str, ...] = ()
    base_drug: str | None = None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found if self.kind == "drug" else {key: found[key] for key in found if "drug" not in key}


def perturb_cells(
    inputs: Inputs,
    request: Request,
    output: Location,
    *,
    recipe: Recipe,
    workers: Workers,
    overwrite: bool = False,
    report: Progress | None = None,
) -> Encoding:
    """Write what the perturbations do to every cell to `output`.

    recipe.max_tokens: of a cell as the model sees it. recipe.batch_tokens: budget of a batch of perturbed
    cells; a cell that is longer is a batch.
    Raises InputError before anything is written when a gene, label or pool does not fit.
    """
    perturbations = perturbations_of(inputs, request)
    chosen_C, goal_cells = chosen_cells(inputs, request)
    product = PerturbedCellsProduct(
        request=request.as_json(),
        perturbations=perturbations,
        chosen_C=chosen_C,
        max_tokens=inputs.model.token_limit(recipe.max_tokens),
        batch_tokens=recipe.batch_tokens,
        layer=inputs.model.layer(request.layer),
        pool=request.pool or inputs.model.default_pool,
        goal_D=None,
        base_drug=_drug_row(inputs, request.base_drug) if request.kind == "drug" else None,
        drugs=request.drugs,
    )
    if goal_cells is not None:
        with ray_session.connect(workers.address):
            goal_D = mean_embedding_on_ray(
                inputs, goal_cells, recipe, product.layer, product.pool, product.base_drug
            )
        product = replace(product, goal_D=goal_D)
    return encode(
        inputs,
        product,
        output,
        recipe=recipe_to_read(inputs, product, recipe),
        workers=workers,
        overwrite=overwrite,
        report=report,
    )


def recipe_to_read(inputs: Inputs, product: PerturbedCellsProduct, recipe: Recipe) -> Recipe:
    """The recipe that keeps the tokens which move up when genes are deleted."""
    editor = TokenEditor.of(inputs.model.tokeniser, product.max_tokens)
    return replace(recipe, max_tokens=editor.tokens_to_read(product.perturbations))


def perturbations_of(inputs: Inputs, request: Request) -> tuple[Perturbation, ...]:
    """Raises InputError naming genes or drugs that the model does not know."""
    model = inputs.model
    if request.kind == "drug":
        return tuple(Perturbation("drug", (), _drug_row(inputs, name)) for name in request.drugs)
    table = gene_table(model.tokeniser.gene_ids, model.tokeniser.special_ids, inputs.store.genes)
    if request.genes is None:
        if request.together:
            raise InputError("--together needs --genes: all genes at once leave nothing of a cell.")
        columns = inputs.match.column_to_token
        tokens = np.unique(columns[columns >= 0]).tolist()
    else:
        genes = table[table["class"] == "gene"]
        known: dict[str, int] = {}
        for column in ("gene_name", "gene_id"):
            known |= dict(zip(genes[column].astype(str), genes.index.astype(int), strict=True))
        missing = [name for name in request.genes if name not in known]
        if missing or not request.genes:
            raise InputError(f"--genes: the model knows no gene {', '.join(missing[:5]) or '(none given)'}.")
        tokens = list(dict.fromkeys(known[name] for name in request.genes))
    if request.together:
        return (Perturbation(request.kind, tuple(tokens)),)
    return tuple(Perturbation(request.kind, (int(token),)) for token in tokens)


def _drug_row(inputs: Inputs, name: str | None) -> int:
    """Row of a drug in the model's table; the unknown drug's for None."""
    table: dict[str, int] = getattr(inputs.model.tokeniser, "drugs", {})
    if name is None:
        return int(inputs.model.tokeniser.drug_ids([None])[0])  # type: ignore[attr-defined]
    if name not in table:
        known = ", ".join(list(table)[:8]) + (", ..." if len(table) > 8 else "")
        raise InputError(f"--drugs {name}: {inputs.model.path} knows no such drug; it has {known or 'none'}.")
    return table[name]


def chosen_cells(
    inputs: Inputs, request: Request
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64] | None]:
    """Which cells are perturbed, and which stand for the goal (None without one)."""
    if request.states is None:
        return np.ones(inputs.n_cells, bool), None
    states = request.states
    label = LabelColumn.read(inputs.store, states.label)
    code_C = label.code_C[: inputs.n_cells]
    goal = _number(label, states.goal, "goal")
    start_C = code_C != goal if states.start is None else code_C == _number(label, states.start, "start")
    goal_cells = np.flatnonzero(code_C == goal)
    if states.start == states.goal:
        raise InputError(f"--start and --goal are both {states.goal}; cells cannot move to where they are.")
    if not start_C.any() or not len(goal_cells):
        raise InputError(
            f"--label {states.label}: of the first {inputs.n_cells:,} cells {int(start_C.sum())} are to be "
            f"moved and {len(goal_cells)} are in the goal; both must be some."
        )
    return start_C, spread(goal_cells, request.goal_cells)


def _number(label: LabelColumn, value: str, flag: str) -> int:
    if value not in label.labels:
        known: Any = ", ".join(label.labels[:10]) + (" ..." if len(label.labels) > 10 else "")
        raise InputError(f"--{flag} {value}: {label.name} has no such value; it has {known}.")
    return label.labels.index(value)
