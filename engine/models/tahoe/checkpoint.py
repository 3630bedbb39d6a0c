"""Tahoe-x1 directories: the official layout in, the official layout out.

A directory holds model_config.yml, collator_config.yml, vocab.json and model.safetensors (or best-model.pt).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from engine.models.errors import ModelError
from engine.models.foreign import open_tensors
from engine.models.layers.parallel import TensorShard
from engine.models.precision import Precision
from engine.models.tahoe.config import ChemicalConfig, collator_from_yaml, from_yaml, to_yaml
from engine.models.tahoe.model import TahoeEncoder
from engine.models.tahoe.parallelise import PLAN
from engine.models.tahoe.tokenise import TahoeTokeniser
from engine.models.weights import KeyTable, StoredTensor, assemble, open_safetensors, read_json

# Official key -> our key, without the closing .weight or .bias. {} is a layer number.
KEYS = KeyTable(
    {
        "model.gene_encoder.embedding": "genes.table",
        "model.gene_encoder.enc_norm": "genes.norm",
        "model.flag_encoder": "flag",
        "model.expression_encoder.linear1": "values.linear1",
        "model.expression_encoder.linear2": "values.linear2",
        "model.expression_encoder.norm": "values.norm",
        "model.chem_encoder.embedding": "drugs.table",
        "model.chem_encoder.fc": "drugs.linear1",
        "model.chem_encoder.proj": "drugs.linear2",
        "model.chem_encoder.norm": "drugs.norm",
        "model.transformer_encoder.layers.{}.self_attn.Wqkv": "blocks.{}.attention.qkv",
        "model.transformer_encoder.layers.{}.self_attn.out_proj": "blocks.{}.attention.out",
        "model.transformer_encoder.layers.{}.up_proj": "blocks.{}.ffn.up",
        "model.transformer_encoder.layers.{}.gate_proj": "blocks.{}.ffn.gate",
        "model.transformer_encoder.layers.{}.down_proj": "blocks.{}.ffn.down",
        "model.transformer_encoder.layers.{}.norm1": "blocks.{}.norm1",
        "model.transformer_encoder.layers.{}.norm2": "blocks.{}.norm2",
        "model.transformer_encoder.norm": "final_norm",
        "model.expression_decoder.linear_layers.{}": "expression_head.hidden.{}",
        "model.expression_decoder.out_proj": "expression_head.out",
        "model.mvc_decoder.gene2query": "cell_head.query",
        "model.mvc_decoder.W": "cell_head.project",
    }
)


def load(
    directory: Path | str,
    *,
    precision: Precision = "fp32",
    weights: bool = True,
    shard: TensorShard | None = None,
    use_chem: bool = False,
    isolate_generative: bool = False,
) -> TahoeEncoder:
    """The encoder of an official directory or of one that `save` wrote, in eval mode on the CPU.

    weights, shard: as for `engine.models.load`.
    use_chem: keep the 3B model's drug token. Off by default, as in the original: the drug encoder is then
        left out, while keep_first_n_tokens stays as trained.
    isolate_generative: the attention mask under which 70M and 1.3B were trained (see
        `layers.attention.attend`); it only matters for tokens to be predicted.
    Raises ModelError for a missing file or key, naming it.
    """
    directory = Path(directory)
    model_yaml, collator_yaml = (
        _read_yaml(directory / name) for name in ("model_config.yml", "collator_config.yml")
    )
    vocabulary = _read_ids(directory / "vocab.json")
    stored = _stored(directory)
    table = stored.get("model.gene_encoder.embedding.weight")
    if table is None:
        raise ModelError(
            f"{directory}: the weights hold no model.gene_encoder.embedding.weight; not a Tahoe-x1 model"
        )
    has_chem = use_chem and collator_from_yaml(collator_yaml).use_chem_token
    if use_chem and not has_chem:
        raise ModelError(f"{directory}: use_chem was asked for, but this model has no drug token")
    chemical = _chemical(model_yaml, stored) if has_chem else None
    config = from_yaml(model_yaml, collator_yaml, vocab_size=table.shape[0], chemical=chemical)
    collator = dataclasses.replace(config.collator, use_chem_token=has_chem)
    config = dataclasses.replace(config, collator=collator, isolate_generative=isolate_generative)
    drugs = _read_drugs(directory, collator_yaml) if has_chem else {}
    tokeniser = TahoeTokeniser(vocabulary, collator, drugs)
    _require_rows(tokeniser, table.shape[0], directory)
    with torch.device("meta"):  # the weights bring their own memory
        encoder = TahoeEncoder(config, tokeniser)
    ours = _ours(stored, directory, with_drugs=has_chem)
    assemble(encoder, ours, str(directory), precision=precision, weights=weights, plan=PLAN, shard=shard)
    return encoder


def save(encoder: TahoeEncoder, directory: Path | str) -> None:
    """Writes the official layout (float32 safetensors); `load` and the original open it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model_yaml, collator_yaml = to_yaml(encoder.config)
    tokeniser = encoder.tokeniser
    if encoder.drugs is not None:
        collator_yaml["drug_to_id_path"] = {"local": "drug_to_id_pad.json"}
        (directory / "drug_to_id_pad.json").write_text(json.dumps(tokeniser.drugs))
    (directory / "model_config.yml").write_text(yaml.safe_dump(model_yaml, sort_keys=False))
    (directory / "collator_config.yml").write_text(yaml.safe_dump(collator_yaml, sort_keys=False))
    (directory / "vocab.json").write_text(json.dumps(tokeniser.vocabulary, indent=2))
    save_file(KEYS.export(encoder), directory / "model.safetensors", metadata={"format": "pt"})


def _ours(stored: dict[str, StoredTensor], directory: Path, *, with_drugs: bool) -> dict[str, StoredTensor]:
    """The weights under our names; those of a drug encoder that was not asked for are left out."""
    unknown = [name for name in stored if KEYS.ours(name) is None]
    if unknown:
        raise ModelError(f"{directory}: the weights hold keys that no Tahoe-x1 model has: {unknown[:5]}")
    named = {KEYS.ours(name) or "": tensor for name, tensor in stored.items()}
    return {name: tensor for name, tensor in named.items() if with_drugs or not name.startswith("drugs.")}


def _require_rows(tokeniser: TahoeTokeniser, n_rows: int, directory: Path) -> None:
    beyond = [
        token for token, row in tokeniser.vocabulary.items() if row >= n_rows and not token.startswith("<")
    ]
    if beyond:
        raise ModelError(
            f"{directory}: vocab.json names {len(beyond)} genes ({beyond[0]}, ...) beyond the {n_rows} rows "
            "of the embedding table; it belongs to another model"
        )


def _chemical(model_yaml: dict[str, Any], stored: dict[str, StoredTensor]) -> ChemicalConfig:
    if "model.chem_encoder.embedding.weight" not in stored:
        raise ModelError("collator_config.yml has use_chem_token, but the weights hold no drug table")
    n_drugs, n_bits = stored["model.chem_encoder.embedding.weight"].shape
    section = model_yaml.get("chemical_encoder") or {}
    return ChemicalConfig(n_drugs, n_bits, section.get("activation", "gelu"))


def _stored(directory: Path) -> dict[str, StoredTensor]:
    if (directory / "model.safetensors").is_file():
        return open_safetensors(directory / "model.safetensors")
    if (directory / "best-model.pt").is_file():
        return open_tensors(directory / "best-model.pt", inside=("state", "model"))
    raise ModelError(f"{directory}: neither model.safetensors nor best-model.pt is there")


def _read_drugs(directory: Path, collator_yaml: dict[str, Any]) -> dict[str, int]:
    """Drug name -> row of the drug table, from the file that collator_config.yml names, beside it."""
    local = (collator_yaml.get("drug_to_id_path") or {}).get("local", "drug_to_id_pad.json")
    return _read_ids(directory / Path(local).name)


def _read_ids(path: Path) -> dict[str, int]:
    found = read_json(path)
    if not all(isinstance(number, int) for number in found.values()):
        raise ModelError(f"{path}: expected an object of name -> integer")
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path.parent}: {path.name} is missing") from None
    except yaml.YAMLError as error:
        raise ModelError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a mapping, found {type(found).__name__}")
    return found
