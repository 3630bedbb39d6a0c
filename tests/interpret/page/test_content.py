"""Tables become the entries that the page's scripts read."""

from __future__ import annotations

import base64
import json
import math

import numpy as np

from engine.interpret.page.content import as_json, byte_levels, feature_entries
from tests.interpret.page.example import LABELS, example
from tests.interpret.small_pass import CELLS, FEATURES


def test_every_value_is_plain_json() -> None:
    content = as_json(example())
    assert set(json.loads(json.dumps(content, allow_nan=False))) == set(content)
    assert content["nFeatures"] == FEATURES
    assert content["nSilent"] == 1
    assert len(content["features"]) == FEATURES - 1


def test_the_first_label_is_the_tables_best() -> None:
    page = example()
    best = page.tables.features.set_index("feature")
    for entry in feature_entries(page.tables, LABELS):
        assert LABELS[entry["labels"][0]["label"]] == best.loc[entry["feature"], "best_label"]
        others = [label["auroc"] for label in entry["labels"][1:]]
        assert others == sorted(others, reverse=True)


def test_infinite_odds_have_a_word() -> None:
    page = example()
    labels = page.tables.labels
    labels["odds_ratio"] = [math.inf, math.nan, *[2.0] * (len(labels) - 2)]
    first = feature_entries(page.tables, LABELS)[0]["labels"]
    assert {"inf", None} <= {label["odds"] for label in first}


def test_levels_keep_silence_and_the_maximum() -> None:
    peak_CF = np.array([[0.0, 2.0], [1e-9, 0.0], [4.0, 1.0]], np.float32)
    levels = np.frombuffer(byte_levels(peak_CF), np.uint8).reshape(2, 3)
    assert levels.tolist() == [[0, 1, 255], [255, 0, 128]]
    content = as_json(example())
    assert len(base64.b64decode(content["levels"])) == len(content["features"]) * CELLS
