"""CellWhisperer's checkpoints (Lightning, `cellwhisperer_clip_v1.ckpt`) to a joint model, offline.

The checkpoint's pickle is read without running it and none of CellWhisperer's code is needed. What it lacks
comes from local directories: the vocabulary of its texts always, a tower's weights where they were frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from engine import models
from engine.models.errors import ModelError
from engine.models.foreign import Inert, open_checkpoint, open_tensors
from engine.models.geneformer import GeneformerEncoder
from engine.models.geneformer.checkpoint import IGNORED, KEYS
from engine.models.joint.checkpoint import fill_heads
from engine.models.joint.config import JointConfig
from engine.models.joint.model import JointModel
from engine.models.joint.text_tower import TextTower, build_language_model, load_text_tower, load_tokeniser
from engine.models.weights import StoredTensor, fill

# Theirs -> ours, for each of the two heads and for what lies in a head.
HEADS = {"img_block": "cell_head", "text_block": "text_head"}
LAYERS = {
    "feature_nonlinear.0": "expand",
    "feature_nonlinear.1": "batch_norm",
    "feature_nonlinear.3": "mix",
    "feature_shortcut": "shortcut",
    "feature_block_ln": "norm",
}
HEAD_KEYS = {
    f"model.discriminator.{their_head}.{their_layer}": f"{head}.{layer}"
    for their_head, head in HEADS.items()
    for their_layer, layer in LAYERS.items()
}
TEMPERATURE = "model.discriminator.temperature"
DISCRIMINATOR, TEXT, CELL = "model.discriminator.", "model.text_model.", "model.transcriptome_model."
CELL_INNER = CELL + "geneformer_model."
# The original reads texts of any length when it embeds them; BioBERT has this many positions.
MAX_TEXT_TOKENS = 512


def convert(checkpoint: Path | str, cell_tower: Path | str, text_tower: Path | str) -> JointModel:
    """The joint model of a checkpoint, in eval mode on the CPU.

    cell_tower: directory of the Geneformer it was trained on (12 layers of V1, commit 9d41e705, for the
        released one), whose weights the checkpoint replaces where it holds them.
    text_tower: directory of the text model it was trained on (BioBERT v1.1): its tokeniser, and its weights
        where the checkpoint holds none.
    Raises ModelError when a part is missing, of another size, or of a kind that is not supported (scGPT, UCE,
    images); UnsafePickle when the pickle names what a checkpoint has no reason to.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        raise ModelError(f"{checkpoint}: no such file")
    stored = open_tensors(checkpoint, inside=("state_dict",))
    settings = read_settings(checkpoint)
    _require_known(stored, settings, str(checkpoint))
    cells = _cell_tower(Path(cell_tower), _part(stored, CELL_INNER), str(checkpoint))
    texts = _text_tower(Path(text_tower), _part(stored, TEXT), settings, str(checkpoint))
    heads = head_weights({name: tensor.read(()) for name, tensor in _discriminator(stored).items()})
    if "cell_head.norm.weight" not in heads:
        raise ModelError(f"{checkpoint}: no projection heads ({DISCRIMINATOR}*) in the checkpoint")
    config = JointConfig(
        cell_width=cells.d_model,
        text_width=texts.d_model,
        width=len(heads["cell_head.norm.weight"]),
        head="residual",
        cell_layer=_cell_layer(settings, cells.n_layers),
        cell_pool="mean",
        text_pool=texts.pool,
        max_text_tokens=texts.max_tokens,
        metadata={"converted_from": "cellwhisperer", "locking_mode": settings.get("locking_mode")},
    )
    model = JointModel(config, cells, texts)
    fill_heads(model, heads, str(checkpoint))
    return model.eval()


def head_weights(discriminator: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Heads and scale under our names, from a state dict's `model.discriminator.*`.

    Raises ModelError for a key without a place in the model.
    """
    ours = {}
    for name, tensor in discriminator.items():
        layer, _, kind = name.rpartition(".")
        if name != TEMPERATURE and layer not in HEAD_KEYS:
            raise ModelError(f"the checkpoint's {name} is no part of CellWhisperer's projection heads")
        ours["log_scale" if name == TEMPERATURE else f"{HEAD_KEYS[layer]}.{kind}"] = tensor
    return ours


def read_settings(checkpoint: Path) -> dict[str, Any]:
    """The model's configuration as the checkpoint pickled it, JSON values; {} when it holds none."""
    found = open_checkpoint(checkpoint)
    parameters = found.get("hyper_parameters") if isinstance(found, Mapping) else None
    return _with_key(_plain(parameters, {}), "locking_mode") or {}


def _plain(found: Any, seen: dict[int, Any]) -> Any:
    """JSON values alone; objects as the dict of their attributes, anything else None.

    seen: what was met already, by identity: a hostile pickle may contain itself.
    """
    if found is None or isinstance(found, bool | int | float | str):
        return found
    if id(found) in seen:
        return seen[id(found)]
    seen[id(found)] = None
    plain: Any = None
    if isinstance(found, Inert | Mapping):
        pairs = found.attributes if isinstance(found, Inert) else found
        plain = {str(key): _plain(value, seen) for key, value in pairs.items()}
    elif isinstance(found, list | tuple):
        plain = [_plain(value, seen) for value in found]
    seen[id(found)] = plain
    return plain


def _with_key(found: Any, key: str) -> dict[str, Any] | None:
    """The first dict that has this key, outermost first."""
    level = [found]
    while level:
        dicts = [one for one in level if isinstance(one, dict)]
        hit = next((one for one in dicts if key in one), None)
        if hit is not None:
            return hit
        level = [value for one in dicts for value in one.values()]
    return None


def _require_known(stored: Mapping[str, Any], settings: Mapping[str, Any], source: str) -> None:
    kind = (settings.get("transcriptome_config") or {}).get("model_type", "geneformer")
    if kind != "geneformer":
        raise ModelError(f"{source}: its cell tower is {kind!r}; only Geneformer towers can be converted")
    unknown = [name for name in stored if not name.startswith((DISCRIMINATOR, TEXT, CELL_INNER))]
    if unknown:
        raise ModelError(
            f"{source}: the checkpoint holds parts that CellWhisperer's model of cells and texts has not: "
            f"{unknown[:5]}"
        )


def _part(stored: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    return {name.removeprefix(prefix): found for name, found in stored.items() if name.startswith(prefix)}


def _discriminator(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {name: found for name, found in stored.items() if name.startswith(DISCRIMINATOR)}


def _cell_tower(directory: Path, stored: Mapping[str, StoredTensor], source: str) -> GeneformerEncoder:
    """The Geneformer of the directory, with the checkpoint's weights if it was not frozen in training.

    Its number of heads is the directory's: CellWhisperer's own code says 4 where the model has 8.
    """
    encoder = models.load(directory)
    if not isinstance(encoder, GeneformerEncoder):
        raise ModelError(
            f"{directory}: a {type(encoder).__name__}; CellWhisperer's cell tower is a Geneformer"
        )
    if stored:
        kept = {name: tensor for name, tensor in stored.items() if not name.startswith(IGNORED)}
        unknown = [name for name in kept if KEYS.ours(name) is None]
        if unknown:
            raise ModelError(f"{source}: its cell tower holds keys that no Geneformer has: {unknown[:5]}")
        fill(encoder, {str(KEYS.ours(name)): tensor.read(()) for name, tensor in kept.items()}, source)
    return encoder


def _cell_layer(settings: Mapping[str, Any], n_layers: int) -> int:
    """Geneformer's `emb_layer` counts from the last layer: -1 is the one before it."""
    emb_layer = (settings.get("transcriptome_config") or {}).get("emb_layer", -1)
    return int(n_layers - 1 + emb_layer)


def _text_tower(
    directory: Path, stored: Mapping[str, StoredTensor], settings: Mapping[str, Any], source: str
) -> TextTower:
    """The checkpoint's text model with the directory's tokeniser; the directory's whole if it was frozen."""
    if not stored:
        return load_text_tower(directory, pool="pooler", max_tokens=MAX_TEXT_TOKENS)
    weights = {name: tensor.read(()) for name, tensor in stored.items() if not name.endswith("position_ids")}
    language_model = build_language_model(_bert_config(weights, settings, source), weights, source)
    tokeniser = load_tokeniser(directory)
    n_known = len(weights["embeddings.word_embeddings.weight"])
    if len(tokeniser) > n_known:
        raise ModelError(
            f"{directory}: its tokeniser has {len(tokeniser)} tokens, the checkpoint's text model {n_known}; "
            "give the directory of the text model it was trained on"
        )
    return TextTower(language_model, tokeniser, "pooler", MAX_TEXT_TOKENS).eval()


def _bert_config(weights: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> Any:
    """Sizes from the weights themselves; what weights do not show from the settings, else BERT's own."""
    from transformers import BertConfig

    needed = {
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "encoder.layer.0.intermediate.dense.weight",
    }
    if not needed <= weights.keys():
        raise ModelError(
            f"{source}: its text model is no BERT ({sorted(needed - weights.keys())[0]} is missing)"
        )
    said = settings.get("text_config") or {}
    n_words, width = weights["embeddings.word_embeddings.weight"].shape
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}
    return BertConfig(
        vocab_size=n_words,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=said.get("num_attention_heads") or max(width // 64, 1),
        intermediate_size=len(weights["encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
        type_vocab_size=len(weights["embeddings.token_type_embeddings.weight"]),
        hidden_act=said.get("hidden_act") or "gelu",
        layer_norm_eps=said.get("layer_norm_eps") or 1e-12,
        pad_token_id=said.get("pad_token_id") or 0,
    )
