"""CellWhisperer's clients get what they expect, byte for byte where they read bytes."""

import json
import pickle
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from fastapi.testclient import TestClient
from flatbuffers import number_types as numbers

from engine.retrieval.search import Searcher
from engine.retrieval.texts import Texts
from engine.serving.api import create_api
from engine.serving.application import rooms_of
from engine.serving.cellxgene_matrix import one_column
from engine.serving.doors import Doors
from engine.serving.placement import Inside
from engine.serving.rooms.attributions import DELETED
from engine.serving.routes.cellwhisperer import short_name
from engine.serving.settings import Settings
from storage.cells import CellStore
from storage.index import VectorIndex, versions


def frames(content: bytes) -> list[dict]:
    assert content.endswith(b"\0")
    return [json.loads(each) for each in content[:-1].split(b"\0")]


def b_cells(client: TestClient) -> list:
    ranges = client.get("/v1/cells/ids", params={"where": "cell_type = 'B cell'"}).json()["ranges"]
    # Theirs are inclusive, and single cells are numbers.
    return [start if stop == start + 1 else [start, stop - 1] for start, stop in ranges]


def test_text_embeddings_are_a_pickled_array(client: TestClient, served: Settings) -> None:
    texts = Texts.of_index(VectorIndex.open(served.index))
    response = client.post("/clip/api/text_embedding", json=["B cell", "monocyte"])
    assert response.headers["content-type"] == "application/octet-stream"
    found = pickle.loads(response.content)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, texts.vectors(["B cell", "monocyte"]), atol=1e-6)
    scale = float(client.get("/clip/api/logit_scale").text)
    assert scale == pytest.approx(1 / texts.temperature)


def test_pickles_are_never_read(client: TestClient, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    sent = pickle.dumps(Touch())
    for path in ("score_transcriptomes_vs_texts", "text_embedding"):
        assert client.post(f"/clip/api/{path}", content=sent).status_code in (415, 422)
    assert not (tmp_path / "ran").exists()


def matrix(content: bytes) -> tuple[np.ndarray, list[str]]:
    """Reads the buffer by the schema, without the code that wrote it."""
    root = flatbuffers.table.Table(
        content, flatbuffers.encode.Get(numbers.UOffsetTFlags.packer_type, content, 0)
    )

    def inner(table: flatbuffers.table.Table, slot: int) -> flatbuffers.table.Table:
        offset = table.Offset(4 + 2 * slot)
        return flatbuffers.table.Table(content, table.Indirect(table.Pos + offset))

    columns = root.Offset(4 + 2 * 2)
    assert root.VectorLen(columns) == 1
    column = flatbuffers.table.Table(content, root.Indirect(root.Vector(columns)))
    assert column.Get(numbers.Uint8Flags, column.Pos + column.Offset(4)) == 1
    values = inner(column, 1).GetVectorAsNumpy(numbers.Float32Flags, inner(column, 1).Offset(4))
    assert root.Get(numbers.Uint32Flags, root.Pos + root.Offset(4)) == len(values)
    assert root.Get(numbers.Uint8Flags, root.Pos + root.Offset(4 + 2 * 3)) == 5
    names = inner(root, 4).GetVectorAsNumpy(numbers.Uint8Flags, inner(root, 4).Offset(4))
    return values, json.loads(names.tobytes())


def test_scores_as_cellxgene_reads_them(client: TestClient, served: Settings) -> None:
    index = VectorIndex.open(served.index)
    query = Texts.of_index(index).question("B cell").vector
    expected = Searcher(index).scores(query)[np.argsort(index.ids)]
    octets = {"accept": "application/octet-stream"}
    response = client.post("/api/v0.2/llmembs/text", json={"text": "B cell"}, headers=octets)
    values, names = matrix(response.content)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert names[0].endswith("_B cell")
    named = client.post(
        "/api/v0.2/llmembs/text", json={"text": "B cell"}, headers={"accept": "application/json"}
    )
    np.testing.assert_allclose(list(named.json().values()), values, atol=1e-7)


def test_columns_keep_short_texts() -> None:
    assert short_name("natural killer cells") == "natural killer cells"
    assert short_name("cells that were infected with a virus") == "cells_that_were_infe..."
    empty, names = matrix(one_column(np.zeros(1, np.float32), "a"))
    assert (empty.tolist(), names) == ([0.0], ["a"])


def test_chat_frames_grow(client: TestClient) -> None:
    body = {
        "messages": [{"from": "human", "value": "What are these?"}],
        "temperature": 0.0,
        "cellSelection": {"filter": {"obs": {"index": b_cells(client)}}},
    }
    response = client.post("/api/v0.2/llmembs/chat", json=body)
    assert response.headers["content-encoding"] == "identity"
    found = [frame["text"] for frame in frames(response.content)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(found))
    assert "97 cells" in found[-1]
    assert "CD79A" in found[-1]
    assert client.post("/api/v0.2/llmembs/feedback", json={**body, "thumbDirection": "up"}).json() == {
        "status": "OK"
    }
    bad = client.post(
        "/api/v0.2/llmembs/chat", json={**body, "cellSelection": {"filter": {"obs": {"index": []}}}}
    )
    assert bad.status_code == 400


def test_their_prompts_are_understood(client: TestClient, served: Settings, shared: Path) -> None:
    prompts = json.loads((shared / "golden/cellwhisperer/chat_prompts.json").read_text())
    index = VectorIndex.open(served.index)
    vector = Texts.of_index(index).question("B cell").vector.tolist()
    for each in prompts:
        images = [vector] * each["prompt"].count("<image>")
        body = {"model": "m", "prompt": each["prompt"], "images": images, "temperature": 0, "stop": "</s>"}
        found = frames(client.post("/worker_generate_stream", json=body).content)
        assert all(frame["error_code"] == 0 for frame in found)
        # Their client cuts the prompt off by its length.
        assert found[-1]["text"].startswith(each["prompt"])
        assert "the cells nearest to these" in found[-1]["text"][len(each["prompt"]) :].lower()
    refused = client.post("/worker_generate_stream", json={"prompt": "<image>", "images": []})
    # Their client looks at the frame's code, not at the status.
    assert frames(refused.content) == [
        {"text": "0 images for 1 times <image> in the prompt", "error_code": 1}
    ]
    assert client.post("/worker_get_status").json()["queue_length"] == 0


def test_keywords(client: TestClient) -> None:
    selection = {"cellSelection": {"filter": {"obs": {"index": b_cells(client)}}}}
    found = client.post("/api/v0.2/llmembs/obs", json=selection).json()
    assert found[0]["library"] == "types"
    assert found[0]["keywords"][0].startswith("B cell (")


def interpretation(client: TestClient, index: list, text: str = "B cell") -> dict:
    body = {"text": text, "cellSelection": {"filter": {"obs": {"index": index}}}}
    return client.post("/api/v0.2/llmembs/interpret", json=body).json()


def test_scores_are_attributed_to_genes_through_the_tower(client: TestClient, doors: Doors) -> None:
    cells = b_cells(client)[:6]
    found = interpretation(client, cells)
    assert found["method"] == "integrated_gradients"
    # The tower that is loaded makes the scores of the index, which keeps them in half precision.
    assert found["score"] == pytest.approx(found["mean_score"], abs=2e-3)
    # Nothing is lost on the way through the tower but the error of the integral.
    assert found["explained"] == pytest.approx(found["score"] - found["baseline"], rel=0.1)
    genes = found["genes"]
    contributions = [gene["contribution"] for gene in genes]
    assert contributions == sorted(contributions, reverse=True)
    assert min(contributions) > 0
    assert [gene["deletion"] is None for gene in genes] == [False] * DELETED + [True] * (len(genes) - DELETED)
    # Not the same thing, but what contributes is missed when it is gone.
    assert sum(gene["deletion"] for gene in genes[:DELETED]) > 0
    store = CellStore.open(doors.settings.cells)
    assert {gene["gene"] for gene in genes} <= set(store.genes["gene_name"])
    assert interpretation(client, cells) == found


def test_without_a_tower_near_cells_are_held_against_far_ones(doors: Doors) -> None:
    client = TestClient(create_api(replace(doors, attributions=None)))
    found = interpretation(client, [[0, 699]])
    assert found["method"] == "near_against_far"
    assert {"CD79A", "CD74", "MS4A1", "CD79B"} & {gene["gene"] for gene in found["genes"][:10]}


def test_a_server_may_be_told_to_load_no_tower(served: Settings) -> None:
    assert "attributions" in rooms_of(served)
    assert "attributions" not in rooms_of(served.model_copy(update={"cell_tower": False}))
    assert "attributions" not in rooms_of(served.model_copy(update={"cells": None}))


def test_a_bad_filter_is_a_400(client: TestClient) -> None:
    for index in ([], [[9, 2]], ["x"], [10_000], None):
        body = {"cellSelection": {"filter": {"obs": {"index": index}}}}
        assert client.post("/api/v0.2/llmembs/obs", json=body).status_code == 400, index
    assert client.post("/api/v0.2/llmembs/obs", json={}).status_code == 400


def test_a_cell_that_the_index_lacks_has_a_row_without_a_score(served: Settings, tmp_path: Path) -> None:
    """A page of theirs has a row for every cell of its file."""
    shutil.copytree(served.index, tmp_path / "index")
    versions.delete(VectorIndex.open(str(tmp_path / "index")), np.array([0, 5]))
    settings = served.model_copy(update={"index": str(tmp_path / "index")})
    doors = Doors(settings, **{name: Inside(room(settings)) for name, room in rooms_of(settings).items()})
    client = TestClient(create_api(doors))
    values, _ = matrix(client.post("/api/v0.2/llmembs/text", json={"text": "B cell"}).content)
    assert len(values) == 700
    assert np.flatnonzero(np.isnan(values)).tolist() == [0, 5]
    body = {
        "messages": [{"from": "human", "value": "genes?"}],
        "cellSelection": {"filter": {"obs": {"index": [[0, 9]]}}},
    }
    assert "8 cells" in frames(client.post("/api/v0.2/llmembs/chat", json=body).content)[-1]["text"]


def test_minus_is_a_difference(client: TestClient) -> None:
    def scores(text: str) -> np.ndarray:
        return matrix(client.post("/api/v0.2/llmembs/text", json={"text": text}).content)[0]

    np.testing.assert_allclose(
        scores("B cell MINUS CD14+ monocyte"),
        scores("B cell") - scores("CD14+ monocyte"),
        atol=1e-6,
    )
