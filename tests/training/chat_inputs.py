"""A small chat model trained on real cells: what it is made of, and the making of it."""

import json
from pathlib import Path
from typing import Any

from engine.captions import CaptionSource
from engine.captions.conversations import QUESTIONS, conversations
from engine.training.options import TrainingOptions
from engine.training.recipes.chat import FILE, ChatRecipe, Sizes, plan
from jobs.__main__ import main
from storage.cells import CellStore
from storage.locations import Location
from tests.models.chat.language_models import language_model_directory

ANSWER = "These seem to be {cell_type}."


def spoken(store: str, folder: Path, cells: list[str] | None = None, **others: int) -> str:
    """A directory of conversations about some cells of a store, by default all."""
    found = CellStore.open(store)
    captions = CaptionSource(ANSWER).read(found, found.n_cells)
    given = {"per_cell": 1, "pairs": 0, "seed": 0, **others}
    records = [
        record
        for record in conversations(found, captions, **given)
        if not isinstance(record["image"], str) or cells is None or record["image"] in cells
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text("\n".join(json.dumps(record) for record in records))
    return str(folder)


def language_model_for(store: str, folder: Path) -> str:
    """A random language model whose tokeniser knows what is asked and said."""
    types = sorted(set(CellStore.open(store).obs(["cell_type"])["cell_type"].astype(str)))
    texts = [ANSWER.format(cell_type=kind) for kind in types] * 3 + list(QUESTIONS)
    return language_model_directory(folder, texts)


def recipe_of(conversations: str, joint: str, language_model: str, output: Path, **others: Any) -> ChatRecipe:
    given = {"stage": "full", "sizes": Sizes(n_tokens=3, hidden_width=64, max_tokens=256), **others}
    return plan(conversations, joint, language_model, Location.of(output), **given).recipe


def options_of(**changes: Any) -> TrainingOptions:
    given = {"steps": 60, "batch": 16, "workers": 0, "learning_rate": 4e-3, "warmup_steps": 3, **changes}
    return TrainingOptions(**given)


def trained_chat(store: str, joint: str, embeddings: str, folder: Path, steps: int = 170) -> str:
    """By the commands, of all cells of the store."""
    said = ["conversations", "--cells", store, "--caption", ANSWER, "--pairs", 400]
    said += ["--output", folder / "talk"]
    learnt = ["train-chat", "--conversations", folder / "talk", "--joint", joint, "--embeddings", embeddings]
    learnt += ["--language-model", language_model_for(store, folder / "language"), "--stage", "full"]
    learnt += ["--soft-tokens", 3, "--hidden-width", 64, "--max-tokens", 256, "--held-out-share", 0]
    learnt += ["--steps", steps, "--batch-conversations", 32, "--lr", 4e-3, "--warmup-steps", 3]
    learnt += ["--workers", 0, "--output", folder / "chat"]
    for command in (said, learnt):
        if main([str(word) for word in command]):
            raise RuntimeError(f"{command[0]} failed")
    return str(folder / "chat")
