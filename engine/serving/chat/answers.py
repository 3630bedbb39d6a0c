"""Words for evidence: put together here, or checked where a model has put them together.

Whoever words it, an answer cites its evidence as `[E1]`, cites nothing that is not there, and marks genes
that the evidence does not name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from engine.serving.chat.evidence import Evidence, genes_of, terms_of
from engine.serving.doors import Doors

BACKGROUND = " (not in the evidence)"
UNFOUNDED = "(no evidence for this)"
# What is answered when cells come without words.
DEFAULT_QUESTION = "Describe these cells in detail."

# What a question asks for, by words in it; a question with none of them gets everything.
_ASKED = {
    "genes": ("gene", "marker", "express", "transcript"),
    "annotations": ("tissue", "disease", "donor", "annotat", "label", "where", "compos", "sample", "batch"),
    "phrases": ("phrase", "term"),
    "features": ("feature", "autoencoder", "sae"),
    "mixture": ("mix", "homogen", "heterogen", "one kind", "pure", "doublet"),
}
_CITATION = re.compile(r"\[E(\d+)\]")
_SYMBOL = re.compile(r"\b[A-Z][A-Za-z0-9]*(?:-[A-Z0-9]+)*\b")
_FEWEST_WORDS = 3


def from_evidence(question: str, pieces: Sequence[Evidence], cells: dict[str, int]) -> str:
    """An answer without a language model. cells: number of cells of each selection by its name."""
    lowered = question.lower()
    kinds = {kind for kind, words in _ASKED.items() if any(word in lowered for word in words)}
    wanted = [piece for piece in pieces if not kinds or piece.kind in kinds or piece.kind == "hits"]
    sentences = [f"{name[:1].upper()}{name[1:]}: {n:,} cells." for name, n in cells.items()]
    missing = kinds - {piece.kind for piece in pieces}
    for piece in wanted:
        summary = piece.summary
        sentences.append(f"{summary[:1].upper()}{summary[1:]} [{piece.id}].")
    for kind in sorted(missing):
        sentences.append(f"There is no evidence on {kind} here.")
    if any(piece.kind == "mixture" for piece in pieces) and "mixture" not in kinds and kinds:
        sentences.append("Mind that these cells are a mixture; a part of them may differ.")
    return " ".join(sentences)


async def checked(doors: Doors, sentence: str, pieces: Sequence[Evidence]) -> str:
    """The sentence without citations of what is not there, with genes marked that no evidence names, and with
    a citation: of the evidence that names what it names, where it brought none.
    """
    known = {piece.id for piece in pieces}
    sentence = _CITATION.sub(lambda m: m[0] if f"E{m[1]}" in known else "", sentence)
    words = list(dict.fromkeys(_SYMBOL.findall(sentence)))
    strange: list[str] = []
    if doors.counts is not None and words:
        named = genes_of(pieces) | _within(sentence, pieces)
        strange = [gene for gene in await doors.counts.known_genes.remote(words) if gene not in named]
    return cited(marked(sentence, strange), pieces)


def marked(sentence: str, genes: Iterable[str]) -> str:
    for gene in genes:
        # The sign of "CD4+" belongs to the name.
        pattern = rf"\b{re.escape(gene)}\b(?!-)\+?"
        sentence = re.sub(pattern, lambda m: m[0] + BACKGROUND, sentence, count=1)
    return sentence


def _within(sentence: str, pieces: Sequence[Evidence]) -> set[str]:
    """Genes in the names of what the evidence and the sentence both name, as in "CD14+ monocyte"."""
    shared = [term for piece in pieces for term in terms_of(piece) if _names(sentence, [term])]
    return {word for term in shared for word in _SYMBOL.findall(term)}


def cited(sentence: str, pieces: Sequence[Evidence]) -> str:
    """A claim that cites nothing gets the pieces that name what it names, or the mark that there are none.

    Less than three words claim nothing.
    """
    if _CITATION.search(sentence) or len(sentence.split()) < _FEWEST_WORDS:
        return sentence
    found = [f"[{piece.id}]" for piece in pieces if _names(sentence, terms_of(piece))]
    body = sentence.rstrip()
    end = body[-1] if body and body[-1] in ".!?" else ""
    body = body.removesuffix(end).rstrip()
    return f"{body} {''.join(found) or UNFOUNDED}{end}" + " " * (len(sentence) - len(sentence.rstrip()))


def _names(sentence: str, terms: Iterable[str]) -> bool:
    """Whether one of these is in the sentence as a whole, in the singular or the plural."""
    return any(
        re.search(rf"(?<!\w){re.escape(term)}s?(?!\w)", sentence, re.IGNORECASE) for term in terms if term
    )
