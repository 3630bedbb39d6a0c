"""CellWhisperer's routes, as its clients call them: its CELLxGENE and its notebooks can point here.

Its model service (`/clip/api`), its chat worker (`/worker_*`) and what it adds to CELLxGENE's API
(`/api/v0.2/llmembs`). A pickle goes out only where its client reads nothing else; none is ever read.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from engine.models.chat import templates
from engine.serving.cellxgene_matrix import one_column
from engine.serving.chat.answers import DEFAULT_QUESTION
from engine.serving.chat.backends import answer_to
from engine.serving.chat.conversation import Conversation, Wish, turns_of
from engine.serving.chat.evidence import gather
from engine.serving.doors import Doors
from engine.serving.problems import Problem, documented, not_loaded, of_error
from engine.serving.routes.asking import OCTETS, WithDoors, answers, needs
from engine.serving.routes.cellwhisperer_bodies import (
    Chat,
    Generate,
    Interpret,
    OfCells,
    Text,
    Texts,
    Thumb,
)
from engine.serving.streams import Stream

router = APIRouter(
    tags=["CellWhisperer"], dependencies=[needs("chat")], responses=documented(404, 415, 501, 502, 504)
)

MODEL = "syncytium__evidence"
IMAGE = "<image>"
# Cells that stand for a vector somebody sends.
_NEAREST = 50
_KEYWORDS = 5
# Of an interpretation.
_GENES = 50
_TURN = re.compile(r"\[INST\](.*?)\[/INST\]", re.DOTALL)
_counter = itertools.count()


@router.post("/clip/api/text_embedding", response_class=Response, responses=answers(OCTETS))
async def text_embedding(texts: Texts, doors: Doors = WithDoors) -> Response:
    """A pickled float32 array of unit vectors: what their client unpickles."""
    if doors.texts is None:
        raise not_loaded("joint model", "--joint")
    vectors = await doors.texts.vectors.remote(texts)
    return Response(pickle.dumps(np.asarray(vectors, np.float32)), media_type=OCTETS)


@router.get("/clip/api/logit_scale", response_class=PlainTextResponse)
async def logit_scale(doors: Doors = WithDoors) -> str:
    """What cosines are multiplied with."""
    if doors.texts is None:
        raise not_loaded("joint model", "--joint")
    return str(1 / (await doors.texts.facts.remote())["temperature"])


@router.post("/clip/api/score_transcriptomes_vs_texts", response_model=None)
async def pickled_scores() -> Response:
    """Always refused: its body is a pickle, and reading one runs what it says."""
    detail = "pickled requests are not read; POST JSON to /v1/score, or /clip/api/text_embedding"
    raise Problem(415, "pickle_refused", detail)


@router.post("/worker_get_status")
async def worker_status() -> dict[str, Any]:
    """What their web server asks a chat worker."""
    return {"model_names": [MODEL], "speed": 1, "queue_length": 0}


@router.post("/worker_generate_stream", response_model=None, responses=answers(OCTETS))
async def generate(asked: Generate, doors: Doors = WithDoors) -> Response:
    """Frames `{"text": prompt and answer so far, "error_code": 0}` with a zero byte after each; what is
    refused is a frame with `error_code` 1, as their worker's, whose clients look at no status.

    A vector that is not in the index is spoken of through the cells nearest to it.
    """
    words = _answer_to(doors, asked)
    return _frames(words, asked.prompt, {"error_code": 0})


async def _answer_to(doors: Doors, asked: Generate) -> AsyncGenerator[str, None]:
    if asked.prompt.count(IMAGE) != len(asked.images):
        detail = f"{len(asked.images)} images for {asked.prompt.count(IMAGE)} times {IMAGE} in the prompt"
        raise Problem(400, "bad_images", detail)
    if not asked.images:
        raise Problem(400, "no_evidence", "no image: there are no cells to speak of")
    vector = np.asarray(asked.images[-1])
    # Beyond float32 there is no direction left.
    if not (np.abs(vector) < np.finfo(np.float32).max).all():
        raise Problem(400, "bad_images", "an image has numbers that are no float32")
    facts = {} if doors.chat is None else await doors.chat.facts.remote()
    if facts.get("answers") and {len(image) for image in asked.images} == {facts["cell_width"]}:
        # Their prompts are written for a model that reads the vectors themselves.
        vectors = np.asarray(asked.images, np.float32)
        if not np.isfinite(vectors).all():
            raise Problem(400, "bad_images", "an image has numbers that are no float32")
        async with aclosing(doors.chat.complete.stream(asked.prompt, vectors, asked.wish(doors))) as pieces:
            async for piece in pieces:
                yield piece
        return
    found = await doors.cells.search.remote(vector.astype(np.float32), _NEAREST, None, "cosine", "auto", None)
    ids = np.array(sorted(hit["cell"] for hit in found["hits"]), np.int64)
    turns = _TURN.findall(asked.prompt)
    question = (turns[-1] if turns else asked.prompt).replace(IMAGE, "").strip()
    said = [templates.Turn("user", question, 1)]
    async with aclosing(_answer(doors, ids, said, "the cells nearest to these", asked.wish(doors))) as words:
        async for word in words:
            yield word


@router.post("/api/v0.2/llmembs/text", response_class=Response, responses=answers(OCTETS, "application/json"))
async def score_text(asked: Text, request: Request, doors: Doors = WithDoors) -> Response:
    """Every cell's score, as a CELLxGENE matrix: a row a cell of the store, NaN for cells that the index does
    not have. Or as JSON by cell name, for who accepts that.
    """
    question = await doors.question(asked.text)
    if "application/json" in request.headers.get("accept", ""):
        ids = await doors.cells.ids.remote(None)
        names = (await doors.cells.obs.remote(ids)).index
        scores = await doors.cells.all_scores.remote(question.vector, question.length)
        content = await asyncio.to_thread(_by_name, names, scores)
        return Response(content, media_type="application/json")
    scores = await doors.cells.scores_by_cell.remote(question.vector, question.length)
    name = f"{next(_counter)}_{short_name(asked.text)}"
    return Response(one_column(scores, name), media_type=OCTETS)


@router.post("/api/v0.2/llmembs/obs")
async def keywords(asked: OfCells, doors: Doors = WithDoors) -> list[dict[str, Any]]:
    """Best terms of each library of the phrase bank, standardised over all phrases, positive ones only."""
    if doors.phrases is None:
        raise not_loaded("phrase bank", "--phrases")
    vector, _ = await doors.cells.mean.remote(await asked.cell_selection.cells(doors))
    (ranked,) = await doors.phrases.keywords.remote(vector[None], _KEYWORDS)
    return [
        {"library": library, "keywords": [f"{term} ({score:.2f})" for term, score in terms]}
        for library, terms in ranked
    ]


@router.post("/api/v0.2/llmembs/chat", response_class=Response, responses=answers(OCTETS))
async def chat(asked: Chat, doors: Doors = WithDoors) -> Response:
    """Frames `{"text": answer so far}` with a zero byte after each."""
    ids = await asked.cell_selection.cells(doors)
    sides: dict[str, templates.Role] = {"human": "user", "gpt": "assistant"}
    said = [
        templates.Turn(sides[turn.speaker], turn.value, int(not n)) for n, turn in enumerate(asked.messages)
    ]
    return _frames(_answer(doors, ids, said, "these cells", asked.wish(doors)), "", {})


@router.post("/api/v0.2/llmembs/feedback")
async def feedback(given: Thumb) -> dict[str, str]:
    """Taken and forgotten: theirs keeps the conversation and the embedding, ours keeps neither."""
    return {"status": "OK"}


@router.post("/api/v0.2/llmembs/interpret")
async def interpret(asked: Interpret, doors: Doors = WithDoors) -> dict[str, Any]:
    """Genes that the selection's score for a text rests on, with the score. Theirs was never finished.

    `method` says how they were found. `integrated_gradients`: through the joint model's cell tower, of a
    sample of the cells; `deletion` is what the mean score loses without the gene, the cells encoded again.
    `near_against_far`, where no tower is loaded: genes that the half of the cells nearest to the text express
    more than the other half, a contrast of cells that says nothing of the model.
    """
    if doors.counts is None:
        raise not_loaded("cell store", "--cells")
    ids = await asked.cell_selection.cells(doors)
    question = await doors.question(asked.text)
    scores = await doors.scores_of(ids, question)
    found = {"text": asked.text, "mean_score": float(scores.mean())}
    if doors.attributions is not None:
        through = await doors.attributions.attribute.remote(ids, question.vector, _GENES)
        return {**found, "method": "integrated_gradients", **through}
    order = np.argsort(scores, kind="stable")
    half = max(1, len(ids) // 2)
    near, far = ids[order[-half:]], ids[order[:half]]
    markers = await doors.counts.markers.remote(np.sort(near), np.sort(far), _GENES)
    genes = [{**gene, "contribution": gene["log2_fold"]} for gene in markers["genes"]]
    return {**found, "method": "near_against_far", "genes": genes}


async def _answer(
    doors: Doors, ids: npt.NDArray[np.int64], said: Sequence[templates.Turn], name: str, wish: Wish
) -> AsyncGenerator[str, None]:
    """said: the conversation; what comes with its first turn are these cells."""
    pieces = await gather(doors, ids, name, 1)
    if not pieces:
        raise Problem(400, "no_evidence", "there is no evidence on these cells, so nothing is said of them")
    turns = turns_of(said)
    if not turns or turns[-1].role != "user":
        raise Problem(400, "no_question", "the last message must be the user's")
    last = replace(turns[-1], text=turns[-1].text or DEFAULT_QUESTION)
    conversation = Conversation((*turns[:-1], last), (ids,), {name: ids}, pieces, wish)
    async with aclosing(answer_to(doors, conversation)) as words:
        async for word in words:
            yield word


def _frames(words: AsyncGenerator[str, None], before: str, more: dict[str, Any]) -> Stream:
    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            so_far = before
            async for word in words:
                so_far += word
                yield json.dumps({"text": so_far, **more}).encode() + b"\0"
        except Exception as error:  # noqa: BLE001 - the status line is sent: their clients read the code
            problem = of_error("a stream", error)
            yield json.dumps({"text": problem.detail, "error_code": 1}).encode() + b"\0"

    headers = {"Content-Encoding": "identity", "Cache-Control": "no-store"}
    return Stream(frames(), OCTETS, headers=headers)


def _by_name(names: Sequence[str], scores: npt.NDArray[np.float32]) -> bytes:
    return json.dumps(dict(zip(map(str, names), scores.tolist(), strict=True))).encode()


def short_name(text: str) -> str:
    """A column's name as theirs: short texts as they are, long ones cut after 20 characters."""
    return text if len(text) <= 22 else f"{text[:20].replace(' ', '_')}..."
