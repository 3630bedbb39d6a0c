"""The real screen of spec section 8: a target of the interferon pathway told by the other three."""

import json
from pathlib import Path

import pytest

from engine.training.options import TrainingOptions
from engine.training.recipes.perturbation import plan
from engine.training.recipes.perturbation.measured import ScreenSource
from engine.training.run import run_training
from storage.ingest import IngestOptions, ingest
from storage.locations import Location

SETS = ("golden/validation_db/reactome/ReactomePathways.gmt", "golden/enrichment/hallmark_v7.0.gmt")
SIZES = {
    "d_model": 8,
    "n_layers": 1,
    "d_state": 8,
    "headdim": 16,
    "condition_dim": 8,
    "gene_identity_dim": 8,
    "mean_response": False,
}


@pytest.mark.parametrize("target", ["STAT1", "IFNGR2"])
def test_a_held_out_target_is_predicted_better_than_by_the_mean_effect(
    shared: Path, tmp_path: Path, target: str
) -> None:
    screen = shared / "data" / "perturb" / "papalexi2021_thp1_299genes_small.h5ad"
    ingest([str(screen)], str(tmp_path / "store"), IngestOptions(gene_id_key="index"))
    source = ScreenSource(str(tmp_path / "store"), "target_gene", "non-targeting")
    sets = [str(shared / name) for name in SETS]
    recipe = plan(source, "perturbation", held_out=[target], sizes=SIZES, n_codes=0, gene_sets=sets)
    run_training(recipe, TrainingOptions(steps=5, batch=6, workers=0), Location.of(tmp_path / "model"))
    found = json.loads((tmp_path / "model" / "metrics.json").read_text())["contenders"]
    assert found["model"]["pearson_delta"] > found["mean_delta"]["pearson_delta"] + 0.02
    assert found["model"]["mae"] < found["control"]["mae"]
