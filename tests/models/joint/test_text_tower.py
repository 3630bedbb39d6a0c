"""Text towers: what transformers computes, from any directory, without running what lies in it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.models.errors import ModelError, UnsafePickle
from engine.models.joint.packed_bert import PackedBert
from engine.models.joint.text_tower import load_text_tower, save_text_tower
from tests.models.joint.small_joint import TEXTS, bert, text_directory
from tests.models.test_foreign import Call


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return text_directory(tmp_path / "bert")


def test_features_are_those_of_transformers(directory: Path) -> None:
    """One text at a time there, a padded batch here."""
    found: dict[str, list[torch.Tensor]] = {"pooler": [], "cls": [], "mean": []}
    tokeniser = load_text_tower(directory).tokeniser
    with torch.no_grad():
        for text in TEXTS:
            states = bert()(**tokeniser(text, return_tensors="pt"))
            found["pooler"].append(states.pooler_output[0])
            found["cls"].append(states.last_hidden_state[0, 0])
            found["mean"].append(states.last_hidden_state[0].mean(0))
        for pool, expected in found.items():
            tower = load_text_tower(directory, pool=pool)  # type: ignore[arg-type]
            torch.testing.assert_close(tower(tower.tokenise(TEXTS)), torch.stack(expected), rtol=0, atol=1e-5)


def test_a_packed_tower_answers_the_same(directory: Path) -> None:
    for pool in ("pooler", "cls", "mean"):
        tower = load_text_tower(directory, pool=pool)  # type: ignore[arg-type]
        packed = PackedBert(tower)
        for texts in (TEXTS, TEXTS[:1], ["a sample of a sample of a sample of a sample of blood"]):
            tokens = tower.tokenise(texts)
            torch.testing.assert_close(packed(tokens), tower(tokens).detach(), rtol=0, atol=2e-6)
    assert not PackedBert.takes(tower.to(torch.bfloat16))
    with pytest.raises(ValueError, match="BERT on a CPU in float32"):
        PackedBert(tower)


def test_products_in_bfloat16_are_near(directory: Path) -> None:
    tower = load_text_tower(directory, pool="mean")
    tokens = tower.tokenise(TEXTS)
    exact, near = PackedBert(tower)(tokens), PackedBert(tower, torch.bfloat16)(tokens)
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0, atol=0.02)
    assert torch.nn.functional.cosine_similarity(near, exact).min() > 0.9995


def test_long_texts_are_cut_and_marked(directory: Path) -> None:
    tower = load_text_tower(directory, max_tokens=6)
    tokens = tower.tokenise(
        ["T", "a sample of blood of a sample", "liver", "a a a a a a a a a a a a a a a a a"]
    )
    assert tokens.truncated_B.tolist() == [False, True, False, True]
    assert tokens.mask_BS.sum(1).tolist() == [3, 6, 3, 6]
    assert tokens.ids_BS[1, -1] == tokens.ids_BS[0, 2] == tower.tokeniser.sep_token_id
    assert load_text_tower(directory, max_tokens=999).max_tokens == 16  # the model's positions
    assert tower(tower.tokenise([])).shape == (0, 12)


def test_the_pool_is_what_the_directory_says(directory: Path) -> None:
    assert load_text_tower(directory).pool == "pooler"
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert load_text_tower(directory).pool == "mean"


def save_as_bin(directory: Path, change: dict[str, Any]) -> None:
    """The weights as an older upload has them: a pickle, a task head beside the model, TensorFlow's names."""
    weights = {f"bert.{name}": part for name, part in bert().state_dict().items() if "pooler" not in name}
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): part for name, part in weights.items()}
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): part for name, part in old.items()}
    torch.save(old | {"cls.predictions.bias": torch.zeros(17)} | change, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def test_a_pickled_upload_without_pooler(directory: Path) -> None:
    expected = load_text_tower(directory, pool="mean")
    save_as_bin(directory, {})
    found = load_text_tower(directory)
    assert found.pool == "mean"
    assert torch.equal(found(found.tokenise(TEXTS)), expected(expected.tokenise(TEXTS)))
    with pytest.raises(ModelError, match="no pooler weights"):
        load_text_tower(directory, pool="pooler")


def test_a_malicious_upload_is_refused(directory: Path, tmp_path: Path) -> None:
    save_as_bin(directory, {"extra": Call(os.system, f"touch {tmp_path / 'executed'}")})
    with pytest.raises(UnsafePickle, match="nothing of it was run"):
        load_text_tower(directory)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "vocab.txt"])
def test_missing_files_are_named(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(ModelError, match="tokeniser" if missing == "vocab.txt" else missing):
        load_text_tower(directory)


def test_other_families_are_refused(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="model_type is 'llama'"):
        load_text_tower(directory)


def test_a_saved_tower_is_the_same(directory: Path, tmp_path: Path) -> None:
    tower = load_text_tower(directory)
    save_text_tower(tower, tmp_path / "saved")
    again = load_text_tower(tmp_path / "saved")
    assert torch.equal(again(again.tokenise(TEXTS)), tower(tower.tokenise(TEXTS)))
