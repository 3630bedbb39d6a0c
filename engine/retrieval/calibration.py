"""What a score of a text means in this index: is the cell what was asked for, is it worth a look, or neither?

Made from cells whose kind is known (an obs column): each kind is asked for as a text, twice. Once as it is;
once with the cells of that kind left out, as if the index had none of them, so that whatever comes best is
wrong. The ten best of both are held against their kinds, every kind and both ways counting the same, and the
share that is right rises with the score by isotonic regression (pool adjacent violators; Zadrozny and Elkan
2002). How well that holds for a kind it was not made from is measured by leaving kinds out in turn.

The best of many cells score higher than the best of few, so a table holds for the size it was made at. A
cosine means nothing by itself: the 0.55 and 0.40 that LingoCell's pages tell matches by are of its own model
and its own 50,000 cells, and are not used here.

Legend: N rows, H hits, B breakpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.retrieval import scan
from engine.retrieval.search import Metric, Searcher
from engine.retrieval.shortlists import shortlist_for
from engine.retrieval.texts import Question, Texts, in_template
from storage.errors import InputError
from storage.index import VectorIndex, versions

Verdict = Literal["match", "review", "none"]
Float64 = npt.NDArray[np.float64]

# Probability of being right from which a hit is called so.
MATCH, REVIEW = 0.8, 0.5
# Hits of each question; kinds of fewer cells could not fill them, and more kinds say nothing new.
HITS, FEWEST_CELLS, MOST_KINDS, FEWEST_KINDS = 10, 10, 500, 3
# Folds of kinds left out in turn, and bins of the calibration error.
_FOLDS, _BINS = 10, 10
# Share by which an index may grow or shrink until its table says nothing about it any more.
_SAME_SIZE = 0.1


@dataclass(frozen=True)
class Judged:
    """Hits whose truth is known. score, right, weight: `[H]`; kind: `[H]` number of the kind asked for."""

    score: Float64
    right: npt.NDArray[np.bool_]
    kind: npt.NDArray[np.int64]
    weight: Float64

    def of(self, chosen: npt.NDArray[np.bool_]) -> Judged:
        return Judged(self.score[chosen], self.right[chosen], self.kind[chosen], self.weight[chosen])


@dataclass(frozen=True)
class Calibration:
    """score, probability: `[B]` ascending; between them the probability is interpolated, beyond them it is
    that of the end. n_cells: of the index it was made at. template: how kinds were asked for.
    """

    score: Float64
    probability: Float64
    n_cells: int
    template: str | None

    @classmethod
    def of_index(cls, index: VectorIndex) -> tuple[Calibration | None, str]:
        """The table that holds for an index as it is, or None; and, if None, why."""
        table = index.facts["calibration"]
        if table is None:
            return None, "this index has no calibration (index --calibrate OBSCOL makes one)"
        if abs(index.n_cells - table["n_cells"]) > _SAME_SIZE * table["n_cells"]:
            return None, (
                f"the calibration was made at {table['n_cells']:,} cells and the index holds "
                f"{index.n_cells:,} now (index --calibrate {table['column']} makes it anew)"
            )
        made = cls(
            np.asarray(table["score"]), np.asarray(table["probability"]), table["n_cells"], table["template"]
        )
        return made, ""

    @classmethod
    def of_question(
        cls, index: VectorIndex, question: Question, template: str | None, metric: Metric = "cosine"
    ) -> tuple[Calibration | None, str]:
        """The table that tells matches of a question from the rest, or None, and why."""
        made, why_not = cls.of_index(index)
        if made is None:
            return None, why_not
        if not question.is_plain or metric != "cosine":
            return None, "the calibration is of cosines with one phrase, not of sums, weights, inner products"
        if template != made.template:
            asked = "no template" if made.template is None else f"--template {made.template!r}"
            return None, f"the calibration was made with {asked}"
        return made, ""

    def probabilities(self, score: npt.NDArray[np.floating]) -> Float64:
        """That cells of these scores are what was asked for, `[H]`."""
        found: Float64 = np.interp(score, self.score, self.probability)
        return found


def verdict_of(probability: float) -> Verdict:
    return "match" if probability >= MATCH else "review" if probability >= REVIEW else "none"


def calibrate(
    index: VectorIndex, texts: Texts, column: str, template: str | None = None
) -> tuple[VectorIndex, bool]:
    """A version of the index with a calibration by the kinds in an obs column, whose shortlists are long
    enough for those texts too; the index itself, and False, if it has just that calibration already.

    Raises InputError for a column that is not there, and for fewer than three kinds of ten cells each.
    """
    asked = {"column": column, "template": template, "n_cells": index.n_cells}
    known = index.facts["calibration"]
    if known is not None and all(known[name] == value for name, value in asked.items()):
        return index, False
    searcher = Searcher(index)
    kind_N, kinds = _kinds(index, column)
    vectors = texts.vectors(in_template(kinds, template))
    judged, null = _judged(searcher, vectors, kind_N)
    score, probability = isotonic(judged.score, judged.right, judged.weight)
    table = {
        **asked,
        "kinds": len(kinds),
        "null_mean": null[0],
        "null_std": null[1],
        "score": score.tolist(),
        "probability": probability.tolist(),
        "match_from": _reached(score, probability, MATCH),
        "review_from": _reached(score, probability, REVIEW),
        "held_out_error": held_out_error(judged),
    }
    return versions.calibrate(index, table, shortlist_for(index, vectors)), True


def isotonic(score: Float64, right: npt.NDArray[np.bool_], weight: Float64) -> tuple[Float64, Float64]:
    """Ascending breakpoints (score, share that is right) of the best rising fit."""
    order = np.argsort(score, kind="stable")
    # Of each block: lowest score, highest score, weight, weight of what is right.
    blocks: list[list[float]] = []
    for s, r, w in zip(score[order], right[order], weight[order], strict=True):
        blocks.append([s, s, w, w * r])
        while len(blocks) > 1 and (
            blocks[-2][3] * blocks[-1][2] >= blocks[-1][3] * blocks[-2][2] or blocks[-2][1] == blocks[-1][0]
        ):
            _, high, more, more_right = blocks.pop()
            blocks[-1][1], blocks[-1][2], blocks[-1][3] = (
                high,
                blocks[-1][2] + more,
                blocks[-1][3] + more_right,
            )
    points = [(edge, block[3] / block[2]) for block in blocks for edge in sorted({block[0], block[1]})]
    return np.array([point[0] for point in points]), np.array([point[1] for point in points])


def held_out_error(judged: Judged) -> float:
    """Expected calibration error of hits whose kinds the table was not made from: by ten bins of the
    predicted probability, the mean distance to the share that is right.
    """
    predicted = np.empty(len(judged.score))
    n_folds = min(_FOLDS, int(judged.kind.max()) + 1)
    for fold in range(n_folds):
        out = judged.kind % n_folds == fold
        kept = judged.of(~out)
        predicted[out] = np.interp(judged.score[out], *isotonic(kept.score, kept.right, kept.weight))
    bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    sums = [np.bincount(bins, judged.weight * values, _BINS) for values in (predicted, judged.right)]
    return float(np.abs(sums[0] - sums[1]).sum() / judged.weight.sum())


def _kinds(index: VectorIndex, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Number of each row's kind (-1: not known, too rare or deleted), `[N]`; and the kinds by number."""
    values: list[Any] = []
    for segment in index.segments:
        table = segment.arrays.obs
        if column not in table.column_names:
            raise InputError(
                f"--calibrate {column}: no such column; the index has {', '.join(table.column_names)}"
            )
        found = np.asarray(table[column].to_pylist(), dtype=object)
        if segment.live is not None:
            found[~segment.live] = None
        values.append(found)
    every = np.concatenate(values)
    known = np.array([value is not None for value in every])
    names, numbers, counts = np.unique(every[known].astype(str), return_inverse=True, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:MOST_KINDS]
    common = np.sort(common[counts[common] >= FEWEST_CELLS])
    if len(common) < FEWEST_KINDS:
        raise InputError(
            f"--calibrate {column}: {len(common)} kinds of at least {FEWEST_CELLS} cells; a calibration "
            f"needs {FEWEST_KINDS}"
        )
    renumbered = np.full(len(names), -1)
    renumbered[common] = np.arange(len(common))
    kind_N = np.full(len(every), -1)
    kind_N[known] = renumbered[numbers]
    return kind_N, [str(names[number]) for number in common]


def _judged(
    searcher: Searcher, vectors: npt.NDArray[np.float32], kind_N: npt.NDArray[np.int64]
) -> tuple[Judged, tuple[float, float]]:
    """The hits of every kind, both ways; and mean and standard deviation of the scores of wrong pairs."""
    hits, sums = [], np.zeros(3)
    for kind, vector in enumerate(vectors):
        score_N = searcher.scores(vector)
        wrong = score_N[(kind_N >= 0) & (kind_N != kind)].astype(np.float64)
        sums += [len(wrong), wrong.sum(), (wrong**2).sum()]
        hits += list(_best(score_N, kind_N, kind))
    mean = sums[1] / sums[0]
    deviation = float(np.sqrt(max(sums[2] / sums[0] - mean**2, 0.0)))
    parts = [np.concatenate([hit[part] for hit in hits]) for part in range(3)]
    weight = np.concatenate([np.full(len(hit[0]), 1 / len(hit[0])) for hit in hits])
    return Judged(parts[0], parts[1].astype(bool), parts[2].astype(np.int64), weight), (
        float(mean),
        deviation,
    )


def _best(
    score_N: npt.NDArray[np.float32], kind_N: npt.NDArray[np.int64], kind: int
) -> Iterator[tuple[Float64, Float64, Float64]]:
    """(scores, whether right, kind asked for) of the best rows, with that kind's cells and without them."""
    for allowed in (kind_N >= 0, (kind_N >= 0) & (kind_N != kind)):
        rows = scan.best(np.where(allowed, score_N, np.float32(-np.inf)), HITS)
        yield score_N[rows].astype(np.float64), kind_N[rows] == kind, np.full(len(rows), kind)


def _reached(score: Sequence[float] | Float64, probability: Float64, wanted: float) -> float | None:
    """Lowest score of at least this probability; None where none has it."""
    above = np.flatnonzero(probability >= wanted)
    return float(score[above[0]]) if len(above) else None


def summary(table: Mapping[str, Any]) -> dict[str, Any]:
    """What is told beside a verdict: the table without its breakpoints."""
    return {name: value for name, value in table.items() if name not in ("score", "probability")}
