"""One text asked of one index: from words to hits, with everything that is said beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval.answers import cell_rows
from engine.retrieval.calibration import Calibration, Verdict
from engine.retrieval.doubts import doubts
from engine.retrieval.found import Found
from engine.retrieval.markers import Marker, markers_of, reordered
from engine.retrieval.search import Metric
from engine.retrieval.texts import Question, Texts
from storage.cells import CellStore
from storage.errors import InputError
from storage.index import VectorIndex
from storage.phrases import PhraseBank

# (vector, k) -> the k best cells for it: any searcher, with its conditions and its way.
Find = Callable[[npt.NDArray[np.float32], int], Found]

# Cells by text that markers reorder, for each answer and at least.
_PER_ANSWER, _FEWEST = 10, 100


@dataclass(frozen=True)
class Answer:
    """hits: rows as `answers.cell_rows` makes them, with `markers` (expression by gene) where those counted.
    found: the same as arrays; scores are weighted sums of cosines. verdict: on the best hit, None with the
    reason in `no_verdict_because`. warnings: sentences to show. temperature: the model's; nothing changes it.
    """

    question: Question
    found: Found
    hits: list[dict[str, Any]]
    verdict: Verdict | None
    no_verdict_because: str
    warnings: list[str]
    temperature: float
    markers: list[Marker] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """What is told beside the hits, as JSON values."""
        return {
            "terms": [[term.phrase, term.weight] for term in self.question.terms],
            "texts": list(self.question.texts),
            "truncated": bool(self.question.truncated),
            "warnings": self.warnings,
            "temperature": self.temperature,
            "verdict": self.verdict,
            "no_verdict_because": self.no_verdict_because or None,
            "markers": {marker.symbol: marker.weight for marker in self.markers},
        }


def ask(
    index: VectorIndex,
    texts: Texts,
    text: str,
    k: int,
    find: Find,
    *,
    template: str | None = None,
    metric: Metric = "cosine",
    bank: PhraseBank | None = None,
    store: CellStore | None = None,
) -> Answer:
    """The k best cells of an index for a text (see `questions` for its grammar).

    texts: of the index's joint model (`Texts.of_index`). template: around each phrase (`joint.prompts`).
    metric: what `find` scores by. bank: phrases to tell a text about something else by. store: the cells the
    index was made of; the best by text are then reordered by the genes the text names (`markers`).
    Raises InputError for a text that cannot be read, or that names no gene where a store is given.
    """
    question = texts.question(text, template)
    calibration, why_not = Calibration.of_question(index, question, template, metric)
    markers: list[Marker] = []
    values: npt.NDArray[np.float32] | None = None
    if store is None:
        found = find(question.vector, k)
    else:
        markers = markers_of(question.terms, store)
        if not markers:
            raise InputError(
                f"query {text!r}: names no gene of {store.location} by its symbol, so that no marker can "
                "reorder the answers"
            )
        shortlist = find(question.vector, max(_FEWEST, _PER_ANSWER * k))
        found, values = reordered(shortlist, k, markers, index, store)
    found = found.scaled(question.length)
    hits = cell_rows(text, found, index, calibration)
    if values is not None:
        for hit, row in zip(hits, values.tolist(), strict=True):
            hit["markers"] = {m.symbol: round(value, 3) for m, value in zip(markers, row, strict=True)}
    verdict = hits[0]["verdict"] if calibration is not None and hits else None
    warnings = doubts(question, texts, bank)
    return Answer(question, found, hits, verdict, why_not, warnings, texts.temperature, markers)
