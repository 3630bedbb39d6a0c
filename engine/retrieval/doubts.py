"""What makes a text query doubtful: not English, in pieces the text tower does not know, cut, or about
something else than what the model was told of cells.

Nothing is refused: scores are computed and the doubts are said. The rules are crude and stated with their
numbers; a query without a doubt is not thereby a good one.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

from engine.retrieval.texts import Question, Texts
from storage.phrases import PhraseBank

# Share of letters outside the Latin script (Greek ones, as in gamma-delta T cell, count as neither).
FOREIGN_LETTERS = 0.2
# Share of a query's word pieces that are the tower's unknown token.
UNKNOWN_PIECES = 0.2
# Words of a language that no English description of cells is full of; two of them, and more than there are
# English ones, give it away. Left out are those that are also genes, names or abbreviations (il, con, von).
FUNCTION_WORDS = {
    "German": "der das und eine einer eines einem ist nicht mit für aus sind oder bei zellen zelle",
    "French": "le les une est dans avec pour aux sont qui que sur cellule cellules",
    "Spanish": "el los las una para por que son células célula",
    "Italian": "gli della delle dei degli una che sono cellule cellula",
    "Portuguese": "uma dos das para são não que por células célula",
    "Dutch": "het een niet voor zijn deze cellen",
}
_ENGLISH = frozenset(
    ("the", "of", "and", "in", "with", "a", "an", "is", "are", "that", "from", "cells", "cell")
)
_POOR = "the captions the model learned from are English, and other languages find little more than chance"
_WORD = re.compile(r"[^\W\d_]+")


def doubts(question: Question, texts: Texts, bank: PhraseBank | None = None) -> list[str]:
    """Sentences to show beside the answers; none when nothing is doubtful."""
    said = [*_language(question), *_pieces(question, texts)]
    said += [
        f"only the beginning of {_short(text)} was read: the text tower ends there"
        for text in question.truncated
    ]
    if bank is not None:
        said += _domain(question, texts, bank)
    return said


def _language(question: Question) -> list[str]:
    phrases = " ".join(term.phrase for term in question.terms)
    scripts = [unicodedata.name(letter, "").split(" ")[0] for letter in phrases if letter.isalpha()]
    judged = [script for script in scripts if script != "GREEK"]
    foreign = sum(script != "LATIN" for script in judged) / max(len(judged), 1)
    if foreign > FOREIGN_LETTERS:
        return [f"{foreign:.0%} of the letters are not Latin: {_POOR}"]
    words = {word.lower() for word in _WORD.findall(phrases)}
    for language, listed in FUNCTION_WORDS.items():
        found = sorted(words & set(listed.split()))
        if len(found) > max(1, len(words & _ENGLISH)):
            return [f"this looks {language} ({', '.join(found)}): {_POOR}"]
    return []


def _pieces(question: Question, texts: Texts) -> list[str]:
    tokeniser = texts.side.text_tower.tokeniser
    unknown_id = tokeniser.unk_token_id
    ids = tokeniser([term.phrase for term in question.terms], add_special_tokens=False)["input_ids"]
    pieces = [piece for row in ids for piece in row]
    unknown = sum(piece == unknown_id for piece in pieces)
    if not pieces or unknown <= UNKNOWN_PIECES * len(pieces):
        return []
    return [
        f"{unknown} of {len(pieces)} word pieces are unknown to the text tower: it cannot read this query"
    ]


def _domain(question: Question, texts: Texts, bank: PhraseBank) -> list[str]:
    """The rule: nearer to some phrase of the bank than 1 in 100 of its phrases is to the next one."""
    if bank.nearest is None:
        return []
    best_B = (texts.vectors(question.texts) @ bank.vectors.T).max(axis=1)
    return [
        f"{_short(text)} is unlike all {len(bank):,} phrases of {bank.snapshot.location}: cosine with the "
        f"nearest is {best:.2f}, theirs with one another at least {bank.nearest:.2f}"
        for text, best in zip(question.texts, best_B, strict=True)
        if best < bank.nearest - np.float32(1e-6)
    ]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
