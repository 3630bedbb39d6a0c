"""The summary of an evaluation: what is said of a dictionary, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.evaluation.metrics import as_json, downstream_of, warnings_about
from engine.interpret.evaluation.options import default_frozen_steps
from engine.models import sae
from storage.activations import ActivationCache
from tests.interpret.inputs import HOOK, WIDTH, Place


def _loss(scope: str, gap_z: float | None, recovered: float | None) -> dict[str, object]:
    ratios = {f"recovered_{name}": recovered for name in ("zero", "mean")}
    gaps = {f"gap_z_{name}": gap_z for name in ("zero", "mean")}
    return {"dictionary": "sae", "scope": scope, "term": "loss", **ratios, **gaps}


def test_a_ratio_to_an_ablation_without_effect_is_left_out() -> None:
    losses = [_loss("all_genes", 8.0, 1.4), _loss("shown_genes", 1.0, 7.0), _loss("nowhere", None, None)]
    embeddings = [
        {"replacement": "sae", "pool": "mean", "reached": True, "cosine": 0.9, "accuracy_same_probe": 0.5},
        {"replacement": "sae", "pool": "cls", "reached": False, "cosine": 1.0, "accuracy_same_probe": 0.7},
    ]
    row = downstream_of({"losses": losses, "embeddings": embeddings}, "sae")
    assert row == {
        "recovered_zero_all_genes": 1.4,
        "recovered_mean_all_genes": 1.4,
        "embedding_cosine_mean": 0.9,
        "label_accuracy_mean": 0.5,
    }
    assert downstream_of(None, "sae") == {}


def test_what_a_reader_should_know_first_is_said(place: Place, tmp_path: Path) -> None:
    cache = ActivationCache.open(str(place.cache))
    for metadata, fvu, said in (
        ({"reference_fvu": 0.2}, 0.3, []),
        ({"reference_fvu": 0.2}, 0.9, ["was 0.200 on held-out tokens"]),
        ({"cache": cache.dataset_id}, 0.9, ["trained on these cells"]),
        ({"cells": cache.metadata["store"]}, 0.9, ["trained on these cells"]),
    ):
        sae.save(sae.create(WIDTH, 24, 3, metadata={"hook_name": HOOK, **metadata}), tmp_path)
        found = warnings_about(EvaluationInputs.open(str(tmp_path), str(place.cache)), fvu)
        assert len(found) == len(said)
        assert all(part in text for part, text in zip(said, found, strict=True))


def test_numbers_that_are_none_become_null() -> None:
    found = as_json({"a": np.float64("nan"), "b": [np.int64(3), float("inf")], "c": (True, None)})
    assert json.loads(json.dumps(found, allow_nan=False)) == {"a": None, "b": [3, None], "c": [True, None]}


@pytest.mark.parametrize(("tokens", "steps"), [(204_800, 100), (10**9, 1000), (None, 1000), (10, 1)])
def test_the_frozen_decoder_gets_what_the_autoencoder_got(tokens: int | None, steps: int) -> None:
    assert default_frozen_steps({"training_tokens": tokens}) == steps
