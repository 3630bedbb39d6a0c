"""Geneformer directories: Hugging Face BERT weights and the dictionaries beside them.

A directory holds config.json, model.safetensors (or pytorch_model.bin), token_dictionary.*,
gene_median_dictionary.* and optionally ensembl_mapping.*.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.models.errors import ModelError
from engine.models.foreign import open_tensors
from engine.models.geneformer.config import from_json, to_json
from engine.models.geneformer.dictionaries import read_dictionaries
from engine.models.geneformer.model import GeneformerEncoder
from engine.models.geneformer.parallelise import PLAN
from engine.models.geneformer.tokenise import GeneformerTokeniser
from engine.models.layers.parallel import TensorShard
from engine.models.precision import Precision
from engine.models.weights import KeyTable, StoredTensor, assemble, open_safetensors, read_json

# Official key -> our key, without the closing .weight or .bias. {} is a layer number.
KEYS = KeyTable(
    {
        "bert.embeddings.word_embeddings": "embeddings.words",
        "bert.embeddings.position_embeddings": "embeddings.positions",
        "bert.embeddings.token_type_embeddings": "embeddings.types",
        "bert.embeddings.LayerNorm": "embeddings.norm",
        "bert.encoder.layer.{}.attention.self.query": "blocks.{}.attention.query",
        "bert.encoder.layer.{}.attention.self.key": "blocks.{}.attention.key",
        "bert.encoder.layer.{}.attention.self.value": "blocks.{}.attention.value",
        "bert.encoder.layer.{}.attention.output.dense": "blocks.{}.attention.out",
        "bert.encoder.layer.{}.attention.output.LayerNorm": "blocks.{}.norm1",
        "bert.encoder.layer.{}.intermediate.dense": "blocks.{}.ffn.up",
        "bert.encoder.layer.{}.output.dense": "blocks.{}.ffn.down",
        "bert.encoder.layer.{}.output.LayerNorm": "blocks.{}.norm2",
        "cls.predictions": "head",
        "cls.predictions.transform.dense": "head.transform",
        "cls.predictions.transform.LayerNorm": "head.norm",
    }
)
# Present in some checkpoints and not needed: the pooler and task heads of fine-tuned models, the output table
# (tied to the input's) and the position numbers 0..max-1.
IGNORED = (
    "bert.pooler.",
    "classifier.",
    "cls.seq_relationship.",
    "cls.predictions.decoder.",
    "bert.embeddings.position_ids",
)


def load(
    directory: Path | str,
    *,
    precision: Precision = "fp32",
    weights: bool = True,
    shard: TensorShard | None = None,
) -> GeneformerEncoder:
    """The encoder of an official directory (with its dictionaries) or of one that `save` wrote, in eval mode.

    A fine-tuned checkpoint without the masked-gene head loads too; it then makes no predictions.
    weights, shard: as for `engine.models.load`.
    Raises ModelError for a missing file or key, naming it.
    """
    directory = Path(directory)
    config = from_json(read_json(directory / "config.json"))
    dictionaries = read_dictionaries(directory)
    n_ids = max(dictionaries.tokens.values(), default=0) + 1
    if n_ids > config.vocab_size:
        raise ModelError(
            f"{directory}: token_dictionary has ids up to {n_ids - 1}, but config.json a vocab_size of "
            f"{config.vocab_size}; the dictionary belongs to another model (V1 and V2 differ)"
        )
    pad_id = dictionaries.tokens.get("<pad>", config.pad_id)
    config = dataclasses.replace(config, pad_id=pad_id)
    tokeniser = GeneformerTokeniser(
        dictionaries.tokens, dictionaries.medians, dictionaries.mapping, config.max_tokens
    )
    ours = _ours(_stored(directory), directory)
    with torch.device("meta"):  # the weights bring their own memory
        encoder = GeneformerEncoder(config, tokeniser, with_head="head.bias" in ours)
    assemble(encoder, ours, str(directory), precision=precision, weights=weights, plan=PLAN, shard=shard)
    return encoder


def save(encoder: GeneformerEncoder, directory: Path | str) -> None:
    """Writes the official layout with JSON dictionaries; `load` and transformers.BertForMaskedLM open it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokeniser = encoder.tokeniser
    (directory / "config.json").write_text(json.dumps(to_json(encoder.config), indent=2))
    (directory / "token_dictionary.json").write_text(json.dumps(tokeniser.vocabulary, indent=1))
    (directory / "gene_median_dictionary.json").write_text(json.dumps(tokeniser.medians, indent=1))
    if tokeniser.mapping:
        (directory / "ensembl_mapping.json").write_text(json.dumps(tokeniser.mapping, indent=1))
    save_file(KEYS.export(encoder), directory / "model.safetensors", metadata={"format": "pt"})


def _ours(stored: dict[str, StoredTensor], directory: Path) -> dict[str, StoredTensor]:
    """The weights under our names. A bare BertModel's keys lack the `bert.` in front."""
    if not any(name.startswith("bert.") for name in stored):
        stored = {f"bert.{name}": tensor for name, tensor in stored.items()}
    unknown = [name for name in stored if KEYS.ours(name) is None and not name.startswith(IGNORED)]
    if unknown:
        raise ModelError(f"{directory}: the weights hold keys that no Geneformer has: {unknown[:5]}")
    named = {KEYS.ours(name): tensor for name, tensor in stored.items() if not name.startswith(IGNORED)}
    return {name: tensor for name, tensor in named.items() if name is not None}


def _stored(directory: Path) -> dict[str, StoredTensor]:
    if (directory / "model.safetensors").is_file():
        return open_safetensors(directory / "model.safetensors")
    if (directory / "pytorch_model.bin").is_file():
        return open_tensors(directory / "pytorch_model.bin")
    raise ModelError(f"{directory}: neither model.safetensors nor pytorch_model.bin is there")
