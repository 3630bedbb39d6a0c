"""Finding and scoring cells: /v1/search, /v1/score, /v1/embeddings, /v1/models."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import Problem, documented, not_loaded
from engine.serving.rooms.cell_view import Scores
from engine.serving.routes.asking import OCTETS, WithDoors, answers, needs

router = APIRouter(tags=["retrieval"], dependencies=[needs("read")], responses=documented(404, 501))

Text = Annotated[str, Field(min_length=1, max_length=4_000)]
STARTED = int(time.time())


class SearchRequest(BaseModel):
    """Cells like a text, or like the mean of some cells. where: only cells that pass this condition. how: ivf
    looks into `probes` inverted lists, of an index that has such (`index --ivf`), and may miss cells; the
    answer's `ways` say how it was searched.
    """

    model_config = ConfigDict(extra="forbid")

    text: Text | None = None
    like: CellChoice | None = None
    where: str | None = Field(None, max_length=4_000)
    k: int = Field(10, ge=1, le=100)
    metric: Literal["cosine", "dot"] = "cosine"
    how: Literal["auto", "exact", "shortlist", "ivf"] = "auto"
    rerank: int | None = Field(None, ge=1, le=1_000_000)
    probes: int = Field(32, ge=1, le=65_536)
    template: str | None = Field(None, max_length=400)


class ScoreRequest(BaseModel):
    """Every cell's score for a text: `plus - minus`, with weights, is part of the text's own grammar."""

    model_config = ConfigDict(extra="forbid")

    text: Text
    template: str | None = Field(None, max_length=400)


class PhrasesRequest(BaseModel):
    """What some cells may be called. where: a condition on `library`, `term` and `text`."""

    model_config = ConfigDict(extra="forbid")

    cells: CellChoice
    where: str | None = Field(None, max_length=4_000)
    k: int = Field(10, ge=1, le=100)


class EmbeddingsRequest(BaseModel):
    """As OpenAI's; `user` is taken and ignored."""

    model_config = ConfigDict(extra="forbid")

    input: str | list[str]
    model: str = "joint"
    dimensions: int | None = Field(None, ge=1, le=65_536)
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


@router.post("/v1/search", response_model=dict[str, Any])
async def search(asked: SearchRequest, doors: Doors = WithDoors) -> Response:
    """The k best cells with their annotations."""
    if (asked.text is None) == (asked.like is None):
        raise Problem(422, "invalid_request", "give text or like: one of them says what to look for")
    factor, where, truncated = 1.0, asked.where, False
    if asked.text is not None:
        question = await doors.question(asked.text, asked.template)
        vector, factor, truncated = question.vector, question.length, bool(question.truncated)
    else:
        assert asked.like is not None  # noqa: S101 - said above; for mypy
        vector, _ = await doors.cells.mean.remote(await doors.chosen(asked.like))
    found = await doors.cells.search.remote(
        vector, asked.k, where, asked.metric, asked.how, asked.rerank, asked.probes
    )
    for hit in found["hits"]:
        hit["score"] = round(hit["score"] * factor, 5)
    # Plain values already: written once, and not looked through again.
    return Response(to_json({**found, "truncated": truncated}), media_type="application/json")


@router.post("/v1/score", response_class=Response, responses=answers(OCTETS))
async def score(asked: ScoreRequest, doors: Doors = WithDoors) -> Response:
    """A byte a cell, by ascending id: 1 is X-Score-Low, 255 is X-Score-High, 0 no score."""
    question = await doors.question(asked.text, asked.template)
    return levels_response(await doors.cells.scores.remote(question.vector, question.length))


def levels_response(scores: Scores) -> Response:
    headers = {"X-Score-Low": repr(scores.low), "X-Score-High": repr(scores.high)}
    return Response(scores.levels, media_type="application/octet-stream", headers=headers)


@router.post("/v1/phrases")
async def phrases(asked: PhrasesRequest, doors: Doors = WithDoors) -> dict[str, Any]:
    """Phrases of the bank that are most like the mean of some cells, overall and of each library."""
    if doors.phrases is None:
        raise not_loaded("phrase bank", "--phrases")
    vector, alike = await doors.cells.mean.remote(await doors.chosen(asked.cells))
    return {"alike": alike, **await doors.phrases.rank.remote(vector, asked.k, asked.where)}


@router.post("/v1/embeddings")
async def embeddings(asked: EmbeddingsRequest, doors: Doors = WithDoors) -> dict[str, Any]:
    """Unit vectors of texts in the space of the cells."""
    texts, limits = [asked.input] if isinstance(asked.input, str) else asked.input, doors.settings.limits
    if not 1 <= len(texts) <= limits.texts:
        raise Problem(400, "too_many_texts", f"{len(texts)} texts; 1 to {limits.texts} are embedded at once")
    if any(not text.strip() or len(text) > limits.text_characters for text in texts):
        detail = f"a text is empty or longer than {limits.text_characters:,} characters"
        raise Problem(400, "bad_text", detail)
    if doors.texts is None:
        await doors.question(texts[0])
    vectors = await doors.texts.vectors.remote(texts)
    if asked.dimensions is not None:
        if asked.dimensions > vectors.shape[1]:
            raise Problem(
                400, "bad_dimensions", f"{asked.dimensions} dimensions; there are {vectors.shape[1]}"
            )
        vectors = vectors[:, : asked.dimensions]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    tokens = await doors.texts.tokens.remote(texts)
    return {
        "object": "list",
        "model": asked.model,
        "data": [
            {"object": "embedding", "index": number, "embedding": _encoded(vector, asked.encoding_format)}
            for number, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(vector: np.ndarray, encoding: str) -> Any:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()


@router.get("/v1/models")
async def models(doors: Doors = WithDoors) -> dict[str, Any]:
    """What `model` may be: `cells` answers conversations, `joint` embeds texts."""
    names = ["cells", *(["joint"] if doors.texts is not None else [])]
    listed = [{"id": name, "object": "model", "created": STARTED, "owned_by": "syncytium"} for name in names]
    return {"object": "list", "data": listed}
