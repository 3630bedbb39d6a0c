"""`evaluate-sae` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from jobs.evaluate_sae import main
from tests.interpret.inputs import Place, place, write_autoencoder
from tests.streaming.inputs import genes, small_counts, small_store, tahoe_model

__all__ = ["genes", "place", "small_counts", "small_store", "tahoe_model"]

pytestmark = pytest.mark.usefixtures("ray_cluster")

QUICK = ["--frozen-steps", "3", "--probe-cells", "60", "--downstream-cells", "24"]


class Street(NamedTuple):
    """Two autoencoders of a cache of real cells, and what it was made from."""

    sae: Path
    other: Path
    cache: Path
    cells: Path
    model: Path


@pytest.fixture(scope="module")
def street(tahoe_model: Path, small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Street:
    from engine.models import sae
    from jobs.cache import main as cache
    from storage.activations import ActivationCache

    folder = tmp_path_factory.mktemp("evaluation")
    flags = ["--hooks", "resid_post_0", "--max-cells", "80", "--max-tokens", "48"]
    where = ["--cells", str(small_store), "--model", str(tahoe_model), "--output", str(folder / "cache")]
    assert cache([*flags, *where]) == 0
    opened = ActivationCache.open(folder / "cache")
    metadata = {"hook_name": "resid_post_0", "model": opened.metadata["model"], "cache": opened.dataset_id}
    for seed in (0, 1):
        sae.save(sae.create(32, 64, 4, seed=seed, metadata=metadata), folder / f"sae{seed}")
    return Street(folder / "sae0", folder / "sae1", folder / "cache", small_store, tahoe_model)


def test_every_number_stands_beside_its_baselines(
    street: Street, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "evaluation"
    command = ["--sae", str(street.sae), "--cache", str(street.cache), "--cells", str(street.cells), *QUICK]
    command += ["--model", str(street.model), "--label", "cell_type", "--against", str(street.other)]
    command += ["--output", str(output)]
    assert main(command) == 0
    assert "trained on these cells" in capsys.readouterr().err
    metrics = json.loads((output / "metrics.json").read_text())
    rows = {row.pop("dictionary"): row for row in metrics["dictionaries"]}
    dictionaries = ["sae", "random_sae", "frozen_decoder", "pca", "neurons"]
    assert [*rows] == [*dictionaries, "genes_per_cell"]
    assert len({tuple(rows[name]) for name in dictionaries}) == 1
    for name in ("fvu", "l0", "dead_share", "single_gene_share", "mean_best_auroc", "probe_auroc_5"):
        assert all(rows[dictionary][name] is not None for dictionary in dictionaries)
    # The evaluated one is as random as the random one, but knows neither the mean nor its best scale.
    assert max(rows["pca"]["fvu"], rows["random_sae"]["fvu"]) < 1 < rows["sae"]["fvu"]
    assert rows["random_sae"]["l0"] == rows["pca"]["l0"] == metrics["baselines"]["active_features"] == 4
    assert {"embedding_cosine_cls", "label_accuracy_cls"} <= set(rows["sae"])
    assert not metrics["window"]["long_enough_for_dead"]
    losses = metrics["downstream"]["losses"]
    assert {"base", "spliced", "zero_ablation", "mean_ablation", "recovered_zero"} <= set(losses[0])
    assert {loss["term"] for loss in losses} == {"loss", "expression", "mvc"}
    assert metrics["stability"]["all_features"]["best_share"] < 0.2
    for name in ("summary", "features", "labels", "reconstruction", "density", "probes", "loss", "stability"):
        assert len(pd.read_parquet(output / f"{name}.parquet"))
    record = json.loads((output / "run.json").read_text())
    assert record["counts_out"] == {"tokens": metrics["window"]["tokens"], "dictionaries": 6}
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "--seed", "1"]) == 2


def test_without_cells_only_what_the_cache_says(place: Place, tmp_path: Path) -> None:
    output = tmp_path / "evaluation"
    command = ["--sae", str(place.sae), "--cache", str(place.cache), "--baselines", "pca,neurons"]
    assert main([*command, "--tokens", "600", "--output", str(output)]) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert [row["dictionary"] for row in metrics["dictionaries"]] == ["sae", "pca", "neurons"]
    assert metrics["probing"] is None
    assert "downstream" not in metrics
    assert 300 < metrics["window"]["tokens"] < 1000
    classes = {row["token_class"] for row in metrics["reconstruction"]}
    assert classes == {"gene", "special"}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--label", "tissue"], "--label tissue"),
        (["--group", "tissue"], "--group tissue"),
        (["--hook", "resid_post_0"], "trained at resid_post_1"),
        (["--baselines", "pca,ica"], "--baselines ica"),
        (["--frozen-steps", "0"], "--frozen-steps is 0"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert main([*place.flags, *flags, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_does_not_belong_together_is_refused(
    place: Place, street: Street, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out")]
    write_autoencoder(tmp_path / "sae", model="another")
    assert main([*place.flags, "--sae", str(tmp_path / "sae"), *output]) == 2
    assert "another" in capsys.readouterr().err
    assert main([*place.flags, "--against", str(place.sae), *output]) == 2
    assert "is the evaluated autoencoder itself" in capsys.readouterr().err
    assert main([*place.flags, "--cells", str(street.cells), *output]) == 2
    assert "give the store the cache was made from" in capsys.readouterr().err
    assert main(["--sae", str(place.sae), "--cache", str(place.cache), "--label", "cell_type", *output]) == 2
    assert "--cells STORE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
