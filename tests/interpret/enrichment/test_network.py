"""Coherence in a protein network against golden numbers, and modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.interpret.enrichment.lists import Background, GeneLists
from engine.interpret.enrichment.network import BETWEEN_MODULES, Network, coherence, edge_table


@pytest.fixture(scope="module")
def edges(shared: Path) -> pd.DataFrame:
    """The sample of STRING by gene name, both directions as in the file."""
    folder = shared / "golden" / "validation_db" / "string"
    links = pd.read_csv(folder / "9606.protein.links.detailed.v12.0.txt", sep=" ")
    info = pd.read_csv(folder / "9606.protein.info.v12.0.txt", sep="\t")
    name = dict(zip(info["#string_protein_id"], info["preferred_name"], strict=True))
    return pd.DataFrame(
        {
            "gene_a": links["protein1"].map(name),
            "gene_b": links["protein2"].map(name),
            "score": links["combined_score"].astype(float),
        }
    )


@pytest.mark.parametrize("threshold", [400, 700])
def test_coherence_is_the_golden_one(shared: Path, edges: pd.DataFrame, threshold: int) -> None:
    golden = pd.read_csv(shared / "golden" / "enrichment" / "string_ppi_expected.tsv", sep="\t")
    golden = golden[golden["threshold"] == threshold].reset_index(drop=True)
    genes = sorted({*edges["gene_a"], *edges["gene_b"]})
    background = Background.of(genes)
    network = Network.of(background, edges, threshold)
    lists = GeneLists.of(background, range(len(golden)), [row.split("|") for row in golden["genes"]])
    found = coherence(lists, network)
    assert network.n_edges == golden["edges_network"].iloc[0]
    for ours, theirs in (
        ("network_genes", "n_mapped"),
        ("edges", "edges_observed"),
        ("components", "components"),
        ("largest_component", "largest_component"),
    ):
        assert found[ours].tolist() == golden[theirs].tolist(), ours
    for ours, theirs in (
        ("edges_expected", "lambda_chung_lu"),
        ("edges_p_poisson", "p_poisson"),
        ("mean_degree", "avg_degree_inside"),
        ("clustering", "avg_local_clustering"),
    ):
        np.testing.assert_allclose(found[ours], golden[theirs], rtol=1e-9, err_msg=ours)


def test_two_cliques_are_two_modules() -> None:
    background = Background.of([f"g{number}" for number in range(12)])
    pairs = [(a, b) for group in (range(4), range(4, 8)) for a in group for b in group if a < b] + [(0, 4)]
    edges = pd.DataFrame(
        {"gene_a": [f"g{a}" for a, _ in pairs], "gene_b": [f"g{b}" for _, b in pairs], "score": 900.0}
    )
    network = Network.of(background, edges)
    lists = GeneLists.of(background, [5, 6], [[f"g{number}" for number in range(10)], ["g9", "g10"]])
    table = edge_table(lists, network, 0, 2)
    assert set(table["feature"]) == {5}
    assert len(table) == 13
    bridge = table[(table["gene_a"] == "g0") & (table["gene_b"] == "g4")]
    assert bridge["module"].tolist() == [BETWEEN_MODULES]
    assert sorted(table["module"].value_counts().tolist()) == [1, 6, 6]
    assert edge_table(lists, network, 1, 2).empty


def test_a_single_expected_edge_is_checked_by_drawing() -> None:
    """Where less than one edge is expected, p cannot be smaller than drawing says."""
    background = Background.of([f"g{number}" for number in range(200)])
    rng = np.random.default_rng(0)
    pairs = {tuple(sorted(pair)) for pair in rng.integers(0, 200, (60, 2)).tolist() if pair[0] != pair[1]}
    edges = pd.DataFrame([(f"g{a}", f"g{b}", 900.0) for a, b in pairs], columns=["gene_a", "gene_b", "score"])
    network = Network.of(background, edges)
    a, b = next(iter(pairs))
    lists = GeneLists.of(background, [0], [[f"g{a}", f"g{b}"]])
    found = coherence(lists, network).iloc[0]
    assert found["edges"] == 1
    assert found["edges_p_poisson"] <= found["edges_p"]
    assert found["edges_p"] >= 1 / 500
