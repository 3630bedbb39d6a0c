"""Half a joint model: what embeds cells without the text tower, and texts without the cell tower.

A stream of cells needs no text model in every worker, and a search no cell encoder.
Legend: C cells, B texts, U width of the common space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.models.encoder import Encoder, Intervention, layer_hook
from engine.models.errors import ModelError
from engine.models.joint.checkpoint import TEXT, WEIGHTS
from engine.models.joint.config import JointConfig, from_json
from engine.models.joint.heads import head
from engine.models.joint.model import cut, in_batches, log_scale_of
from engine.models.joint.packed_bert import PackedBert
from engine.models.joint.text_tower import TextTokens, TextTower, load_text_tower
from engine.models.precision import AskedPrecision, cpu_has_bfloat16
from engine.models.tokens import PackedTokens, Tokens
from engine.models.weights import fill, read_json, read_safetensors


class CellSide(nn.Module):
    """The cells' projection head, for an encoder that is loaded elsewhere (`engine.models.load` opens a joint
    model's cell tower).
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        self.cell_head = head(config.head, config.cell_width, config.width)

    @torch.no_grad()
    def embed(self, encoder: Encoder, tokens: Tokens | PackedTokens) -> Tensor:
        """Unit embeddings e_CU, float32, as `JointModel.embed_cells` makes them with that tower; a row of NaN
        for a cell without tokens.
        """
        f_CD = encoder.embed(tokens, self.config.cell_layer, self.config.cell_pool)
        return cut(self.cell_head(f_CD), self.config.width)

    def through(
        self, encoder: Encoder, tokens: PackedTokens, interventions: Mapping[str, Intervention]
    ) -> Tensor:
        """As `embed`, with states replaced on the way (`engine.models.encoder.Intervention`); gradients pass
        to them."""
        layer = self.config.cell_layer
        hook = layer_hook(encoder.default_layer if layer is None else layer, encoder.n_layers)
        x_TD = encoder(tokens, hooks=(hook,), interventions=interventions).hooks[hook]
        f_CD = encoder.pooled(x_TD, tokens, self.config.cell_pool or encoder.default_pool)
        return cut(self.cell_head(f_CD), self.config.width)


class TextSide(nn.Module):
    """The texts' tower and head, with the temperature. Its weights stay as they are after the first text."""

    def __init__(self, config: JointConfig, text_tower: TextTower) -> None:
        super().__init__()
        self.config, self.text_tower, self.products = config, text_tower, torch.float32
        self.text_head = head(config.head, config.text_width, config.width)
        self.log_scale = nn.Parameter(torch.tensor(log_scale_of(config)))

    @property
    def temperature(self) -> float:
        """What cosines are divided by. Frozen: nothing of a search changes it."""
        return float((-self.log_scale.detach()).exp())

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings e_BU, float32, as `JointModel.embed_texts` makes them within rounding."""
        if not texts:
            return torch.zeros(0, self.config.width)
        return in_batches(texts, lambda batch: self._features(self.text_tower.tokenise(batch)), self._unit)

    @torch.no_grad()
    def embed(self, tokens: TextTokens) -> Tensor:
        """As `embed_texts`, of texts that are tokenised already."""
        return self._unit(self._features(tokens))

    def _features(self, tokens: TextTokens) -> Tensor:
        if len(tokens.ids_BS) and self.text_tower.device.type == "cpu" and self._packed is not None:
            return self._packed(tokens)
        f_BD: Tensor = self.text_tower(tokens)
        return f_BD

    @cached_property
    def _packed(self) -> PackedBert | None:
        takes = PackedBert.takes(self.text_tower)
        return PackedBert(self.text_tower, self.products) if takes else None

    def multiply_in(self, precision: AskedPrecision) -> None:
        """Have the tower multiply in bfloat16 from now on, with "auto" where it can and the CPU has
        instructions for it: faster, and embeddings are a little off. Raises ModelError for "bf16" with a
        tower that cannot, and ValueError after the first text.
        """
        takes = PackedBert.takes(self.text_tower)
        if precision == "fp32" or (precision == "auto" and not (takes and cpu_has_bfloat16())):
            return
        if not takes:
            raise ModelError("only a BERT on a CPU multiplies in bfloat16 here; this text tower is another")
        if "_packed" in self.__dict__:
            raise ValueError("texts were embedded in float32 already")
        self.products = torch.bfloat16

    def _unit(self, f_BD: Tensor) -> Tensor:
        return cut(self.text_head(f_BD), self.config.width)


def load_config(directory: Path | str) -> JointConfig:
    """Sizes and options of a joint model. Raises ModelError when the directory holds none."""
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: no joint model; expected config.json, {WEIGHTS}, cell/ and text/")
    return from_json(read_json(directory / "config.json"))


def load_cell_side(directory: Path | str) -> CellSide:
    """The cells' head of a joint model directory, in eval mode on the CPU; raises what `load` does."""
    side = CellSide(load_config(directory))
    _fill(side, Path(directory))
    return side.eval()


def load_text_side(directory: Path | str) -> TextSide:
    """Text tower and head of a joint model directory, in eval mode on the CPU; raises what `load` does."""
    directory, config = Path(directory), load_config(directory)
    text_tower = load_text_tower(directory / TEXT, pool=config.text_pool, max_tokens=config.max_text_tokens)
    side = TextSide(config, text_tower)
    _fill(side, directory)
    return side.eval()


def _fill(side: nn.Module, directory: Path) -> None:
    if not (directory / WEIGHTS).is_file():
        raise ModelError(f"{directory}: {WEIGHTS} is missing")
    wanted = {name for name in side.state_dict() if not name.startswith("text_tower.")}
    tower = {name: part for name, part in side.state_dict().items() if name not in wanted}
    stored = {name: part for name, part in read_safetensors(directory / WEIGHTS).items() if name in wanted}
    fill(side, {**tower, **stored}, str(directory))
