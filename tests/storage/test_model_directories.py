"""Model directories are told apart and described from their files alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from storage.checkpoints import fingerprint
from storage.inspection import describe
from storage.locations import Location

WEIGHTS = save({"w": np.zeros((3, 4), np.float32), "b": np.zeros(4, np.float16)})


@pytest.mark.parametrize(
    ("folder", "kind", "parameters"),
    [
        ("tahoe/A/model", "Tahoe-x1 encoder", 129_537),
        ("geneformer/tiny_model_v1/model", "Geneformer encoder", 39_622),
        ("sae/jumprelu", "sparse autoencoder (jumprelu)", None),
    ],
)
def test_official_directories(shared: Path, folder: str, kind: str, parameters: int | None) -> None:
    description = describe(str(shared / "golden" / folder))
    assert description.facts["kind"] == kind
    assert description.facts["fingerprint"] == fingerprint(shared / "golden" / folder)
    assert parameters in (None, description.facts["parameters"])
    assert description.problems == []


def test_weights_vocabulary_and_training(place: Location) -> None:
    place.put("checkpoints/plan.json", json.dumps({"lineage_id": "abc", "lineage": {"seed": 1}}).encode())
    place.put("checkpoints/step_10/state.pt", b"")
    assert describe(place).facts["kind"] == "training run, no model yet"
    assert describe(place).facts["training"].startswith("not finished")
    place.put("config.json", b'{"model_type": "bert", "hidden_size": 4, "nested": {}}')
    place.put("model.safetensors", WEIGHTS)
    place.put("token_dictionary.json", b'{"<pad>": 0, "ENSG1": 1}')
    place.put("training.json", b"{}")
    facts = describe(place).facts
    assert facts["parameters_by_dtype"] == {"F32": 12, "F16": 4}
    assert facts["vocabulary"] == "2 tokens in token_dictionary.json"
    assert facts["configuration"] == {"model_type": "bert", "hidden_size": 4}
    assert (facts["training"], facts["checkpoints"], facts["lineage_id"]) == ("finished", ["step_10"], "abc")


@pytest.mark.parametrize("content", [WEIGHTS[:-1], WEIGHTS + b"x", b"\xff" * 40, b"", WEIGHTS[:20]])
def test_weights_that_are_not_whole_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    (problem,) = describe(str(tmp_path)).problems
    assert problem.startswith("model.safetensors: ")
