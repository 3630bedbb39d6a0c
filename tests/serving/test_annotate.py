"""Names for cells over HTTP are those that the job would write."""

import numpy as np
from fastapi.testclient import TestClient

from engine.retrieval.annotation.vocabulary import Term
from engine.retrieval.annotation.zero_shot import UNASSIGNED, ZeroShot, text_directions
from engine.retrieval.texts import Texts
from engine.serving.doors import Doors
from engine.serving.settings import Settings
from storage.cells import CellStore
from storage.index import VectorIndex

TYPES = ["B cell", "CD14+ monocyte", "natural killer cell"]
EVERYONE = {"cells": {"all": True}}


def named_here(served: Settings, min_confidence: float) -> list[str]:
    """By ascending id, without a server."""
    index = VectorIndex.open(served.index)
    texts = Texts.of_index(index)
    direction_LU = text_directions(texts.side, [Term(name, (name,)) for name in TYPES], ["celltype"])
    vectors = np.concatenate([segment.arrays.vectors for segment in index.segments]).astype(np.float32)
    found = ZeroShot(tuple(TYPES), direction_LU, 1 / texts.temperature, min_confidence).name(
        vectors[np.argsort(index.ids)]
    )
    return [
        TYPES[best] if named else UNASSIGNED
        for best, named in zip(found.best_C, found.is_named_C, strict=True)
    ]


def test_cells_are_named_or_left_unnamed(client: TestClient, served: Settings) -> None:
    body = {**EVERYONE, "labels": TYPES, "min_confidence": 0.9}
    found = client.post("/v1/annotate", json=body).json()
    names = [UNASSIGNED if label < 0 else found["labels"][label] for label in found["cells"]["label"]]
    expected = named_here(served, 0.9)
    assert names == expected
    assert 0 < found["abstained"] == expected.count(UNASSIGNED) < len(names)
    assert found["named"] == {name: expected.count(name) for name in TYPES}
    sure = np.array(found["cells"]["confidence"]) >= 0.9
    assert sure.tolist() == [name != UNASSIGNED for name in names]
    assert client.post("/v1/annotate", json={**body, "min_cosine": 1}).json()["abstained"] == len(names)


def test_groups_have_captions_with_evidence(client: TestClient, served: Settings) -> None:
    body = {**EVERYONE, "library": "types", "group_by": "cell_type", "list_cells": False}
    found = client.post("/v1/annotate", json=body).json()
    assert "cells" not in found
    groups = {group["name"]: group for group in found["groups"]}
    types = CellStore.open(served.cells).obs(["cell_type"])["cell_type"].astype(str)
    assert {name: group["n_cells"] for name, group in groups.items()} == types.value_counts().to_dict()
    group = groups["B cell"]
    assert group["label"] == "B cell"
    assert {"CD79A", "CD74", "MS4A1", "CD79B"} & {gene["gene"] for gene in group["genes"]}
    assert dict(group["terms"])["types"][0][0] == "B cell"
    assert all(f"[E{number}]" in group["caption"] for number in (1, 2, 3, 5))
    assert group["typical_cells"][0] in set(types.index[types == "B cell"])


def test_a_selection_is_one_group_against_all_others(client: TestClient) -> None:
    body = {
        "cells": {"where": "cell_type = 'B cell'"},
        "labels": {"B": ["B cell", "naive B cell"], "other": []},
    }
    (group,) = client.post("/v1/annotate", json=body).json()["groups"]
    assert group["label"] == "B"
    gene = next(gene for gene in group["genes"] if gene["gene"] in ("CD79A", "CD74", "MS4A1"))
    assert gene["share_of_cells"] > gene["share_of_others"]


def test_bounds_and_refusals(client: TestClient, doors: Doors) -> None:
    def code(**more: object) -> str:
        return client.post("/v1/annotate", json={**EVERYONE, **more}).json()["error"]["code"]

    assert code() == code(labels=["B cell"]) == code(labels=TYPES, library="types") == "invalid_request"
    assert code(labels=["B cell", "B cell"]) == "invalid_request"
    assert code(library="no such") == "no_library"
    assert code(labels=[f"cell {number}" for number in range(1_001)]) == "too_many_labels"
    assert code(labels=TYPES, templates=["no place for the label"]) == "bad_input"
    assert code(labels=TYPES, group_by="n_genes") == code(labels=TYPES, group_by="no") == "no_column"
    assert code(labels=TYPES, cells={"where": "cell_type = 'unheard of'"}) == "empty_selection"
    most = doors.settings.limits.annotated_cells
    assert code(labels=TYPES, cells={"ranges": [[0, most + 1]]}) in ("unknown_cell", "too_many_cells")
