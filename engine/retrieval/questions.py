"""Text queries with a sign and a weight: `T cell +2*activated -naive` -> phrases to embed and add up.

    question = [sign] term {sign term}
    term     = [number "*"] phrase
    sign     = "+" | "-" | PLUS | MINUS

A sign begins a word or stands alone; within a word it is part of it, so `CD4+ T cell` and `non-classical
monocyte` are one phrase each. `PLUS` and `MINUS` are signs only in capitals (CellWhisperer's `A MINUS B`).
Text in double quotes is taken as it is: `"T cell" -"-negative"`. A phrase ends at the next sign, and a
question of one phrase with nothing else is that phrase.

A cell's score is the weighted sum of its scores with the phrases, as CellWhisperer's is for `A MINUS B`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from storage.errors import InputError

MOST_TERMS = 16
# Beyond that no text tower reads on; and a question of a page is a mistake.
MOST_CHARACTERS = 4_000

_SIGNS = {"+": 1.0, "-": -1.0, "PLUS": 1.0, "MINUS": -1.0}
_PIECE = re.compile(r'\s*(?:(?P<quoted>"[^"]*")|(?P<word>[^\s"]+))')
_WEIGHT = re.compile(r"(?P<weight>\d+\.?\d*|\.\d+)\*(?P<rest>.*)")


@dataclass(frozen=True)
class Term:
    """A phrase and what its score counts: negative for what cells should be unlike."""

    phrase: str
    weight: float = 1.0


class _Piece(NamedTuple):
    kind: str
    text: str
    start: int


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a question. Raises InputError that shows where it stops making sense."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"a query of {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    terms = _Reader(text).terms()
    if len(terms) > MOST_TERMS:
        raise InputError(f"query {_short(text)}: {len(terms)} terms; at most {MOST_TERMS} are added up")
    return terms


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pieces = self._pieces()
        self.next = 0

    def terms(self) -> tuple[Term, ...]:
        if not self.pieces:
            self._refuse(0, "a phrase")
        found = [self._term(self._sign() or 1.0)]
        while self.next < len(self.pieces):
            found.append(self._term(self._sign() or 1.0))
        return tuple(found)

    def _sign(self) -> float | None:
        piece = self.pieces[self.next]
        if piece.kind != "sign":
            return None
        self.next += 1
        return _SIGNS[piece.text]

    def _term(self, sign: float) -> Term:
        """Pieces up to the next sign."""
        weight, words = 1.0, list[str]()
        while self.next < len(self.pieces) and self.pieces[self.next].kind != "sign":
            piece = self.pieces[self.next]
            if piece.kind == "weight":
                if words:
                    self._refuse(piece.start, f"a sign before the weight, say +{piece.text}*...")
                weight = float(piece.text)
                if not weight:
                    self._refuse(piece.start, "a weight other than 0")
            elif piece.text.strip():
                words.append(piece.text.strip())
            self.next += 1
        if not words:
            start = self.pieces[self.next].start if self.next < len(self.pieces) else len(self.text)
            self._refuse(start, "a phrase")
        return Term(" ".join(words), sign * weight)

    def _pieces(self) -> list[_Piece]:
        pieces: list[_Piece] = []
        at, end = 0, len(self.text.rstrip())
        after_space = True
        while at < end:
            match = _PIECE.match(self.text, at)
            if match is None:
                self._refuse(at + self.text[at:].index('"'), 'a closing " after this one')
            after_space = at == 0 or match.start(str(match.lastgroup)) > at
            start, found = match.start(str(match.lastgroup)), match[str(match.lastgroup)]
            if match.lastgroup == "quoted":
                pieces.append(_Piece("text", found[1:-1], start))
            else:
                pieces += _of_word(found, start, begins=after_space)
            at = match.end()
        return pieces

    def _refuse(self, at: int, expected: str) -> NoReturn:
        rest = self.text[at : at + 20].strip()
        found = repr(rest) if rest else "the end"
        raise InputError(
            f"query {_short(self.text)}: expected {expected} at character {at + 1}, found {found} "
            '(signs begin a word: T cell +2*activated -naive; text with signs of its own goes into "quotes")'
        )


def _of_word(word: str, start: int, *, begins: bool) -> list[_Piece]:
    """A word as sign, weight and text, as many of them as it has."""
    pieces = []
    if begins and word in _SIGNS:
        return [_Piece("sign", word, start)]
    if begins and word[0] in "+-":
        pieces.append(_Piece("sign", word[0], start))
        word, start = word[1:], start + 1
    if begins and (weighted := _WEIGHT.fullmatch(word)):
        pieces.append(_Piece("weight", weighted["weight"], start))
        word, start = weighted["rest"], start + weighted.start("rest")
    return [*pieces, _Piece("text", word, start)] if word else pieces


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
