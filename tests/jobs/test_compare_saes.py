"""`compare-saes` from the command line: seeds, layers and models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.models import sae
from jobs.compare_saes import main
from tests.interpret.comparison.conftest import (
    CELLS,
    FEATURES,
    Place,
    geneformer_model,
    genes,
    place,
    small_counts,
    small_store,
    tahoe_model,
    write_autoencoder,
)

__all__ = ["geneformer_model", "genes", "place", "small_counts", "small_store", "tahoe_model"]


def shuffled_copy(path: str, output: Path) -> np.ndarray:
    """The same autoencoder with its features in another order; returns the order."""
    model = sae.load(path)
    order = np.random.default_rng(0).permutation(FEATURES)
    weights = {name: part.clone() for name, part in model.state_dict().items()}
    weights["W_enc"] = weights["W_enc"][:, order].contiguous()
    weights["W_dec"], weights["b_enc"] = weights["W_dec"][order], weights["b_enc"][order]
    model.load_state_dict(weights)
    sae.save(model, output)
    return order


def test_seeds_are_matched_by_their_directions(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = shuffled_copy(place.sae("a"), tmp_path / "same")
    saes = ["--sae", place.sae("a"), "--sae", str(tmp_path / "same"), place.sae("b")]
    command = [*saes, "--cache", place.tahoe, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    pairs = pd.read_parquet(tmp_path / "out" / "matching.parquet")
    same = pairs[(pairs["sae_a"] == 0) & (pairs["sae_b"] == 1) & pairs["mutual"]].sort_values("feature_a")
    assert same["feature_b"].tolist() == order.argsort().tolist()
    assert same["assigned"].all()
    assert np.allclose(same["decoder_cosine"], 1, atol=1e-5)
    assert np.allclose(same["similarity"], same["decoder_cosine"])
    fires = pd.read_parquet(tmp_path / "out" / "fires.parquet").groupby(["sae", "feature"])["n_tokens"].max()
    live = same["feature_a"].map(fires[0]) > 5
    assert live.any()
    assert np.allclose(same["token_correlation"][live], 1, atol=1e-3)
    features = pd.read_parquet(tmp_path / "out" / "features.parquet")
    assert features.groupby("sae")["stability"].mean().tolist() == [0.5, 0.5, 0]
    assert (features[features["sae"] == 0]["best_sae"] == 1).all()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [pair["by"] for pair in metrics["pairs"]] == ["decoder"] * 3
    first, second, _ = metrics["pairs"]
    assert first["assigned_share_above"] == 1
    assert first["chance_share_a"] == 0
    assert first["cka_codes"]["unbiased"] == pytest.approx(1, abs=1e-3)
    assert second["share_a"] < 0.2
    assert metrics["autoencoders"][0]["live_features"] == (fires[0] > 0).sum()
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "--same-above", "0.9"]) == 2


@pytest.mark.parametrize(("other", "shared_stream"), [("lower", True), ("other", False)])
def test_layers_and_models_are_matched_by_what_they_fire_on(
    place: Place, tmp_path: Path, other: str, shared_stream: bool
) -> None:
    caches = ["--cache", place.tahoe, "--cache", place.geneformer]
    command = ["--sae", place.sae("a"), "--sae", place.sae(other), *caches]
    assert main([*command, "--output", str(tmp_path / "out"), "--json"]) == 0
    pairs = pd.read_parquet(tmp_path / "out" / "matching.parquet")
    assert ("decoder_cosine" in pairs) == shared_stream
    assert np.allclose(pairs["similarity"], pairs["token_correlation"], atol=1e-5)
    assert pairs["similarity"].between(0, 1.0001).all()
    pair = json.loads((tmp_path / "out" / "metrics.json").read_text())["pairs"][0]
    assert pair["by"] == "tokens"
    assert 20 <= pair["n_cells"] <= CELLS  # one is empty
    assert pair["mean_best_a"] > pair["chance_mean_best_a"]
    assert main([*command, "--by", "cells", "--output", str(tmp_path / "cells")]) == 0
    pairs = pd.read_parquet(tmp_path / "cells" / "matching.parquet")
    assert np.allclose(pairs["similarity"], pairs["cell_correlation"], atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--sae", "A"], "two autoencoders or more"),
        (["--sae", "A", "--sae", "OTHER"], "give --cache with the activations of each"),
        (["--sae", "A", "--sae", "OTHER", "--cache", "TAHOE"], "none fits"),
        (["--sae", "A", "--sae", "WIDE", "--by", "decoder"], "of width 48"),
        (["--sae", "A", "--sae", "A", "--tokens", "0"], "--tokens is 0"),
        (["--sae", "A", "--sae", "A", "--same-above", "1.5"], "--same-above is 1.5"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_leaves_nothing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    write_autoencoder(tmp_path / "wide", "another", "resid_post_1", 0, width=48)
    paths = {"A": place.sae("a"), "OTHER": place.sae("other"), "TAHOE": place.tahoe}
    paths["WIDE"] = str(tmp_path / "wide")
    assert main([*(paths.get(flag, flag) for flag in flags), "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_killed_comparison_goes_on_with_the_pairs_it_lacks(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.interpret.comparison import run

    saes = [flag for name in ("a", "b", "lower") for flag in ("--sae", place.sae(name))]
    compare_pair, done = run.compare_pair, []

    def dies_at_the_second(*arguments: object) -> object:
        done.append(arguments[2])
        if len(done) == 2:
            raise RuntimeError("killed")
        return compare_pair(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "compare_pair", dies_at_the_second)
    command = [*saes, "--by", "decoder", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 1
    assert main([*command, str(tmp_path / "out")]) == 0
    assert done == [(0, 1), (0, 2), (0, 2), (1, 2)]
    assert main([*command, str(tmp_path / "whole")]) == 0
    for name in ("features.parquet", "metrics.json", "matching.parquet/1-2.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
