"""`features` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from jobs import train_sae
from jobs.features import main
from tests.interpret.inputs import CELLS, FEATURES, HOOK, OTHER_HOOK, Place, place, write_autoencoder
from tests.streaming.inputs import genes, small_counts, small_store, tahoe_model

__all__ = ["genes", "place", "small_counts", "small_store", "tahoe_model"]

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_writes_tables_products_and_record(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "features"
    command = [*place.flags, "--label", "cell_type", "--top-genes", "4", "--output", str(output)]
    assert main(command) == 0
    record = json.loads((output / "run.json").read_text())
    assert record["counts_in"] == {"tokens": CELLS * 30, "cells": CELLS, "features": FEATURES}
    assert record["counts_out"]["features_fired"] <= FEATURES
    assert record["peak_memory_bytes"]["worker"] > 0
    for name in ("features", "top_genes", "top_cells", "labels", "histograms", "partners"):
        assert len(pd.read_parquet(output / name))
    genes = json.loads((output / "feature_gene_associations.json").read_text())
    assert list(genes) == [str(feature) for feature in range(FEATURES)]
    assert all(len(entry["top_genes"]) <= 4 for entry in genes.values())
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "--neuronpedia", "--neuronpedia-model", "tahoe"]) == 0
    batch = json.loads((output / "neuronpedia" / "00000" / "batch-0.json").read_text())
    assert batch["model_id"] == "tahoe"
    assert len(batch["features"]) == FEATURES


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--label", "tissue"], "--label tissue"),
        (["--top-genes", "0"], "--top-genes is 0"),
        (["--partners", "-1"], "--partners is -1"),
        (["--hook", "resid_post_0"], "trained at resid_post_1"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert main([*place.flags, *flags, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_autoencoder_of_another_model_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_autoencoder(tmp_path / "sae", model="another")
    assert main([*place.flags, "--sae", str(tmp_path / "sae"), "--output", str(tmp_path / "out")]) == 2
    assert "another" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_options_do_not_overwrite(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "features")]
    assert main([*place.flags, *output, "--top-genes", "3"]) == 0
    assert main([*place.flags, *output, "--top-genes", "5"]) == 2
    assert "top_genes" in capsys.readouterr().err
    assert main([*place.flags, *output, "--top-genes", "5", "--overwrite"]) == 0


def test_a_cache_or_a_model(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "out")]
    without = ["--sae", str(place.sae), "--cells", str(place.cells)]
    assert main([*without, *output]) == 2
    assert main([*place.flags, "--model", "somewhere", *output]) == 2
    assert capsys.readouterr().err.count("give --cache CACHE, or --model DIR") == 2


def test_straight_from_the_encoder(tahoe_model: Path, small_store: Path, tmp_path: Path) -> None:
    from engine.models import sae

    sae.save(sae.create(32, 64, 4, metadata={"hook_name": "resid_post_1"}), tmp_path / "sae")
    output = tmp_path / "features"
    flags = ["--sae", str(tmp_path / "sae"), "--cells", str(small_store), "--model", str(tahoe_model)]
    assert main([*flags, "--max-cells", "20", "--max-tokens", "64", "--output", str(output)]) == 0
    record = json.loads((output / "run.json").read_text())
    assert record["counts_out"]["gene_tokens"] == 19 * 63  # one cell is empty
    assert record["facts"]["n_tokens_without_count"] == 0
    assert not (output / "states").exists()


def test_a_crosscoder_of_two_hooks(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hooks = f"{OTHER_HOOK},{HOOK}"
    training = ["--arch", "crosscoder", "--cache", str(place.cache), "--hook", hooks, "--width", "16"]
    small = ["--k", "4", "--steps", "3", "--batch-tokens", "64", "--workers", "0"]
    assert train_sae.main([*training, *small, "--output", str(tmp_path / "sae")]) == 0
    flags = ["--sae", str(tmp_path / "sae"), "--cells", str(place.cells), "--output", str(tmp_path / "out")]
    assert main([*flags, "--cache", str(place.cache), "--hook", HOOK]) == 2
    assert "is a crosscoder" in capsys.readouterr().err
    assert main([*flags, "--cache", str(place.cache)]) == 0
    table = pd.read_parquet(tmp_path / "out" / "features")
    assert len(table) == 16
    shares = table[[f"share_{OTHER_HOOK}", f"share_{HOOK}"]]
    assert shares.sum(axis=1).between(1 - 1e-6, 1 + 1e-6).all()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["facts"]["hook"] == hooks
