"""Geneformer directories: variants of official checkpoints, and errors that name what does not fit."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import models
from engine.models import geneformer
from engine.models.errors import ModelError
from engine.models.geneformer.checkpoint import KEYS
from tests.models.small_models import small_geneformer, tokens_of


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    geneformer.save(small_geneformer(), tmp_path)
    return tmp_path


def change_weights(directory: Path, **changes: torch.Tensor | None) -> None:
    weights = load_file(directory / "model.safetensors")
    for name, tensor in changes.items():
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
    save_file(weights, directory / "model.safetensors")


def test_key_table_goes_both_ways() -> None:
    official = "bert.encoder.layer.11.attention.output.LayerNorm.bias"
    assert KEYS.ours(official) == "blocks.11.norm1.bias"
    assert KEYS.official("blocks.11.norm1.bias") == official
    assert KEYS.official("head.bias") == "cls.predictions.bias"


def test_leftovers_of_old_and_fine_tuned_checkpoints_are_ignored(directory: Path) -> None:
    before = models.load(directory).state_dict()
    change_weights(
        directory,
        **{
            "bert.embeddings.position_ids": torch.arange(64)[None],
            "cls.predictions.decoder.bias": torch.zeros(44),
            "bert.pooler.dense.weight": torch.zeros(16, 16),
        },
    )
    after = models.load(directory).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_fine_tuned_checkpoint_embeds_but_predicts_nothing(directory: Path) -> None:
    encoder = models.load(directory)
    change_weights(
        directory,
        **{name: None for name in load_file(directory / "model.safetensors") if name.startswith("cls.")},
        **{"classifier.weight": torch.zeros(2, 16)},
    )
    tuned = models.load(directory)
    tokens = tokens_of(tuned)
    assert torch.equal(tuned.embed(tokens).nan_to_num(), encoder.embed(tokens).nan_to_num())
    with pytest.raises(ModelError, match="no masked-gene head"):
        tuned(tokens, predictions=True)


def test_a_bare_bert_and_a_bin_file(directory: Path) -> None:
    encoder = models.load(directory)
    weights = load_file(directory / "model.safetensors")
    bare = {
        name.removeprefix("bert."): tensor for name, tensor in weights.items() if name.startswith("bert.")
    }
    (directory / "model.safetensors").unlink()
    torch.save(bare, directory / "pytorch_model.bin")
    tokens = tokens_of(encoder)
    assert torch.equal(models.load(directory).embed(tokens).nan_to_num(), encoder.embed(tokens).nan_to_num())


def test_dictionaries_as_parquet(directory: Path) -> None:
    expected = models.load(directory).tokeniser
    for name in ("token_dictionary", "gene_median_dictionary"):
        file = directory / f"{name}.json"
        table = json.loads(file.read_text())
        pd.DataFrame({"key": table.keys(), "value": table.values()}).to_parquet(
            directory / f"{name}_gc95M.parquet"
        )
        file.unlink()
    found = models.load(directory).tokeniser
    assert found.vocabulary == expected.vocabulary


def test_a_missing_mapping_means_ids_stand_for_themselves(directory: Path) -> None:
    assert not list(directory.glob("ensembl_mapping*"))
    (directory / "ensembl_mapping.json").write_text(json.dumps({"TSPAN6": "ENSG00000000003"}))
    tokeniser = models.load(directory).tokeniser
    assert tokeniser.match(["tspan6", "ENSG00000000004"]).n_matched == 2


@pytest.mark.parametrize("name", ["token_dictionary", "gene_median"])
def test_missing_dictionaries_are_named(directory: Path, name: str) -> None:
    next(directory.glob(f"{name}*")).unlink()
    with pytest.raises(ModelError, match=rf"{name}\*.json, .parquet or .pkl is missing"):
        models.load(directory)


def test_two_dictionaries_of_one_kind(directory: Path) -> None:
    (directory / "token_dictionary_gc30M.json").write_text("{}")
    with pytest.raises(ModelError, match="are both there; keep the one"):
        models.load(directory)


def test_dictionaries_of_another_version(directory: Path) -> None:
    tokens = json.loads((directory / "token_dictionary.json").read_text())
    (directory / "token_dictionary.json").write_text(json.dumps(tokens | {"ENSG99999999999": 25_000}))
    with pytest.raises(ModelError, match=r"ids up to 25000, but config.json a vocab_size of 44"):
        models.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"position_embedding_type": "relative_key"}, "only absolute position embeddings"),
        ({"hidden_size": 17}, "not a multiple of the 2 attention heads"),
        ({"num_hidden_layers": 4}, r"missing: blocks\.3\."),
    ],
)
def test_configurations_that_do_not_fit(directory: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        models.load(directory)


def test_a_cell_longer_than_the_models_ranks() -> None:
    encoder = small_geneformer(max_tokens=8)
    with pytest.raises(ModelError, match="this model knows 8 ranks; tokenise with max_tokens=8"):
        encoder.embed(tokens_of(encoder, max_tokens=20))
