"""Geneformer directories: Hugging Face BERT weights and the dictionaries beside them.

A directory holds config.json, model.safetensors (or pytorch_model.bin), token_dictionary.*,
gene_median_dictionary.* and optionally ensembl_mapping.*.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.models.encoder import Precision
from engine.models.errors import ModelError
from engine.models.foreign import load_tensors
from engine.models.geneformer.config import from_json, to_json
from engine.models.geneformer.dictionaries import read_dictionaries
from engine.models.geneformer.model import GeneformerEncoder
from engine.models.geneformer.tokenise import GeneformerTokeniser
from engine.models.layers.precision import set_precision

# Official key -> our key, without the closing .weight or .bias. {} is a layer number.
KEYS = {
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
OURS_TO_OFFICIAL = {ours: official for official, ours in KEYS.items()}
LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
# Present in some checkpoints and not needed: the pooler and task heads of fine-tuned models, the output table
# (tied to the input's) and the position numbers 0..max-1.
IGNORED = re.compile(
    r"^(bert\.pooler\.|classifier\.|cls\.seq_relationship\.|cls\.predictions\.decoder\.|bert\.embeddings\.position_ids$)"
)


def load(directory: Path | str, *, precision: Precision = "fp32") -> GeneformerEncoder:
    """The encoder of an official directory (with its dictionaries) or of one that `save` wrote, in eval mode.

    A fine-tuned checkpoint without the masked-gene head loads too; it then makes no predictions.
    Raises ModelError for a missing file or key, naming it.
    """
    directory = Path(directory)
    config = from_json(_read_json(directory / "config.json"))
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
    weights = _ours(_read_weights(directory), directory)
    encoder = GeneformerEncoder(config, tokeniser, with_head="head.bias" in weights)
    _fill(encoder, weights, directory)
    set_precision(encoder, precision)
    return encoder.eval()


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
    weights = {
        official_key(name): tensor.detach().float().cpu().contiguous()
        for name, tensor in encoder.state_dict().items()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def our_key(official: str) -> str | None:
    """Our name of an official state-dict key; None for one without a place in the encoder."""
    return _translate(official, KEYS)


def official_key(ours: str) -> str:
    """Official name of one of our state-dict keys."""
    found = _translate(ours, OURS_TO_OFFICIAL)
    if found is None:
        raise ModelError(f"no official name for {ours}")
    return found


def _translate(key: str, table: dict[str, str]) -> str | None:
    stem, _, kind = key.rpartition(".")
    numbers = LAYER_NUMBER.findall(stem)
    found = table.get(LAYER_NUMBER.sub("{}", stem))
    return None if found is None else f"{found.format(*numbers)}.{kind}"


def _ours(weights: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """The weights under our names. A bare BertModel's keys lack the `bert.` in front."""
    if not any(name.startswith("bert.") for name in weights):
        weights = {f"bert.{name}": tensor for name, tensor in weights.items()}
    unknown = [name for name in weights if our_key(name) is None and not IGNORED.match(name)]
    if unknown:
        raise ModelError(f"{directory}: the weights hold keys that no Geneformer has: {unknown[:5]}")
    named = {our_key(name): tensor for name, tensor in weights.items() if not IGNORED.match(name)}
    return {name: tensor for name, tensor in named.items() if name is not None}


def _fill(encoder: GeneformerEncoder, weights: dict[str, Tensor], directory: Path) -> None:
    wanted = encoder.state_dict()
    missing = [official_key(name) for name in wanted if name not in weights]
    surplus = [name for name in weights if name not in wanted]
    wrong = [name for name in wanted if name in weights and wanted[name].shape != weights[name].shape]
    if missing or surplus or wrong:
        raise ModelError(
            f"{directory}: the weights do not fit config.json: missing {missing[:5]}, "
            f"not in the model {surplus[:5]}, "
            f"other shape {[f'{official_key(name)} {tuple(weights[name].shape)}' for name in wrong[:5]]}"
        )
    encoder.load_state_dict({name: weights[name].float() for name in wanted}, assign=True)
    encoder.requires_grad_(True)


def _read_weights(directory: Path) -> dict[str, Tensor]:
    if (directory / "model.safetensors").is_file():
        return dict(load_file(directory / "model.safetensors"))
    if (directory / "pytorch_model.bin").is_file():
        return load_tensors(directory / "pytorch_model.bin")
    raise ModelError(f"{directory}: neither model.safetensors nor pytorch_model.bin is there")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected an object, found {type(found).__name__}")
    return found
