"""The whole annotation of real cells: CellWhisperer's keys, and what stands in them."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from engine.retrieval.annotation import assembly, parts, run
from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.annotation.run import AnnotationOptions, annotate, lineage_id, lineage_of_file
from storage.embeddings import Embeddings
from storage.errors import InputError
from tests.retrieval.blood import TYPES, Blood

KEYS = {
    "obs": {"leiden", "cluster_label", "cell_type_label"},
    "var": {"gene_name", "log1p_normalizer"},
    "obsm": {"X_cellwhisperer_umap", "transcriptome_embeds", "top_genes"},
    "uns": {
        "dataset_name", "model_name", "terms", "version", "title", "layer_descriptions", "organism",
        "organism_ontology_term_id", "default_embedding",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(blood: Blood, tmp_path_factory: pytest.TempPathFactory) -> AnnotationInputs:
    terms = tmp_path_factory.mktemp("terms") / "terms.json"
    terms.write_text(json.dumps({"a/b": ["B cells", "T cells"], "other": ["a monocyte"]}))
    given = ",".join(TYPES)
    return AnnotationInputs.open(blood.store, blood.joint, given, terms=[str(terms)], fields=["cell_type"])


@pytest.fixture(scope="module")
def annotated(inputs: AnnotationInputs, blood: Blood, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("annotated") / "cellxgene.h5ad"
    options = AnnotationOptions(templates=("{}", "a sample of {}"), n_top=30)
    made = annotate(inputs, inputs.embeddings(blood.embeddings), options, str(output))
    assert made.lineage_id == lineage_id(inputs, options) == lineage_of_file(str(output))
    assert made.n_landmarks == 299
    return output


def test_it_has_cellwhisperers_keys(annotated: Path, blood: Blood) -> None:
    found = anndata.read_h5ad(annotated)
    for part, names in KEYS.items():
        assert names <= set(getattr(found, part)), part
    assert set(blood.counts.obs.columns) <= set(found.obs)
    assert not found.layers
    assert not found.obsp
    assert isinstance(found.X, sparse.csc_matrix)
    assert found.X.dtype == np.float32
    assert list(found.obs_names) == list(blood.counts.obs_names)
    assert found.obsm["transcriptome_embeds"].shape == (300, 32)
    assert {str(found.obs[name].dtype) for name in found.obs} <= {"category", "int32", "float32"}
    assert found.uns["version"] == {"corpora_schema_version": "1.1.0", "corpora_encoding_version": "0.1.0"}
    assert found.uns["default_embedding"] == "X_cellwhisperer_umap"
    assert {name: list(terms) for name, terms in found.uns["terms"].items()} == {
        "a-b": ["B cells", "T cells"],
        "other": ["a monocyte"],
    }


def test_names_scores_and_clusters(annotated: Path, blood: Blood) -> None:
    found, embeddings = anndata.read_h5ad(annotated), Embeddings.open(blood.embeddings)
    np.testing.assert_array_equal(found.obsm["transcriptome_embeds"], embeddings.X)
    # Cell 17 is empty: no place, no cluster, no name.
    assert np.isnan(found.obsm["X_cellwhisperer_umap"][17]).all()
    assert found.obs["leiden"].isna().sum() == 1
    assert pd.isna(found.obs["zero_shot_best_label"].iloc[17])
    assert found.obs["zero_shot_label"].iloc[17] == "unassigned"
    assert (found.obsm["top_genes"][17] == -1).all()
    best, confidence = found.obs["zero_shot_best_label"], found.obs["zero_shot_confidence"]
    known = best.notna().to_numpy()
    score_CL = found.obsm["label_scores"]
    order = found.uns["label_names"][score_CL[known].argmax(1)]
    np.testing.assert_array_equal(best[known], order)
    named = found.obs["zero_shot_label"] != "unassigned"
    np.testing.assert_array_equal(named[known], confidence[known] >= 0.5)
    # It has seen half of the cells with their types.
    right = best[known].astype(str) == found.obs["cell_type"][known].astype(str)
    assert right.mean() > found.obs["cell_type"].value_counts(normalize=True).max() + 0.15
    genes = found.var["gene_name"].to_numpy()[found.obsm["top_genes"][0]]
    assert len(set(genes)) == 30
    scale = found.uns["syncytium"]["scale"]
    assert np.abs(found.obsm["term_scores"][known]).max() <= scale * 1.001


def test_every_cluster_has_a_title_and_evidence(annotated: Path) -> None:
    found = anndata.read_h5ad(annotated)
    stated = json.loads(found.uns["cluster_evidence"])
    assert set(stated) == {"leiden", "cell_type"}
    assert set(stated["leiden"]) == set(found.obs["leiden"].cat.categories)
    for cluster, entry in stated["leiden"].items():
        own = found.obs["leiden"] == cluster
        assert len(entry["title"].split()) <= 8
        assert set(found.obs.loc[own, "cluster_label"]) == {entry["title"]}
        assert entry["n_cells"] == own.sum()
        assert set(entry["typical_cells"]) <= set(found.obs_names[own])
        assert f"{entry['n_cells']:,} cells" in entry["caption"]
        assert {gene["gene"] for gene in entry["genes"]} <= set(found.var["gene_name"])
        assert 0 <= entry["agreement"] <= 1
    monocytes = stated["cell_type"]["CD14+ monocyte"]
    assert {"LYZ", "S100A9", "CST3", "S100A8", "FTL"} & {entry["gene"] for entry in monocytes["genes"]}


def test_cellwhisperers_table_of_top_genes(
    inputs: AnnotationInputs, blood: Blood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "BLOCK_CELLS", 128)
    monkeypatch.setattr(parts, "FEWEST_CELLS", 100)
    monkeypatch.setattr(run, "TERMS_PER_CELL", 2)
    output = tmp_path / "table.h5ad"
    options = AnnotationOptions(top_genes_table=True, n_top=3, landmarks=3, clusters=False)
    annotate(inputs, inputs.embeddings(blood.embeddings), options, str(output))
    found = anndata.read_h5ad(output)
    assert list(found.obsm["top_genes"].columns) == ["Top_1", "Top_2", "Top_3"]
    assert found.obsm["top_genes"]["Top_1"].isin(found.var["gene_name"]).sum() == 299
    assert "cluster_label" not in found.obs
    assert "term_scores" not in found.obsm  # more terms than are scored for each cell
    assert found.obs["leiden"].nunique() == 1


def test_what_does_not_go_together_is_refused(blood: Blood, tmp_path: Path) -> None:
    given = ",".join(TYPES)
    with pytest.raises(InputError, match="no such obs column; there are cell_type"):
        AnnotationInputs.open(blood.store, blood.joint, given, fields=["colour"])
    inputs = AnnotationInputs.open(blood.store, blood.joint, given)
    with pytest.raises(InputError, match="text with"):
        inputs.require_templates(["no place for it"])
    from tests.retrieval.inputs import write_embeddings

    obs = pd.DataFrame(index=[str(i) for i in range(300)])
    write_embeddings(str(tmp_path / "other"), np.ones((300, 32), np.float32), obs)
    with pytest.raises(InputError, match="made by model m"):
        inputs.embeddings(str(tmp_path / "other"))
