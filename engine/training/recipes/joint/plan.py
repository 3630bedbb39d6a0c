"""From flags to a recipe of joint training: everything that can be refused is refused here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from engine.captions import CaptionSource
from engine.models import joint
from engine.models.errors import ModelError
from engine.models.joint.config import JointConfig
from engine.streaming.inputs import Inputs
from engine.training.recipes.joint.pairs import usable
from engine.training.recipes.joint.recipe import JointRecipe
from storage.cell_order import Balance
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError
from storage.locations import Location
from storage.shuffled_cells import balance_of

CELLS, TEXTS, WEIGHTS = "features/cells", "features/texts", "features/weights.npz"


class Planned(NamedTuple):
    """A recipe, and how many cells it learns from and holds out (some may turn out to have no tokens)."""

    recipe: JointRecipe
    n_learnt: int
    n_held_out: int


def plan(
    cells: str,
    captions: CaptionSource,
    cell_tower: str,
    text_tower: str,
    output: Location,
    *,
    cell_features: str | None = None,
    weigh_by_radius: bool = False,
    max_cells: int | None = None,
    **others: Any,
) -> Planned:
    """Check inputs and make the recipe. Raises InputError or ModelError before anything is written.

    output: where features of locked towers will be. cell_features: embeddings of these cells by this tower.
    others: of JointRecipe.
    """
    inputs = Inputs.open(cells, cell_tower, max_cells)
    if inputs.model.joint is not None:
        raise InputError(
            f"--cell-tower {cell_tower}: is a joint model; give its cell tower, {cell_tower}/cell."
        )
    found = captions.read(inputs.store, inputs.n_cells)
    recipe = JointRecipe(
        cells=cells,
        dataset_id=inputs.store.dataset_id,
        n_cells=inputs.n_cells,
        captions=captions,
        captions_id=found.lineage,
        cell_tower=cell_tower,
        cell_fingerprint=inputs.model.fingerprint,
        text_tower=text_tower,
        text_fingerprint=fingerprint(text_tower),
        **others,
    )
    _require_meant(recipe, inputs, cell_features, weigh_by_radius)
    locks = dict(zip(("cell", "text"), recipe.locking, strict=True))
    recipe = replace(
        recipe,
        cell_features=(cell_features or str(output / CELLS)) if locks["cell"] == "L" else None,
        text_features=str(output / TEXTS) if locks["text"] == "L" else None,
        weights=str(output / WEIGHTS) if weigh_by_radius else None,
    )
    _require_module(recipe)
    usable_C = usable(recipe, inputs.store, found)
    if not usable_C.any():
        raise InputError(f"{cells}: no cell has both counts and a caption.")
    held_C = recipe.split.held_out(inputs.store, usable_C, recipe.split_seed)
    if recipe.balance is not None:
        _balance(recipe, inputs)
    n_held_out = int(held_C.sum())
    return Planned(recipe, int(usable_C.sum()) - n_held_out, n_held_out)


def _require_meant(
    recipe: JointRecipe, inputs: Inputs, cell_features: str | None, weigh_by_radius: bool
) -> None:
    if len(recipe.locking) != 2 or set(recipe.locking) - set("LUu"):
        raise ModelError(
            f"--locking {recipe.locking!r}: expected two of L, U and u, cell tower then text tower."
        )
    locked = recipe.locking[0] == "L"
    if cell_features and not locked:
        raise InputError(
            "--cell-features: a cell tower that learns has no fixed features; lock it (--locking L.)."
        )
    if weigh_by_radius and "L" not in recipe.locking:
        raise InputError(
            "--sample-weights radius: needs the features of a locked tower (--locking L. or .L)."
        )
    if not 0 < recipe.thinning <= 1 or (recipe.thinning < 1 and locked):
        raise InputError(
            f"--thinning {recipe.thinning}: a share of a cell's molecules, above 0; below 1 only for a cell "
            "tower that learns."
        )
    if recipe.judge_every < 1 or recipe.patience < 0:
        raise InputError("--judge-every must be at least 1, --patience at least 0.")
    inputs.model.token_limit(recipe.max_tokens)
    inputs.model.layer(recipe.cell_layer)


def _require_module(recipe: JointRecipe) -> None:
    """Checks the objective, widths, LoRA and text tower by making what will be trained, on this machine."""
    JointConfig(1, 1, recipe.width, head=recipe.head, dims=recipe.dims)
    joint.load_text_tower(local_copy(recipe.text_tower), max_tokens=recipe.max_text_tokens)
    recipe.build(seed=0)


def _balance(recipe: JointRecipe, inputs: Inputs) -> Balance:
    return balance_of(inputs.store, str(recipe.balance), recipe.balance_temperature, recipe.n_cells)
