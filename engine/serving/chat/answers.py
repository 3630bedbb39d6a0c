"""Words for evidence: put together here, or by a language model that is given nothing else and is checked.

Whoever words it, an answer cites its evidence as `[E1]`, cites nothing that is not there, and marks genes
that the evidence does not name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Iterable, Sequence

import httpx

from engine.serving.chat.evidence import Evidence, genes_of
from engine.serving.doors import Doors
from engine.serving.problems import Problem

KEY_VARIABLE = "SYNCYTIUM_LANGUAGE_MODEL_KEY"
BACKGROUND = " (not in the evidence)"
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
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

_INSTRUCTIONS = (
    "You describe single cells to a biologist. Use only the numbered evidence. After every claim cite the "
    "piece it rests on as [E1]. If the evidence does not answer the question, say so. Do not speculate about "
    "the donor. Be brief."
)


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


async def from_language_model(
    doors: Doors, messages: Sequence[tuple[str, str]], pieces: Sequence[Evidence], tokens: int
) -> AsyncIterator[str]:
    """Sentences of a language model, each checked as it is complete. Raises Problem 502 when it fails."""
    evidence = "\n".join(
        f"[{piece.id}] {piece.summary}. {json.dumps(piece.facts)[:2_000]}" for piece in pieces
    )
    body = {
        "model": doors.settings.language_model_name,
        "stream": True,
        "temperature": 0,
        "max_tokens": tokens,
        "messages": [
            {"role": "system", "content": f"{_INSTRUCTIONS}\n\nEvidence:\n{evidence}"},
            *({"role": role, "content": text} for role, text in messages),
        ],
    }
    waiting = ""
    async for text in _streamed(doors, body):
        waiting += text
        *complete, waiting = _SENTENCE_END.split(waiting)
        for sentence in complete:
            yield await checked(doors, sentence, pieces) + " "
    if waiting.strip():
        yield await checked(doors, waiting, pieces)


async def _streamed(doors: Doors, body: dict[str, object]) -> AsyncIterator[str]:
    url = f"{str(doors.settings.language_model).rstrip('/')}/chat/completions"
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(doors.settings.limits.answer_seconds, connect=5)
    try:
        async with (
            httpx.AsyncClient(timeout=timeout) as client,
            client.stream("POST", url, json=body, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise Problem(
                    502, "language_model_failed", f"the language model answered {response.status_code}"
                )
            async for line in response.aiter_lines():
                if line.startswith("data:") and line[5:].strip() != "[DONE]":
                    yield _delta(line[5:])
    except httpx.HTTPError as error:
        detail = f"the language model cannot be reached ({type(error).__name__})"
        raise Problem(502, "language_model_failed", detail) from error


def _delta(line: str) -> str:
    try:
        choices = json.loads(line).get("choices") or [{}]
        return str(choices[0].get("delta", {}).get("content") or "")
    except (ValueError, AttributeError, IndexError) as error:
        raise Problem(502, "language_model_failed", "the language model sent what is not a chunk") from error


async def checked(doors: Doors, sentence: str, pieces: Sequence[Evidence]) -> str:
    """The sentence without citations of what is not there, and with genes marked that no evidence names."""
    known = {piece.id for piece in pieces}
    sentence = _CITATION.sub(lambda m: m[0] if f"E{m[1]}" in known else "", sentence)
    words = list(dict.fromkeys(_SYMBOL.findall(sentence)))
    if doors.counts is None or not words:
        return sentence
    named = genes_of(pieces)
    return marked(sentence, [g for g in await doors.counts.known_genes.remote(words) if g not in named])


def marked(sentence: str, genes: Iterable[str]) -> str:
    for gene in genes:
        sentence = re.sub(rf"\b{re.escape(gene)}\b(?!-)", lambda m: m[0] + BACKGROUND, sentence, count=1)
    return sentence
