"""What does not belong together is refused, naming the field that differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.interpret.inputs import FeatureInputs, LabelColumn
from storage.cells import CellStore
from storage.errors import InputError
from tests.interpret.inputs import FEATURES, HOOK, OTHER_HOOK, Place, write_autoencoder, write_cache


def opened(place: Place, **changes: str) -> FeatureInputs:
    paths = {"sae": place.sae, "cache": place.cache, "cells": place.cells} | changes
    hook = changes.get("hook")
    return FeatureInputs.open(str(paths["sae"]), str(paths["cache"]), str(paths["cells"]), hook=hook)


def test_what_fits_opens_at_the_autoencoders_hook(place: Place) -> None:
    inputs = opened(place)
    assert inputs.hook == HOOK
    assert inputs.n_features == FEATURES
    assert inputs.gene_tokens.sum() == len(inputs.gene_tokens) - 2
    assert inputs.names().gene_name_G[2] == "G0"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 6}, "width 6"),
        ({"hook": "resid_post_7"}, "reads the hook point resid_post_7"),
        ({"model": "another"}, "trained on activations of model another"),
    ],
)
def test_an_autoencoder_of_something_else(place: Place, tmp_path: Path, change: dict, reason: str) -> None:
    write_autoencoder(tmp_path / "sae", **change)
    with pytest.raises(InputError, match=reason):
        opened(place, sae=str(tmp_path / "sae"))


def test_another_hook_than_trained_at(place: Place) -> None:
    with pytest.raises(InputError, match=f"trained at {HOOK}"):
        opened(place, hook=OTHER_HOOK)


def test_an_autoencoder_from_elsewhere_needs_a_hook(place: Place, tmp_path: Path) -> None:
    write_autoencoder(tmp_path / "silent", hook=None)
    with pytest.raises(InputError, match="--hook"):
        opened(place, sae=str(tmp_path / "silent"))
    write_autoencoder(tmp_path / "foreign", hook="transformer_encoder.layers.1")
    assert opened(place, sae=str(tmp_path / "foreign"), hook=HOOK).hook == HOOK


def test_another_store(place: Place, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", "another-store")
    with pytest.raises(InputError, match="another-store"):
        opened(place, cache=str(tmp_path / "cache"))


def test_labels_are_sorted_and_numbered(place: Place) -> None:
    store = CellStore.open(str(place.cells))
    label = LabelColumn.read(store, "cell_type")
    assert label.labels == ("B cell", "T cell", "monocyte")
    assert [label.labels[code] for code in label.code_C] == store.obs(["cell_type"])["cell_type"].tolist()


def test_a_label_column_must_hold_labels(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CellStore.open(str(place.cells))
    with pytest.raises(InputError, match="no such obs column; it has cell_type"):
        LabelColumn.read(store, "cell_typ")
    monkeypatch.setattr("engine.interpret.inputs.MAX_LABELS", 10)
    with pytest.raises(InputError, match="60 different values"):
        LabelColumn.read(store, "note")


def test_missing_labels_are_no_label(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CellStore.open(str(place.cells))
    table = store.obs(["cell_type"]).copy()
    table.iloc[3, 0] = np.nan
    monkeypatch.setattr(CellStore, "obs", lambda self, columns=None: table)
    assert LabelColumn.read(store, "cell_type").code_C[3] == -1
