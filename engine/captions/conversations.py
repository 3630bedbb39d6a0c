"""Template conversations about cells, from their captions: enough to show and test a chat model's training.

What a language model would write of the same captions is richer; the format is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.captions.source import Captions
from storage.cells import CellStore
from storage.errors import InputError

QUESTIONS = (
    "What are these cells?",
    "What kind of cells did I select?",
    "Which cells are these?",
    "Can you tell me what these are?",
    "Describe these cells.",
    "Describe these cells in detail.",
    "What is known of this sample?",
    "What do these cells seem to be?",
    "Please characterise this selection.",
    "How would you annotate these cells?",
)
COMPARISONS = (
    "How do these two differ?",
    "Compare these cells.",
    "What sets the first apart from the second?",
)


def conversations(
    store: CellStore, captions: Captions, *, per_cell: int, pairs: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Records of LLaVA's format, about the cells of a store that have a caption and counts.

    captions: of its first cells. per_cell: different questions about each of them. pairs: comparisons of two
    cells with different captions, drawn at random. Raises InputError when there are none to compare.
    """
    cells = [str(name) for name in store.obs([]).index[: len(captions.of_cell_C)]]
    is_usable_C = (captions.of_cell_C >= 0) & (store.nnz_per_cell[: len(cells)] > 0)
    if pairs and len(set(captions.of_cell_C[is_usable_C])) < 2:
        raise InputError("--pairs: all cells have one caption; there is nothing to compare.")
    random = np.random.default_rng(seed)
    usable = np.flatnonzero(is_usable_C).tolist()
    for cell in usable:
        for number in random.permutation(len(QUESTIONS))[:per_cell]:
            answer = captions.texts[captions.of_cell_C[cell]]
            yield _record(f"{cells[cell]}-{number}", cells[cell], QUESTIONS[number], answer)
    made = 0
    while made < pairs:
        one, other = (usable[number] for number in random.integers(len(usable), size=2))
        if captions.of_cell_C[one] == captions.of_cell_C[other]:
            continue
        said = (captions.texts[captions.of_cell_C[cell]] for cell in (one, other))
        answer = " ".join(f"{name}: {text}" for name, text in zip("AB", said, strict=True))
        question = COMPARISONS[int(random.integers(len(COMPARISONS)))]
        yield _record(f"pair-{made}", [cells[one], cells[other]], question, answer)
        made += 1


def _record(name: str, image: str | list[str], question: str, answer: str) -> dict[str, Any]:
    places = "\n<image>" * (1 if isinstance(image, str) else len(image))
    turns = [{"from": "human", "value": question + places}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}
