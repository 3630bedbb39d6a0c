"""What a model directory knows, without its weights."""

import json
from pathlib import Path

import pytest

from engine.models.errors import ModelError
from engine.streaming.vocabulary import gene_vocabulary


def test_tahoe(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "ENSG01": 1}))
    assert gene_vocabulary(tmp_path) == {"<pad>", "ENSG01"}


def test_geneformer_with_aliases(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "token_dictionary.json").write_text(json.dumps({"<pad>": 0, "ENSG01": 1}))
    (tmp_path / "gene_median_dictionary.json").write_text(json.dumps({"ENSG01": 1.5}))
    (tmp_path / "ensembl_mapping.json").write_text(json.dumps({"TP53": "ENSG01", "GONE": "ENSG99"}))
    assert gene_vocabulary(tmp_path) == {"<pad>", "ENSG01", "TP53"}


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no vocab\.json"):
        gene_vocabulary(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        gene_vocabulary(tmp_path)
