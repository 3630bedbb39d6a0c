"""`enrich` from the command line: tables, the original's files, refusals, resuming."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs import dashboard, enrich
from jobs.anatomy import BAD_INPUT, DONE
from storage.enrichment import EnrichmentTables
from tests.interpret.enrichment.example import (
    FEATURES,
    GENES,
    HOSTILE,
    PLANTED,
    RARE,
    SET_GENES,
    SETS,
    SILENT,
    write_databases,
    write_features,
    write_gmt,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("enrich")
    features = write_features(place / "features")
    baseline = write_features(place / "random", seed=9, planted=0)
    gmt = write_gmt(place / "sets.gmt")
    arguments = ["--features", str(features), "--gmt", str(gmt), "--baseline", str(baseline)]
    assert enrich.main([*arguments, *small(place / "out")]) == DONE
    return place


def small(output: Path) -> list[str]:
    return ["--top-genes", "20", "--permutations", "4", "--output", str(output)]


def test_planted_terms_are_found_and_nothing_else(finished: Path) -> None:
    tables = EnrichmentTables.open(str(finished / "out"))
    terms = tables.table("terms")
    found = terms[terms["significant"]]
    assert set(zip(found["feature"], found["term_id"], strict=True)) == {
        (feature, f"SET_{feature}") for feature in range(PLANTED)
    }
    first = found[found["feature"] == 0].iloc[0]
    assert (first["overlap"], first["list_genes"], first["term_genes"]) == (10, 20, SET_GENES)
    # Genes seen too rarely to be listed are no background.
    assert first["background"] == GENES - RARE
    assert first["genes"].split("|") == [f"GENE{gene}" for gene in range(10)]
    assert first["odds_low"] < first["odds_haldane"] < first["odds_high"]
    assert first["null_share"] == pytest.approx(1 / 5)
    assert first["discovery"]
    assert (
        terms.groupby(["feature", "source"])["rank"]
        .apply(list)
        .map(lambda ranks: ranks == list(range(len(ranks))))
    ).all()


def test_every_feature_has_its_row_and_name(finished: Path) -> None:
    table = EnrichmentTables.open(str(finished / "out")).features
    assert table["feature"].tolist() == list(range(FEATURES))
    assert table["n_terms"].tolist() == [1] * PLANTED + [0] * (FEATURES - PLANTED)
    assert table.loc[SILENT, "label"] == "silent"
    assert table.loc[1, "label"] == "SET 1 in B cell"
    assert table.loc[1, "label_confidence"] > table.loc[10, "label_confidence"]
    assert table.loc[0, "groups"] == "pathway"


def test_rates_stand_beside_chance_and_a_baseline(finished: Path) -> None:
    rates = EnrichmentTables.open(str(finished / "out")).rates.set_index(["subject", "source"])
    ours, baseline = rates.loc[("features", "all")], rates.loc[(str(finished / "random"), "all")]
    assert ours["n_tests"] == (FEATURES - 1) * ours["n_terms"]
    assert ours["features_with_term"] == PLANTED
    assert ours["null_significant"] <= 1
    assert ours["null_ratio"] <= 0.25
    assert baseline["features_with_term"] <= 1
    assert "by chance" in (finished / "out" / "report.md").read_text()


def test_the_originals_files(finished: Path) -> None:
    entries = json.loads((finished / "out" / "feature_validations.json").read_text())
    assert list(entries) == [str(feature) for feature in range(FEATURES - 1)]
    entry = entries["2"]["enrichments"]["gmt-sets"][0]
    assert entries["2"]["n_enrichments_total"] == 1
    assert list(entry) == [
        "term_id", "term_name", "p_value", "p_value_adjusted", "odds_ratio", "genes_in_query",
        "genes_in_term", "genes_overlap", "genes_overlap_list", "background_size", "source", "significant",
    ]  # fmt: skip
    assert entry["genes_overlap"] == len(entry["genes_overlap_list"]) == 10
    with (finished / "out" / "validation_summary.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == [
        "feature_id", "n_genes", "n_enrichments_total", "n_gencc", "n_hpo_phenotypes", "n_hpo_diseases",
        "n_gwas", "n_orphanet", "top_term", "top_p_value", "top_database",
    ]  # fmt: skip
    assert rows[2]["top_term"] == "SET_2"
    assert rows[10]["top_term"] == ""


def test_a_finished_run_is_left_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--features", str(finished / "features"), "--gmt", str(finished / "sets.gmt")]
    baseline = ["--baseline", str(finished / "random")]
    assert enrich.main([*arguments, *baseline, *small(finished / "out")]) == DONE
    assert "already complete" in capsys.readouterr().err
    assert enrich.main([*arguments, *small(finished / "out")]) == BAD_INPUT
    assert "baselines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--databases"),
        (["--gmt", "absent.gmt"], "no such file"),
        (["--gmt", "{gmt}", "--only", "hpo"], "no source hpo"),
        (["--gmt", "{gmt}", "--top-genes", "21"], "lists 20 genes"),
        (["--gmt", "{gmt}", "--smallest-term", "100"], "no term has 100"),
        (["--gmt", "{gmt}", "--alpha", "0"], "--alpha"),
        (["--gmt", "{gmt}", "--gene-key", "id"], "other gene names"),
        (["--gmt", "{gmt}", "--ranked", "four"], "no feature number"),
        (["--gmt", "{gmt}", "--max-cells", "5"], "--max-cells"),
    ],
)
def test_refusals_write_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    given = [flag.replace("{gmt}", str(finished / "sets.gmt")) for flag in flags]
    output = tmp_path / "out"
    arguments = [
        "--features",
        str(finished / "features"),
        "--output",
        str(output),
        "--top-genes",
        "20",
        *given,
    ]
    assert enrich.main(arguments) == BAD_INPUT
    assert says in capsys.readouterr().err
    assert not output.exists()


def test_names_are_data_wherever_they_come_from(finished: Path) -> None:
    described = pd.read_parquet(finished / "out" / "features")
    assert any(HOSTILE[:20] in str(label) for label in described["label"])
    assert np.isfinite(described.loc[: PLANTED - 1, "best_odds"]).all()
    assert len(EnrichmentTables.open(str(finished / "out")).catalogue) + 0 == SETS


def test_ranked_lists_find_the_planted_set(finished: Path) -> None:
    arguments = ["--features", str(finished / "features"), "--gmt", str(finished / "sets.gmt")]
    assert enrich.main([*arguments, "--ranked", "1", *small(finished / "ranked")]) == DONE
    table = pd.read_parquet(finished / "ranked" / "ranked.parquet")
    assert set(table["feature"]) == {1}
    best = table.sort_values("nes", ascending=False).iloc[0]
    assert best["term_id"] == "SET_1"
    assert best["p"] < 0.01
    assert best["ranked_genes"] == 20


def test_databases_give_hierarchy_network_and_kinds_of_evidence(finished: Path) -> None:
    databases, out = write_databases(finished / "databases"), finished / "known"
    arguments = ["--features", str(finished / "features"), "--databases", str(databases)]
    assert enrich.main([*arguments, "--gmt", str(finished / "sets.gmt"), *small(out)]) == DONE
    tables = EnrichmentTables.open(str(out))
    described = tables.features.set_index("feature")
    assert described.loc[0, "groups"] == "pathway|phenotype"
    # Eight of its genes form a clique; the list of another feature holds edges by chance at most.
    assert described.loc[0, "edges"] >= 28
    assert described.loc[0, "edges_q"] < 1e-6
    edges = tables.table("edges")
    assert edges.loc[edges["feature"] == 0, "module"].max() >= 0
    terms = tables.table("terms")
    of_hpo = terms[(terms["source"] == "hpo") & (terms["feature"] == 0) & terms["significant"]]
    found = of_hpo.set_index("term_id")
    assert found.loc["HP:0000000", "most_specific"]
    assert found.loc["HP:0000000", "q_parent_child"] < 0.05
    # The broader term is enriched only because of the narrow one.
    assert not found.loc["HP:0000200", "most_specific"]
    catalogue = tables.catalogue.set_index("term_id")
    assert catalogue.loc["HP:0000000", "systems"] == "organ"
    assert {row["source"] for row in tables.sources} == {"hpo", "string", "gmt-sets"}
    flags = ["--features", str(finished / "features"), "--enrichment", str(out), "--public"]
    assert dashboard.main([*flags, "--output", str(finished / "public")]) == DONE
    shown = "".join(path.read_text() for path in (finished / "public" / "data").rglob("*.js"))
    assert "phenotype 1" not in shown
    assert "SET_1" in shown
