"""One space for cells and texts: a tower and a projection head for each.

Legend: C cells, B texts, D width of a tower's features, U width of the common space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from engine.models.encoder import Encoder, layer_hook
from engine.models.errors import ModelError
from engine.models.joint.config import JointConfig
from engine.models.joint.heads import head
from engine.models.joint.text_tower import TextTokens, TextTower
from engine.models.tokens import PackedTokens, Tokens

# CLIP's start: logits are cosines divided by 0.07. SigLIP's: 10 times cosines, minus 10.
CLIP_LOG_SCALE = math.log(1 / 0.07)
SIGLIP_LOG_SCALE, SIGLIP_BIAS = math.log(10), -10.0
TEXTS_AT_ONCE = 64


class JointModel(nn.Module):
    """Embeddings are unit vectors; logits are their cosines times `scale`, plus `bias` under SigLIP.

    locked: towers ("cell", "text") that do not learn now: eval mode and no gradient (`joint.locking`).
    """

    def __init__(self, config: JointConfig, cell_tower: Encoder, text_tower: TextTower) -> None:
        super().__init__()
        if (cell_tower.d_model, text_tower.d_model) != (config.cell_width, config.text_width):
            raise ModelError(
                f"the towers have features of {cell_tower.d_model} (cells) and {text_tower.d_model} (texts) "
                f"numbers, the configuration of {config.cell_width} and {config.text_width}"
            )
        self.config = config
        self.cell_tower, self.text_tower = cell_tower, text_tower
        self.cell_head = head(config.head, config.cell_width, config.width)
        self.text_head = head(config.head, config.text_width, config.width)
        self.log_scale = nn.Parameter(torch.tensor(log_scale_of(config)))
        self.bias = nn.Parameter(torch.tensor(SIGLIP_BIAS)) if config.sigmoid else None
        self.locked: frozenset[str] = frozenset()
        cell_tower.require_pool(self.cell_pool)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with: 1/temperature."""
        return self.log_scale.exp()

    @property
    def cell_pool(self) -> str:
        return self.config.cell_pool or self.cell_tower.default_pool

    @property
    def cell_layer(self) -> int:
        layer = self.config.cell_layer
        return self.cell_tower.default_layer if layer is None else layer

    def train(self, mode: bool = True) -> JointModel:
        """As for any module, except that locked towers stay in eval mode: no dropout in what is frozen."""
        super().train(mode)
        for name in self.locked:
            self.get_submodule(f"{name}_tower").eval()
        return self

    def learns(self, tower: str) -> bool:
        """Whether features of this tower carry a gradient here and now."""
        if tower in self.locked or not torch.is_grad_enabled():
            return False
        return any(parameter.requires_grad for parameter in self.get_submodule(f"{tower}_tower").parameters())

    def cell_features(self, tokens: Tokens | PackedTokens) -> Tensor:
        """Features of the cell tower f_CD, float32, as `embed` of that tower makes them; gradients pass.

        A cell without tokens to pool gives a row of NaN.
        """
        if not self.learns("cell"):
            return self.cell_tower.embed(tokens, self.cell_layer, self.cell_pool)
        hook = layer_hook(self.cell_layer, self.cell_tower.n_layers)
        packed = self.cell_tower.packed(tokens)
        with parametrize.cached():  # a layer may look at its adapted weight more than once
            x_TD = self.cell_tower(packed, hooks=(hook,)).hooks[hook]
        return self.cell_tower.pooled(x_TD, packed, self.cell_pool)

    def text_features(self, tokens: TextTokens) -> Tensor:
        """Features of the text tower f_BD, float32; gradients pass unless the tower is frozen."""
        with torch.set_grad_enabled(self.learns("text")):
            with parametrize.cached():
                f_BD: Tensor = self.text_tower(tokens)
            return f_BD

    def project_cells(self, f_CD: Tensor, dim: int | None = None) -> Tensor:
        """Unit embeddings e_CU of cell features. dim: one of `config.dims`; the leading so many numbers."""
        return cut(self.cell_head(f_CD), self._known(dim))

    def project_texts(self, f_BD: Tensor, dim: int | None = None) -> Tensor:
        """Unit embeddings e_BU of text features; dim as in `project_cells`."""
        return cut(self.text_head(f_BD), self._known(dim))

    @torch.no_grad()
    def embed_cells(self, tokens: Tokens | PackedTokens, dim: int | None = None) -> Tensor:
        """Unit embeddings e_CU, float32. A cell without tokens gives a row of NaN."""
        return self.project_cells(self.cell_features(tokens), dim)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], dim: int | None = None) -> Tensor:
        """Unit embeddings e_BU, float32, in the order of `texts`; texts beyond the tower's length are cut.

        Texts of like length run together, so that little is padded.
        """
        if not texts:
            return torch.zeros(0, self._known(dim), device=self.log_scale.device)

        def features(batch: list[str]) -> Tensor:
            return self.text_features(self.text_tower.tokenise(batch))

        return in_batches(texts, features, lambda f_BD: self.project_texts(f_BD, dim))

    def _known(self, dim: int | None) -> int:
        if dim is not None and dim not in self.config.dims:
            raise ModelError(f"dim {dim}: this model was trained for {', '.join(map(str, self.config.dims))}")
        return self.config.width if dim is None else dim


def log_scale_of(config: JointConfig) -> float:
    """Where the logarithm of the scale starts before training."""
    return SIGLIP_LOG_SCALE if config.sigmoid else CLIP_LOG_SCALE


def in_batches(
    texts: Sequence[str], features: Callable[[list[str]], Tensor], project: Callable[[Tensor], Tensor]
) -> Tensor:
    """Embeddings e_BU of at least one text, in the order given. Texts of like length run together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = [order[start : start + TEXTS_AT_ONCE] for start in range(0, len(order), TEXTS_AT_ONCE)]
    e_BU = torch.cat([project(features([texts[i] for i in batch])) for batch in batches])
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.as_tensor(order)] = torch.arange(len(order))
    return e_BU[back.to(e_BU.device)]


def cut(h_BU: Tensor, dim: int) -> Tensor:
    """The leading `dim` numbers of each row, brought to length one."""
    return F.normalize(h_BU[:, :dim].float(), dim=1)
