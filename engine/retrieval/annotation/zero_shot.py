"""Naming cells by texts alone: scores, probabilities, and when to name none.

Legend: C cells (or groups of them), T texts, L labels or terms, U width of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.retrieval.annotation.vocabulary import Libraries, Term

if TYPE_CHECKING:
    from engine.models.joint import TextSide

UNASSIGNED = "unassigned"
_TERMS_SHOWN = 5

Float32 = npt.NDArray[np.float32]


def text_directions(
    model: TextSide, terms: Sequence[Term], templates: Sequence[str], dim: int | None = None
) -> Float32:
    """One unit vector a term [L, U]: the mean, brought to length one, over its texts in all templates.

    templates: names that `joint.prompts` knows, or texts with `{}`; "{}" asks the text itself.
    dim: the leading so many numbers of the embeddings, None for all.
    """
    if not terms:
        return np.zeros((0, dim or model.config.width), np.float32)
    e_AU = model.embed_texts(asked_texts(terms, templates)).cpu().numpy()
    return directions_of(terms, e_AU[:, :dim])


def asked_texts(terms: Sequence[Term], templates: Sequence[str]) -> list[str]:
    """The texts that are embedded for some terms: all of them in the first template, then in the next."""
    from engine.models.joint import prompts

    texts = [text for term in terms for text in term.texts]
    return [text for template in templates for text in prompts(texts, template)]


def directions_of(terms: Sequence[Term], e_AU: Float32) -> Float32:
    """One unit vector a term [L, U], from the embeddings of its `asked_texts`."""
    # One row a term, one column a text: equal weights for its texts.
    owner_L = np.repeat(np.arange(len(terms)), [len(term.texts) for term in terms])
    sums_LU = np.zeros((len(terms), e_AU.shape[1]), np.float32)
    np.add.at(sums_LU, np.tile(owner_L, len(e_AU) // len(owner_L)), unit(e_AU))
    return unit(sums_LU)


def unit(e_CU: Float32) -> Float32:
    """Rows brought to length one."""
    scaled: Float32 = e_CU / np.maximum(np.linalg.norm(e_CU, axis=1, keepdims=True), 1e-12)
    return scaled


@dataclass(frozen=True)
class Named:
    """What some cells are called.

    score_CL: cosine times the model's scale. best_C: number of the best label, -1 for a cell without an
    embedding. confidence_C: its probability among the labels, NaN likewise. is_named_C: whether that is
    enough to name the cell.
    """

    score_CL: Float32
    best_C: npt.NDArray[np.int32]
    confidence_C: Float32
    is_named_C: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ZeroShot:
    """Labels as directions. min_confidence: probability below which a cell is not named; min_cosine: cosine
    below which it is not, however much better than the others the best label is.
    """

    names: tuple[str, ...]
    directions_LU: Float32
    scale: float
    min_confidence: float = 0.5
    min_cosine: float = -1.0

    def name(self, e_CU: Float32) -> Named:
        """Names of cells (unit embeddings) or of groups of them (means, which are shorter)."""
        score_CL = (e_CU @ self.directions_LU.T * self.scale).astype(np.float32)
        known_C = np.atleast_1d(np.isfinite(e_CU).all(axis=1))
        probability_CL = softmax(np.where(known_C[:, None], score_CL, 0.0))
        best_C = np.where(known_C, probability_CL.argmax(axis=1), -1).astype(np.int32)
        confidence_C = np.where(known_C, probability_CL.max(axis=1), np.nan).astype(np.float32)
        cosine_C = np.where(known_C, score_CL.max(axis=1), -np.inf) / self.scale
        is_named_C = known_C & (confidence_C >= self.min_confidence) & (cosine_C >= self.min_cosine)
        return Named(score_CL, best_C, confidence_C, is_named_C)


def softmax(score_CL: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Over the labels of each cell."""
    shifted = np.exp(score_CL.astype(np.float64) - score_CL.max(axis=1, keepdims=True))
    exponents: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return exponents


def rank_terms(
    score_L: npt.NDArray[np.floating], libraries: Libraries, shown: int = _TERMS_SHOWN
) -> list[tuple[str, list[tuple[str, float]]]]:
    """The best terms of each library for one group of cells, as CellWhisperer's server lists them.

    score_L: scores of all terms, library after library, standardised over all of them here. Terms below the
    mean are left out, and libraries come in the order of their best term.
    """
    z_L = standardised(score_L)
    ranked, start = [], 0
    for library, terms in libraries.items():
        own = z_L[start : start + len(terms)]
        start += len(terms)
        order = [number for number in np.argsort(-own, kind="stable")[:shown] if own[number] > 0]
        if order:
            ranked.append((library, [(terms[number].name, float(own[number])) for number in order]))
    return sorted(ranked, key=lambda entry: -entry[1][0][1])


def standardised(score_L: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Scores less their mean, by their population standard deviation; zeros where all are alike."""
    centred: npt.NDArray[np.float64] = score_L.astype(np.float64) - score_L.mean(dtype=np.float64)
    spread = centred.std()
    return centred / spread if spread > 0 else centred * 0
