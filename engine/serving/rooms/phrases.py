"""A bank of phrases: what cells may be called, ranked for some cells."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from engine.retrieval.phrases import rank
from engine.retrieval.texts import Float32
from engine.serving.settings import Settings
from storage.phrases import LIBRARY, TERM, PhraseBank


class PhraseRoom:
    """Phrases embedded once, by the joint model of the index."""

    def __init__(self, settings: Settings) -> None:
        if settings.phrases is None:
            raise ValueError("a room of phrases needs a phrase bank")
        self._bank = PhraseBank.open(settings.phrases)

    def facts(self) -> dict[str, Any]:
        return {"phrases": str(self._bank.snapshot.location), "n_phrases": len(self._bank)}

    def standardised(self, vector_U: Float32, k: int) -> dict[str, list[tuple[str, float]]]:
        """The k best terms of each library, with scores in standard deviations over all phrases."""
        score_P = self._bank.vectors @ vector_U
        score_P = (score_P - score_P.mean()) / max(float(score_P.std()), 1e-12)
        libraries, terms = (self._bank.table[name].to_pylist() for name in (LIBRARY, TERM))
        found: dict[str, list[tuple[str, float]]] = {}
        for row in np.argsort(-score_P, kind="stable"):
            best = found.setdefault(libraries[row], [])
            if len(best) < k:
                best.append((terms[row], float(score_P[row])))
        return found

    def rank(self, vector_U: Float32, k: int, where: str | None) -> dict[str, Any]:
        """The k phrases most like a vector: of all libraries together, and of each."""
        overall, libraries = rank(self._bank, vector_U, k, where)
        return {
            "phrases": [asdict(each) for each in overall],
            "libraries": {name: [asdict(each) for each in found] for name, found in libraries.items()},
        }
