"""From flags to a recipe of chat training: everything that can be refused is refused here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from engine.models import chat, joint
from engine.streaming.inputs import Inputs
from engine.streaming.joint_embeddings import embed_joint, joint_product
from engine.streaming.recipe import Workers
from engine.streaming.run import Progress
from engine.training.recipes.chat.conversations import Conversation, hash_of, read_conversations
from engine.training.recipes.chat.examples import CellVectors, Examples, examples_of
from engine.training.recipes.chat.recipe import ChatRecipe, Stage
from storage.checkpoints import fingerprint, local_copy
from storage.embeddings import Embeddings
from storage.errors import InputError
from storage.locations import Location

CELLS = "features/cells"
LANGUAGE_MODEL = "language_model"


class Planned(NamedTuple):
    """A recipe, and how many conversations it learns from and holds out."""

    recipe: ChatRecipe
    n_learnt: int
    n_held_out: int


class Sizes(NamedTuple):
    """What a fresh chat model is like. None: what suits the language model."""

    n_tokens: int = 8
    hidden_width: int = 1024
    template: str | None = None
    max_tokens: int = 2048


def plan(
    conversations: str,
    joint_model: str,
    language_model: str | None,
    output: Location,
    *,
    cells: str | None = None,
    embeddings: str | None = None,
    max_cells: int | None = None,
    stage: Stage = "projector",
    lora: int = 0,
    start: str | None = None,
    sizes: Sizes | None = None,
    **others: Any,
) -> Planned:
    """Check inputs and make the recipe. Raises InputError or ModelError before anything is written.

    output: where embeddings of `cells` will be. embeddings: of the cells that conversations name, by this
    joint model. start: chat model to go on with, whose sizes and language model hold. others: of ChatRecipe.
    """
    spoken = read_conversations(conversations)
    joint_fingerprint = fingerprint(joint_model)
    width = joint.load_config(local_copy(joint_model)).width
    if language_model is None and start is None:
        raise InputError("--language-model is missing: a directory of a causal language model.")
    language_model = language_model or str(Location.of(str(start)) / LANGUAGE_MODEL)
    if lora and stage != "full":
        raise InputError("--lora: only a language model that learns has additions; give --stage full.")
    if lora < 0 or others.get("judge_every", 1) < 1 or others.get("patience", 0) < 0:
        raise InputError("--lora and --patience must not be negative, --judge-every must be at least 1.")
    if not 0 <= others.get("held_out_share", 0.1) < 1:
        raise InputError(f"--held-out-share {others['held_out_share']}: a share of the cells, 0 to below 1.")
    config = _config(width, joint_fingerprint, language_model, start, sizes or Sizes())
    made = _embeddings(spoken, joint_model, joint_fingerprint, output, cells, embeddings, max_cells)
    recipe = ChatRecipe(
        conversations=conversations,
        conversations_hash=hash_of(conversations),
        joint_fingerprint=joint_fingerprint,
        language_model=language_model,
        language_fingerprint=fingerprint(language_model),
        config=config,
        stage=stage,
        answer_tokens=1.0,
        lora=lora,
        start=start,
        start_fingerprint=fingerprint(start) if start else None,
        embeddings=made.path,
        embeddings_of=made.lineage,
        n_cells=max_cells,
        **others,
    )
    examples = _examples(recipe, spoken, made.names)
    learnt, held = examples.split(recipe.held_out_share, recipe.split_seed)
    recipe = replace(recipe, answer_tokens=examples.answer_tokens)
    recipe.require_module()
    return Planned(recipe, len(learnt), len(held))


def make_embeddings(
    recipe: ChatRecipe,
    cells: str,
    joint_model: str,
    output: Location,
    *,
    address: str | None = None,
    report: Progress | None = None,
) -> None:
    """Embeddings of the cells under OUTPUT, if it is there that the recipe reads them. Resumes."""
    if recipe.embeddings == str(output / CELLS):
        workers = Workers(address)
        embed_joint(
            cells, joint_model, output / CELLS, workers=workers, max_cells=recipe.n_cells, report=report
        )
    # Raises for cells that have no embedding, before the first step.
    examples_of(recipe)


class _Embedded(NamedTuple):
    """names: of the cells, where their embeddings are still to be made."""

    path: str | None = None
    lineage: str | None = None
    names: list[str] | None = None


def _embeddings(
    spoken: list[Conversation],
    joint_model: str,
    joint_fingerprint: str,
    output: Location,
    cells: str | None,
    embeddings: str | None,
    max_cells: int | None,
) -> _Embedded:
    if cells and embeddings:
        raise InputError("--cells and --embeddings: give one or the other.")
    if not any(isinstance(cell, str) for conversation in spoken for cell in conversation.cells):
        return _Embedded()
    if embeddings:
        found = Embeddings.open(embeddings)
        if found.lineage.get("model") != joint_fingerprint:
            raise InputError(
                f"--embeddings {embeddings}: were not made by {joint_model}. Make them with: syncytium embed "
                f"--cells STORE --model {joint_model}, or give --cells instead."
            )
        return _Embedded(embeddings, found.dataset_id)
    if cells:
        inputs = Inputs.open(cells, joint_model, max_cells)
        joint_product(inputs.model)
        names = [str(name) for name in inputs.store.obs([]).index[: inputs.n_cells]]
        return _Embedded(str(output / CELLS), f"{inputs.store.dataset_id} {inputs.n_cells}", names)
    return _Embedded()


def _examples(recipe: ChatRecipe, spoken: list[Conversation], names: list[str] | None) -> Examples:
    width = recipe.config.cell_width
    tokeniser = chat.load_tokeniser(local_copy(recipe.language_model))
    vectors = (
        CellVectors.open(recipe.embeddings, width, recipe.n_cells)
        if names is None
        else CellVectors(width, names)
    )
    return Examples(spoken, chat.ChatTokeniser(tokeniser, recipe.config), vectors)


def _config(
    width: int, joint_fingerprint: str, language_model: str, start: str | None, sizes: Sizes
) -> chat.ChatConfig:
    local = local_copy(language_model)
    if start is not None:
        config = chat.load_config(local_copy(start))
        if config.cell_width != width:
            raise InputError(
                f"--start {start}: reads vectors of {config.cell_width} numbers; the joint model's have "
                f"{width}."
            )
        return replace(config, joint=joint_fingerprint)
    return chat.ChatConfig(
        cell_width=width,
        model_width=chat.width_of(chat.empty_language_model(local, "meta")),
        n_tokens=sizes.n_tokens,
        hidden_width=sizes.hidden_width,
        template=sizes.template or chat.template_for(chat.load_tokeniser(local)),
        max_tokens=sizes.max_tokens,
        joint=joint_fingerprint,
    )
