"""Text towers: any model of the BERT family from a local directory, through transformers, offline.

Weights are filled in by our own readers: safetensors, or pytorch_model.bin without running its pickle.
Legend: B texts, S tokens of the longest text (shorter ones are padded), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.models.errors import ModelError
from engine.models.foreign import open_tensors
from engine.models.joint.config import TextPool
from engine.models.weights import StoredTensor, fill, open_safetensors, read_json

# Families whose models read (input_ids, attention_mask) and return token states first.
FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet")
POOLER = "pooler."
TOKENISER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
# Names of LayerNorm's weights in checkpoints converted from TensorFlow.
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}


@dataclass(frozen=True)
class TextTokens:
    """Tokenised texts: ids_BS int64, mask_BS int64 (1 at tokens), truncated_B bool (text was cut)."""

    ids_BS: Tensor
    mask_BS: Tensor
    truncated_B: Tensor

    def to(self, device: torch.device | str) -> TextTokens:
        return TextTokens(self.ids_BS.to(device), self.mask_BS.to(device), self.truncated_B)


class TextTower(nn.Module):
    """A transformers model, its tokeniser and how token states become one feature per text.

    d_model: width of the features. max_tokens: tokens of a text that are read, special ones included.
    """

    def __init__(self, language_model: nn.Module, tokeniser: Any, pool: TextPool, max_tokens: int) -> None:
        super().__init__()
        self.language_model, self.tokeniser = language_model, tokeniser
        config: Any = language_model.config
        self.d_model: int = config.hidden_size
        self.pool: TextPool = pool
        # RoBERTa's positions start behind the padding id, so it reads two tokens fewer than it has positions.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type in (
            "camembert",
            "mpnet",
        ) else 0  # fmt: skip
        self.max_tokens = min(max_tokens, config.max_position_embeddings - offset)
        if pool == "pooler" and getattr(language_model, "pooler", None) is None:
            raise ModelError("text pool pooler: this text tower has no pooler weights; use cls or mean")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def tokenise(self, texts: Sequence[str]) -> TextTokens:
        """Texts as padded ids on the CPU. Longer ones are cut to `max_tokens` and marked so."""
        if not texts:
            empty = torch.zeros(0, 0, dtype=torch.int64)
            return TextTokens(empty, empty, torch.zeros(0, dtype=torch.bool))
        # Straight from the library below transformers: it says of each text whether something was cut off.
        backend = self.tokeniser.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(self.max_tokens, direction=self.tokeniser.truncation_side)
        found = backend.encode_batch(list(texts))
        ids = [torch.as_tensor(text.ids) for text in found]
        pad = self.tokeniser.pad_token_id
        ids_BS = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad)
        lengths_B = torch.as_tensor([len(row) for row in ids])
        mask_BS = (torch.arange(ids_BS.shape[1]) < lengths_B[:, None]).long()
        return TextTokens(ids_BS, mask_BS, torch.as_tensor([bool(text.overflowing) for text in found]))

    def forward(self, tokens: TextTokens) -> Tensor:
        """Features f_BD, float32; gradients pass."""
        if len(tokens.ids_BS) == 0:
            return torch.zeros(0, self.d_model, device=self.device)
        tokens = tokens.to(self.device)
        found = self.language_model(input_ids=tokens.ids_BS, attention_mask=tokens.mask_BS)
        if self.pool == "pooler":
            f_BD: Tensor = found.pooler_output.float()
            return f_BD
        h_BSD = found.last_hidden_state.float()
        return h_BSD[:, 0] if self.pool == "cls" else _mean(h_BSD, tokens.mask_BS)


def load_text_tower(
    directory: Path | str, *, pool: TextPool | None = None, max_tokens: int = 128
) -> TextTower:
    """The text tower in a local directory (config.json, weights, tokeniser), float32, eval mode, CPU.

    pool: None for what the directory says: sentence-transformers' own file, else the pooler where its weights
    are there, else the mean over tokens (CellWhisperer's rule).
    Nothing is fetched and no code of the directory runs. Raises ModelError for what is missing or not known.
    """
    directory = Path(directory)
    stored = _stored(directory)
    language_model = _build(directory, {_current(name): tensor for name, tensor in stored.items()})
    tower = TextTower(
        language_model,
        load_tokeniser(directory),
        pool or _pool_of(directory, getattr(language_model, "pooler", None) is not None),
        max_tokens,
    )
    return tower.eval()


def load_tokeniser(directory: Path) -> Any:
    """The transformers tokeniser of a local directory. Raises ModelError when it has none."""
    from transformers import AutoTokenizer

    if not any((directory / name).is_file() for name in TOKENISER_FILES):
        raise ModelError(
            f"{directory}: no tokeniser; expected one of {', '.join(TOKENISER_FILES)} (of the text model's "
            "own directory)"
        )
    tokeniser = AutoTokenizer.from_pretrained(
        str(directory), local_files_only=True, trust_remote_code=False, use_fast=True
    )
    if not tokeniser.is_fast or tokeniser.pad_token_id is None:
        raise ModelError(f"{directory}: the tokeniser must be a fast one with a padding token")
    return tokeniser


def save_text_tower(tower: TextTower, directory: Path) -> None:
    """Writes a directory that `load_text_tower` and transformers.AutoModel open."""
    directory.mkdir(parents=True, exist_ok=True)
    language_model: Any = tower.language_model
    language_model.config.save_pretrained(directory)
    tower.tokeniser.save_pretrained(directory)
    weights = {
        name: part.detach().float().cpu().clone(memory_format=torch.contiguous_format)
        for name, part in language_model.state_dict().items()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def build_language_model(config: Any, weights: dict[str, Tensor], source: str) -> nn.Module:
    """A transformers model of this configuration with just these weights; no pooler if they have none."""
    from transformers import AutoModel

    language_model: Any = AutoModel.from_config(config, trust_remote_code=False).float()
    if getattr(language_model, "pooler", None) is not None and not any(n.startswith(POOLER) for n in weights):
        language_model.pooler = None
    fill(language_model, weights, source)
    model: nn.Module = language_model.eval()
    return model


def _build(directory: Path, stored: dict[str, StoredTensor]) -> nn.Module:
    from transformers import AutoConfig

    family = read_json(directory / "config.json").get("model_type")
    if family not in FAMILIES:
        raise ModelError(f"{directory}: model_type is {family!r}; text towers may be {', '.join(FAMILIES)}")
    config = AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    # A model saved with a task head keeps the tower under its family's name and the head beside it.
    prefix = {"xlm-roberta": "roberta", "camembert": "roberta"}.get(family, family) + "."
    inner = {
        name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)
    } or stored
    weights = {
        name: tensor.read(())
        for name, tensor in inner.items()
        if not name.endswith("embeddings.position_ids")
    }
    return build_language_model(config, weights, str(directory))


def _stored(directory: Path) -> dict[str, StoredTensor]:
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: config.json is missing; expected the directory of a text model")
    if (directory / "model.safetensors").is_file():
        return open_safetensors(directory / "model.safetensors")
    if (directory / "pytorch_model.bin").is_file():
        return open_tensors(directory / "pytorch_model.bin")
    raise ModelError(f"{directory}: neither model.safetensors nor pytorch_model.bin is there")


def _current(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _pool_of(directory: Path, has_pooler: bool) -> TextPool:
    sentence = directory / "1_Pooling" / "config.json"
    if not sentence.is_file():
        return "pooler" if has_pooler else "mean"
    said = read_json(sentence)
    if said.get("pooling_mode_mean_tokens") or said.get("pooling_mode") == "mean":
        return "mean"
    if said.get("pooling_mode_cls_token") or said.get("pooling_mode") == "cls":
        return "cls"
    raise ModelError(f"{sentence}: only mean and cls pooling are supported; name one")


def _mean(h_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Mean over the tokens of each text."""
    mask_BS1 = mask_BS.unsqueeze(-1).to(h_BSD.dtype)
    return (h_BSD * mask_BS1).sum(1) / mask_BS1.sum(1)
