"""A bank of phrases: what cells may be called, ranked for some cells."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from engine.retrieval.annotation.vocabulary import Libraries, Term
from engine.retrieval.annotation.zero_shot import rank_terms
from engine.retrieval.phrases import rank
from engine.retrieval.texts import Float32
from engine.serving.problems import Problem
from engine.serving.settings import Settings
from storage.phrases import LIBRARY, TERM, PhraseBank


class PhraseRoom:
    """Phrases embedded once, by the joint model of the index."""

    def __init__(self, settings: Settings) -> None:
        if settings.phrases is None:
            raise ValueError("a room of phrases needs a phrase bank")
        self._bank = PhraseBank.open(settings.phrases)
        self._libraries: Libraries = {}
        names, terms = (self._bank.table[column].to_pylist() for column in (LIBRARY, TERM))
        for library, term in zip(names, terms, strict=True):
            self._libraries.setdefault(library, []).append(Term(term, (term,)))

    def facts(self) -> dict[str, Any]:
        return {
            "phrases": str(self._bank.snapshot.location),
            "dataset_id": self._bank.snapshot.dataset_id,
            "model": self._bank.model,
            "n_phrases": len(self._bank),
            "libraries": {name: len(terms) for name, terms in self._libraries.items()},
        }

    def keywords(self, vectors_NU: Float32, k: int) -> list[list[tuple[str, list[tuple[str, float]]]]]:
        """For each vector and library the k best terms, scores in standard deviations over all phrases; only
        terms above the mean, and libraries by their best one.
        """
        return [rank_terms(vector_U @ self._bank.vectors.T, self._libraries, k) for vector_U in vectors_NU]

    def library(self, name: str, most: int) -> tuple[list[str], Float32]:
        """Terms of a library, and their vectors."""
        if name not in self._libraries:
            raise Problem(404, "no_library", f"no library {name!r}; there are {', '.join(self._libraries)}")
        terms = [term.name for term in self._libraries[name]]
        if len(terms) > most:
            raise Problem(400, "too_many_labels", f"{len(terms):,} terms in {name!r}; at most {most:,}")
        rows = [row for row, own in enumerate(self._bank.table[LIBRARY].to_pylist()) if own == name]
        return terms, self._bank.vectors[rows]

    def rank(self, vector_U: Float32, k: int, where: str | None) -> dict[str, Any]:
        """The k phrases most like a vector: of all libraries together, and of each."""
        overall, libraries = rank(self._bank, vector_U, k, where)
        return {
            "phrases": [asdict(each) for each in overall],
            "libraries": {name: [asdict(each) for each in found] for name, found in libraries.items()},
        }
