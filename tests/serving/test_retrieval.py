"""Searching and scoring over HTTP answer what the library answers."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from engine.retrieval.build import IndexOptions, Source, build
from engine.retrieval.search import Searcher
from engine.retrieval.texts import Texts
from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.placement import Inside
from engine.serving.rooms.cells import CellRoom
from engine.serving.rooms.texts import TextRoom
from engine.serving.settings import Settings
from storage.index import VectorIndex
from storage.locations import Location


def test_search_is_the_library_s(client: TestClient, served: Settings) -> None:
    index = VectorIndex.open(served.index)
    question = Texts.of_index(index).question("B cell")
    expected = Searcher(index).search(question.vector, 7)
    found = client.post("/v1/search", json={"text": "B cell", "k": 7}).json()
    assert [hit["cell"] for hit in found["hits"]] == expected.cell.tolist()
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], expected.score, atol=1e-5)
    assert found["hits"][0]["obs"]["cell_type"]
    assert found["index_version"] == 1


def test_inverted_lists_answer_over_http(
    served: Settings, doors: Doors, client: TestClient, tmp_path: Path
) -> None:
    # The same cells once more, in an index that has lists.
    old = VectorIndex.open(served.index)
    source = Source.open(old.facts["sources"][0]["path"], None, None)
    lists = IndexOptions(short_width=8, ivf_lists=8)
    index, _ = build(source, Location.of(tmp_path / "index"), lists, joint=old.facts["joint"])
    settings = served.model_copy(update={"index": str(tmp_path / "index")})
    listed = TestClient(create_api(replace(doors, settings=settings, cells=Inside(CellRoom(settings)))))
    body = {"text": "B cell", "k": 7, "how": "ivf"}
    question, searcher = Texts.of_index(index).question("B cell"), Searcher(index)
    for probes in (1, 8):
        expected = searcher.search(question.vector, 7, how="ivf", probes=probes)
        found = listed.post("/v1/search", json={**body, "probes": probes}).json()
        assert [hit["cell"] for hit in found["hits"]] == expected.cell.tolist()
        assert found["ways"] == {"ivf": 1}
    # All lists hold all cells; a condition is not left to lists; an index without any is searched whole.
    assert expected.cell.tolist() == searcher.search(question.vector, 7, how="exact").cell.tolist()
    found = listed.post("/v1/search", json={**body, "where": "cell_type = 'B cell'"}).json()
    assert "ivf" not in found["ways"]
    assert "ivf" not in client.post("/v1/search", json=body).json()["ways"]
    assert listed.post("/v1/search", json={**body, "probes": 0}).status_code == 422


def test_texts_in_bfloat16_are_near(served: Settings) -> None:
    texts = ["B cell", "a natural killer cell from blood", "liver"]
    exact = Texts.of_index(VectorIndex.open(served.index)).vectors(texts)
    near = asyncio.run(TextRoom(served.model_copy(update={"text_precision": "bf16"})).vectors(texts))
    assert not np.array_equal(near, exact)
    assert (near * exact).sum(axis=1).min() > 0.999


def test_texts_are_in_bfloat16_where_the_cpu_has_instructions_for_it(
    served: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["B cell", "liver"]
    exact = Texts.of_index(VectorIndex.open(served.index)).vectors(texts)
    for able in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
        room = TextRoom(served.model_copy(update={"text_precision": "auto"}))
        assert np.array_equal(asyncio.run(room.vectors(texts)), exact) is not able


def test_signs_weigh_scores(client: TestClient) -> None:
    def score(text: str) -> np.ndarray:
        response = client.post("/v1/score", json={"text": text})
        low, high = (float(response.headers[f"x-score-{end}"]) for end in ("low", "high"))
        levels = np.frombuffer(response.content, np.uint8).astype(float)
        assert levels.min() == 1
        assert levels.max() == 255
        return low + (levels - 1) / 254 * (high - low)

    both = score("B cell") - score("monocyte")
    np.testing.assert_allclose(score("B cell MINUS monocyte"), both, atol=0.02)


def test_cells_like_cells_within_a_condition(client: TestClient) -> None:
    like = {"where": "cell_type = 'B cell'"}
    found = client.post("/v1/search", json={"like": like, "where": "cell_type != 'B cell'", "k": 5}).json()
    assert len(found["hits"]) == 5
    assert all(hit["obs"]["cell_type"] != "B cell" for hit in found["hits"])


def test_phrases_for_cells(client: TestClient) -> None:
    cells = {"where": "cell_type = 'B cell'"}
    found = client.post("/v1/phrases", json={"cells": cells, "k": 3}).json()
    assert found["phrases"][0]["term"] == "B cell"
    assert set(found["libraries"]) == {"types", "organs"}
    organs = client.post("/v1/phrases", json={"cells": cells, "where": "library = 'organs'"}).json()
    assert {each["term"] for each in organs["phrases"]} == {"blood", "liver", "plasma"}
    assert sum(each["probability"] for each in organs["phrases"]) == pytest.approx(1)


def test_embeddings_as_openai_reads_them(client: TestClient, served: Settings) -> None:
    openai = pytest.importorskip("openai", reason="needs the openai client")
    api = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=client)
    texts = ["B cell", "natural killer cell"]
    expected = Texts.of_index(VectorIndex.open(served.index)).vectors(texts)
    found = api.embeddings.create(model="joint", input=texts)  # base64 on the wire
    np.testing.assert_allclose([each.embedding for each in found.data], expected, atol=1e-6)
    assert found.usage.prompt_tokens > 4
    shorter = api.embeddings.create(model="joint", input=texts, dimensions=16, encoding_format="float")
    cut = expected[:, :16] / np.linalg.norm(expected[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose([each.embedding for each in shorter.data], cut, atol=1e-6)
    assert {model.id for model in api.models.list()} == {"cells", "joint"}
    with pytest.raises(openai.BadRequestError) as refused:
        api.embeddings.create(model="joint", input=texts, dimensions=4_096)
    assert refused.value.code == "bad_dimensions"


def test_base64_is_little_endian_float32(client: TestClient) -> None:
    body = {"input": "B cell", "encoding_format": "base64"}
    coded = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    plain = client.post("/v1/embeddings", json={"input": "B cell"}).json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), plain, atol=1e-7)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"text": "T cell", "like": {"all": True}}, 422, "invalid_request"),
        ({"text": "T cell", "where": "tissu = 'x'"}, 400, "bad_input"),
        ({"text": 'T "cell'}, 400, "bad_input"),
        ({"text": "T cell", "k": 101}, 422, "invalid_request"),
        ({"text": "T cell", "how": "guess"}, 422, "invalid_request"),
        ({"like": {"cells": [10**9]}}, 400, "unknown_cell"),
        ({"like": {"cells": [-1]}}, 422, "invalid_request"),
        ({"like": {"ranges": [[0, 2**52]]}}, 413, "too_many_cells"),
        ({"like": {"selection": "sel_no"}}, 404, "no_selection"),
        ({"text": "T cell", "unknown": 1}, 422, "invalid_request"),
    ],
)
def test_refusals_are_problems(client: TestClient, body: dict, status: int, code: str) -> None:
    response = client.post("/v1/search", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert "Traceback" not in response.text
