"""Texts as queries: the text side of a joint model, held to the model that embedded the cells of an index.

Legend: B texts, U width of the common space.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models import joint
from engine.models.joint import TextSide
from engine.models.joint.checkpoint import CELL, TEXT
from engine.retrieval import questions
from engine.retrieval.questions import Term
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError
from storage.index import VectorIndex

Float32 = npt.NDArray[np.float32]

# Texts whose vectors are remembered: a session asks the same ones again. 512 numbers each.
_REMEMBERED = 4_096
_AT_ONCE = 32


@dataclass(frozen=True)
class Question:
    """A text query as a vector. terms: as they were read. texts: as they were embedded (a template around
    the phrase). vector: `[U]`, the weighted sum of their unit vectors; a cell's inner product with it is the
    weighted sum of its cosines. truncated: texts of which the tower read only the beginning.
    """

    text: str
    terms: tuple[Term, ...]
    texts: tuple[str, ...]
    vector: Float32
    truncated: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """One phrase as it is: what a calibration speaks of."""
        return len(self.terms) == 1 and self.terms[0].weight == 1

    @property
    def length(self) -> float:
        """What cosines with the vector's direction are multiplied with to be scores; 1 for a plain one."""
        return float(np.linalg.norm(self.vector))


class Texts:
    """Text side of a joint model, with the vectors of texts asked before. Not thread-safe."""

    def __init__(self, side: TextSide, path: str, model: str) -> None:
        """model: fingerprint of the joint model directory at `path`."""
        self.side, self.path, self.model = side, path, model
        self._known: OrderedDict[str, tuple[Float32, bool]] = OrderedDict()

    @classmethod
    def open(cls, path: str, device: str = "cpu") -> Texts:
        """Raises ModelError when no joint model is there."""
        local = local_copy(path)
        return cls(joint.load_text_side(local).to(device), path, fingerprint(local))

    @classmethod
    def of_index(cls, index: VectorIndex, path: str | None = None, device: str = "cpu") -> Texts:
        """Of the joint model that embedded the cells of an index; `path` says where it lies now, if not where
        it lay then. Raises InputError for an index without one, and for another model than it was.
        """
        known = require_joint(index)
        if path is None and known["path"] is None:
            raise InputError(
                f"{index.snapshot.location}: does not say where its joint model lies; name it with --joint"
            )
        where = path or known["path"]
        local = local_copy(where)
        found = fingerprint(local)
        if found != known["model"]:
            raise InputError(
                f"{where}: fingerprint {found}, but the cells of {index.snapshot.location} were embedded by "
                f"{known['model']}; a text must be embedded by the same joint model (--joint)"
            )
        return cls(joint.load_text_side(local).to(device), where, found)

    @property
    def temperature(self) -> float:
        return self.side.temperature

    @property
    def width(self) -> int:
        return self.side.config.width

    def vectors(self, texts: Sequence[str]) -> Float32:
        """Unit vectors, float32 `[B, U]`."""
        rows = [vector_U for vector_U, _ in self._embedded(texts)]
        return np.stack(rows) if rows else np.empty((0, self.width), np.float32)

    def _embedded(self, texts: Sequence[str]) -> list[tuple[Float32, bool]]:
        """For each text its unit vector, and whether the tower read only its beginning."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        # Few at a time: the tower lays texts of one batch end to end, and their states are held together.
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            tokens = self.side.text_tower.tokenise(some)
            vectors_BU = self.side.embed(tokens).cpu().numpy()
            self._known |= zip(some, zip(vectors_BU, tokens.truncated_B.tolist(), strict=True), strict=True)
        for text in texts:
            self._known.move_to_end(text)
        found = [self._known[text] for text in texts]
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def question(self, text: str, template: str | None = None) -> Question:
        """The query `text` (see `questions`); each phrase in the template, if there is one (`joint.prompts`).

        Raises InputError for a query that cannot be read, or whose terms cancel out.
        """
        terms = questions.parse(text)
        texts = tuple(in_template([term.phrase for term in terms], template))
        weights = np.array([term.weight for term in terms], np.float32)
        embedded = self._embedded(texts)
        vector = weights @ np.stack([vector_U for vector_U, _ in embedded])
        if np.linalg.norm(vector) < 1e-6:
            raise InputError(f"query {text!r}: its terms cancel out; nothing is left to look for")
        truncated = tuple(t for t, (_, is_cut) in zip(texts, embedded, strict=True) if is_cut)
        return Question(text, terms, texts, vector, truncated)


def in_template(phrases: Sequence[str], template: str | None) -> list[str]:
    """The texts that are embedded for some phrases; raises ModelError for a template without `{}`."""
    return list(phrases) if template is None else joint.prompts(phrases, template)


def require_joint(index: VectorIndex) -> dict[str, Any]:
    """What an index says of its joint model. Raises InputError when a plain encoder made its vectors."""
    known = index.facts.get("joint")
    if known is None:
        raise InputError(
            f"{index.snapshot.location}: its cells were embedded by an encoder without texts; text queries "
            "need an index made with --joint (index --cells STORE --joint DIR)"
        )
    return dict(known)


def describe_joint(path: str) -> dict[str, Any]:
    """What an index keeps of the joint model at `path`: where it lay, hashes of the whole and of both towers,
    width and Matryoshka widths of the common space, and the temperature.
    """
    local = local_copy(path)
    side = joint.load_text_side(local)
    return {
        "path": path,
        "model": fingerprint(local),
        "cell_tower": fingerprint(local / CELL),
        "text_tower": fingerprint(local / TEXT),
        "width": side.config.width,
        "dims": list(side.config.dims),
        "temperature": side.temperature,
    }
