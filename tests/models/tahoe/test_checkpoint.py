"""Tahoe directories: key table, and errors that name what does not fit."""

import json
from pathlib import Path

import pytest
import yaml

from engine.models import tahoe
from engine.models.errors import ModelError
from engine.models.tahoe.checkpoint import KEYS
from tests.models.small_models import small_tahoe


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tahoe.save(small_tahoe(), tmp_path)
    return tmp_path


def change_yaml(path: Path, **keys: object) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def test_key_table_goes_both_ways() -> None:
    official = "model.transformer_encoder.layers.11.self_attn.Wqkv.weight"
    assert KEYS.ours(official) == "blocks.11.attention.qkv.weight"
    assert KEYS.official("blocks.11.attention.qkv.weight") == official
    assert KEYS.ours("model.unheard_of.weight") is None


@pytest.mark.parametrize("name", ["model_config.yml", "collator_config.yml", "vocab.json"])
def test_missing_files_are_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        tahoe.load(directory)


@pytest.mark.parametrize("name", ["model_config.yml", "collator_config.yml", "vocab.json"])
def test_damaged_files_are_named(directory: Path, name: str) -> None:
    (directory / name).write_text("{[")
    with pytest.raises(ModelError, match=f"{name}: not valid"):
        tahoe.load(directory)


def test_weights_that_do_not_fit_the_configuration(directory: Path) -> None:
    change_yaml(directory / "model_config.yml", n_layers=3)
    with pytest.raises(ModelError, match=r"missing: blocks\.2\."):
        tahoe.load(directory)
    change_yaml(directory / "model_config.yml", n_layers=1)
    with pytest.raises(ModelError, match=r"not in the model: blocks\.1\."):
        tahoe.load(directory)
    change_yaml(directory / "model_config.yml", n_layers=2, expansion_ratio=2)
    with pytest.raises(
        ModelError, match=r"of other shape: blocks\.0\.ffn\.up\.weight \(64, 16\) instead of \(32, 16\)"
    ):
        tahoe.load(directory)


def test_a_vocabulary_of_another_model(directory: Path) -> None:
    (directory / "vocab.json").write_text(json.dumps({"<pad>": 0, "<cls>": 1, "ENSG00000000001": 64}))
    with pytest.raises(ModelError, match=r"1 genes .* beyond the 64 rows"):
        tahoe.load(directory)


def test_a_drug_token_that_is_not_there(directory: Path) -> None:
    with pytest.raises(ModelError, match="no drug token"):
        tahoe.load(directory, use_chem=True)


def test_the_size_of_the_vocabulary_comes_from_the_weights(directory: Path) -> None:
    """The 3B model's yaml may say one less than its table has rows."""
    change_yaml(directory / "model_config.yml", vocab_size=63)
    assert tahoe.load(directory).config.vocab_size == 64
