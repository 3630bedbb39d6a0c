"""CellWhisperer's routes, as its clients call them: its CELLxGENE and its notebooks can point here.

Its model service (`/clip/api`), its chat worker (`/worker_*`) and what it adds to CELLxGENE's API
(`/api/v0.2/llmembs`). A pickle goes out only where its client reads nothing else; none is ever read.
"""

from __future__ import annotations

import itertools
import json
import pickle
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from engine.serving.cellxgene_matrix import one_column
from engine.serving.chat.answers import DEFAULT_QUESTION, from_evidence
from engine.serving.chat.evidence import gather
from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import Problem, not_loaded, of_error
from engine.serving.routes.asking import WithDoors, needs

router = APIRouter(tags=["CellWhisperer"], dependencies=[needs("chat")])

MODEL = "syncytium__evidence"
IMAGE = "<image>"
# Cells that stand for a vector somebody sends.
_NEAREST = 50
_KEYWORDS = 5
_TURN = re.compile(r"\[INST\](.*?)\[/INST\]", re.DOTALL)
_counter = itertools.count()

Texts = Annotated[list[str], Field(max_length=1_024)]


class Generate(BaseModel):
    """A prompt with `<image>` for each vector in `images`."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(max_length=64_000)
    images: list[list[float]] = Field([], max_length=8)


class ObsIndex(BaseModel):
    model_config = ConfigDict(extra="ignore")

    index: list[int | tuple[int, int]]


class ObsFilter(BaseModel):
    model_config = ConfigDict(extra="ignore")

    obs: ObsIndex


class CellSelection(BaseModel):
    """Positions of cells, or inclusive ranges of them."""

    model_config = ConfigDict(extra="ignore")

    filter: ObsFilter

    @property
    def choice(self) -> CellChoice:
        cells = [each for each in self.filter.obs.index if isinstance(each, int)]
        ranges = [(each[0], each[1] + 1) for each in self.filter.obs.index if not isinstance(each, int)]
        try:
            return CellChoice(cells=cells, ranges=ranges)
        except ValueError as error:
            raise Problem(400, "bad_filter", "the filter names no cells") from error


class Text(BaseModel):
    model_config = ConfigDict(extra="ignore")

    text: str = Field(min_length=1, max_length=4_000)


class OfCells(BaseModel):
    model_config = ConfigDict(extra="ignore")

    cell_selection: CellSelection = Field(alias="cellSelection")


class Turn(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: str = Field(max_length=16_000)


class Chat(OfCells):
    messages: list[Turn] = Field(min_length=1, max_length=64)


class Thumb(Chat):
    thumb: Literal["up", "down"] = Field(alias="thumbDirection")


class Interpret(OfCells):
    text: str = Field(min_length=1, max_length=4_000)


@router.post("/clip/api/text_embedding", response_class=Response)
async def text_embedding(texts: Texts, doors: Doors = WithDoors) -> Response:
    """A pickled float32 array of unit vectors: what their client unpickles."""
    if doors.texts is None:
        raise not_loaded("joint model", "--joint")
    vectors = await doors.texts.vectors.remote(texts)
    return Response(pickle.dumps(np.asarray(vectors, np.float32)), media_type="application/octet-stream")


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


@router.post("/worker_generate_stream", response_model=None)
async def generate(asked: Generate, doors: Doors = WithDoors) -> Response:
    """Frames `{"text": prompt and answer so far, "error_code": 0}` with a zero byte after each.

    A vector that is not in the index is spoken of through the cells nearest to it.
    """
    if asked.prompt.count(IMAGE) != len(asked.images):
        detail = f"{len(asked.images)} images for {asked.prompt.count(IMAGE)} times {IMAGE} in the prompt"
        raise Problem(400, "bad_images", detail)
    if not asked.images:
        raise Problem(400, "no_evidence", "no image: there are no cells to speak of")
    vector = np.asarray(asked.images[-1], np.float32)
    found = await doors.cells.search.remote(vector, _NEAREST, None, "cosine", "auto", None)
    ids = np.array(sorted(hit["cell"] for hit in found["hits"]), np.int64)
    turns = _TURN.findall(asked.prompt)
    question = (turns[-1] if turns else asked.prompt).replace(IMAGE, "").strip()
    words = _answer(doors, ids, question, "the cells nearest to these")
    return _frames(words, asked.prompt, {"error_code": 0}, "application/octet-stream")


@router.post("/api/v0.2/llmembs/text", response_model=None)
async def score_text(asked: Text, request: Request, doors: Doors = WithDoors) -> Response | dict[str, float]:
    """Every cell's score, as a CELLxGENE matrix; or as JSON by cell name, for who accepts that."""
    question = await doors.question(asked.text)
    scores = await doors.cells.all_scores.remote(question.vector, question.length)
    if "application/json" in request.headers.get("accept", ""):
        rows = await doors.cells.names.remote(await doors.cells.ids.remote(None))
        return {row["name"]: float(score) for row, score in zip(rows, scores, strict=True)}
    name = f"{next(_counter)}_{short_name(asked.text)}"
    return Response(one_column(scores, name), media_type="application/octet-stream")


@router.post("/api/v0.2/llmembs/obs")
async def keywords(asked: OfCells, doors: Doors = WithDoors) -> list[dict[str, Any]]:
    """Best terms of each library of the phrase bank, standardised over all phrases, positive ones only."""
    if doors.phrases is None:
        raise not_loaded("phrase bank", "--phrases")
    vector, _ = await doors.cells.mean.remote(await doors.chosen(asked.cell_selection.choice))
    ranked = await doors.phrases.standardised.remote(vector, _KEYWORDS)
    found = [
        {"library": library, "keywords": [f"{term} ({score:.2f})" for term, score in terms if score > 0]}
        for library, terms in sorted(ranked.items(), key=lambda each: -each[1][0][1])
    ]
    return [each for each in found if each["keywords"]]


@router.post("/api/v0.2/llmembs/chat", response_model=None)
async def chat(asked: Chat, doors: Doors = WithDoors) -> Response:
    """Frames `{"text": answer so far}` with a zero byte after each."""
    ids = await doors.chosen(asked.cell_selection.choice)
    words = _answer(doors, ids, asked.messages[-1].value, "these cells")
    return _frames(words, "", {}, "application/json")


@router.post("/api/v0.2/llmembs/feedback")
async def feedback(given: Thumb) -> dict[str, str]:
    """Taken and forgotten: theirs keeps the conversation and the embedding, ours keeps neither."""
    return {"status": "OK"}


@router.post("/api/v0.2/llmembs/interpret")
async def interpret(asked: Interpret, doors: Doors = WithDoors) -> dict[str, Any]:
    """Genes of a selection against the other cells, with the selection's score for the text beside theirs.

    Theirs was never finished. This says what goes along with the score: genes that the cells nearest to the
    text, among those chosen, express more than the chosen cells farthest from it.
    """
    if doors.counts is None:
        raise not_loaded("cell store", "--cells")
    ids = await doors.chosen(asked.cell_selection.choice)
    question = await doors.question(asked.text)
    everyone = await doors.cells.ids.remote(None)
    scores = await doors.cells.all_scores.remote(question.vector, question.length)
    scores = scores[np.searchsorted(everyone, ids)]
    order = np.argsort(scores, kind="stable")
    half = max(1, len(ids) // 2)
    near, far = ids[order[-half:]], ids[order[:half]]
    found = await doors.counts.markers.remote(np.sort(near), np.sort(far), 50)
    return {
        "text": asked.text,
        "mean_score": float(scores.mean()),
        "genes": [{**gene, "contribution": gene["log2_fold"]} for gene in found["genes"]],
    }


async def _answer(doors: Doors, ids: npt.NDArray[np.int64], question: str, name: str) -> str:
    pieces = await gather(doors, ids, name, 1)
    if not pieces:
        raise Problem(400, "no_evidence", "there is no evidence on these cells, so nothing is said of them")
    return from_evidence(question or DEFAULT_QUESTION, pieces, {name: len(ids)})


def _frames(words: Any, before: str, more: dict[str, Any], media_type: str) -> StreamingResponse:
    async def frames() -> AsyncIterator[bytes]:
        try:
            text, so_far = await words, before
            for word in re.findall(r"\S+\s*", text):
                so_far += word
                yield json.dumps({"text": so_far, **more}).encode() + b"\0"
        except Exception as error:  # noqa: BLE001 - the status line is sent: their clients read the code
            problem = of_error("a stream", error)
            yield json.dumps({"text": problem.detail, "error_code": 1}).encode() + b"\0"

    headers = {"Content-Encoding": "identity", "Cache-Control": "no-store"}
    return StreamingResponse(frames(), media_type=media_type, headers=headers)


def short_name(text: str) -> str:
    """A column's name as theirs: short texts as they are, long ones cut after 20 characters."""
    return text if len(text) <= 22 else f"{text[:20].replace(' ', '_')}..."
