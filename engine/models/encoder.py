"""What every cell encoder offers, whatever its architecture.

Legend: T packed tokens, D width, C cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.layers.pooling import first_rows, per_cell, pool_mean
from engine.models.layout import CellLayout, KeptRows
from engine.models.tokens import PackedTokens, Tokeniser, Tokens

BLOCK_HOOKS = ("resid_pre", "attn_out", "mlp_out", "resid_post")

# What replaces the state at a hook: (x_TD of all packed rows, their tokens) -> x_TD of the same shape and
# dtype. It must leave its argument as it is. `engine.models.interventions` makes those of autoencoders.
Intervention = Callable[[Tensor, PackedTokens], Tensor]


@dataclass
class EncoderOutput:
    """hooks: the asked states by hook name, x_TD each. predictions: the heads' outputs by name, if asked."""

    hooks: dict[str, Tensor]
    predictions: dict[str, Tensor] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    """A cell encoder. Layers are counted like the hooks: layer i is the output of block i.

    max_tokens: tokens of a cell that are read unless told otherwise.
    default_layer, default_pool: what the model's authors use as cell embedding.
    unit_embeddings: whether they scale embeddings to length one.
    """

    config: Any
    tokeniser: Tokeniser
    d_model: int
    n_layers: int
    max_tokens: int
    default_layer: int
    default_pool: str
    unit_embeddings: bool
    _gene_V: Tensor | None = None  # which ids are genes, on the device where that was last asked

    @abstractmethod
    def forward(
        self,
        tokens: Tokens | PackedTokens,
        hooks: Sequence[str] = ("final",),
        predictions: bool = False,
        *,
        rows_T: Tensor | None = None,
        interventions: Mapping[str, Intervention] | None = None,
    ) -> EncoderOutput:
        """The states at `hooks`; blocks beyond the last one needed do not run. predictions: the heads too.

        rows_T (int64, ascending, best on the host): packed rows whose states are wanted, x_RD in that order.
            In the last block that runs the others are only context: they get no query, no output projection
            and no feed-forward. Predictions are of all tokens and go without it.
        interventions: by hook, what replaces the state there, before anything that follows sees it and before
            it is recorded. Gradients pass through. They are given all rows, so that the last block computes
            all of them when one of its own states is replaced behind its attention.
        """

    @property
    def hook_names(self) -> tuple[str, ...]:
        return encoder_hook_names(self.n_layers)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def packed(self, tokens: Tokens | PackedTokens) -> PackedTokens:
        """Tokens on this model's device; packed ones are taken as they are."""
        return tokens.to_torch(self.device) if isinstance(tokens, Tokens) else tokens

    @torch.no_grad()
    def embed(
        self,
        tokens: Tokens | PackedTokens,
        layer: int | None = None,
        pool: str | None = None,
        *,
        interventions: Mapping[str, Intervention] | None = None,
        drug_C: Tensor | None = None,
    ) -> Tensor:
        """Cell embeddings, float32 e_CD, in the model's own convention unless layer or pool say otherwise.

        layer: output of that block (negative counts from the end; the last one is read after the closing
            norm). pool: "cls" (the cell token) or "mean" (over gene tokens, special tokens left out).
        interventions: as in the forward pass. drug_C: of models with a drug token.
        A cell without tokens to pool gives a row of NaN.
        """
        layer = self.default_layer if layer is None else layer
        pool = pool or self.default_pool
        self.require_pool(pool)
        hook = layer_hook(layer, self.n_layers)
        tokens = self.packed(tokens)
        rows_T = first_rows(tokens.layout) if pool == "cls" else None
        drugs = {} if drug_C is None else {"drug_C": drug_C}
        x_RD = self(tokens, hooks=(hook,), rows_T=rows_T, interventions=interventions, **drugs).hooks[hook]
        return (
            self._scaled(per_cell(x_RD, tokens.layout)) if pool == "cls" else self.pooled(x_RD, tokens, pool)
        )

    def pooled(self, x_TD: Tensor, tokens: PackedTokens, pool: str) -> Tensor:
        """Cell embeddings e_CD, as `embed` makes them, from the states of all tokens; gradients pass."""
        if pool == "cls":
            rows_T = first_rows(tokens.layout).to(x_TD.device)
            return self._scaled(per_cell(x_TD[rows_T], tokens.layout))
        return self._scaled(pool_mean(x_TD, tokens.layout, self.is_gene(tokens.ids_T)))

    def _scaled(self, e_CD: Tensor) -> Tensor:
        return F.normalize(e_CD, dim=1) if self.unit_embeddings else e_CD

    def is_gene(self, ids_T: Tensor) -> Tensor:
        """Whether each token is a gene, bool, on the device of `ids_T`."""
        if self._gene_V is None or self._gene_V.device != ids_T.device:
            self._gene_V = torch.as_tensor(self.tokeniser.token_classes == 0, device=ids_T.device)
        return self._gene_V[ids_T]

    def require_pool(self, pool: str) -> None:
        """ModelError unless `pool` can be computed with this model."""
        if pool not in ("cls", "mean"):
            raise ModelError(f"pool {pool!r} is not known; cell embeddings are pooled by cls or mean")
        if pool == "cls" and not (self.tokeniser.token_classes == 1).any():
            raise ModelError("pool cls: this model's vocabulary has no <cls> token; use mean")


def encoder_hook_names(n_layers: int) -> tuple[str, ...]:
    """All hook names of an encoder, in the order in which the forward pass reaches them."""
    blocks = [f"{name}_{i}" for i in range(n_layers) for name in BLOCK_HOOKS]
    return ("embed", *blocks, "final")


class HookRecorder:
    """Keeps the asked states as the forward pass offers them and knows how many blocks must run for them.

    kept: the rows whose states are wanted, None for all. tokens, interventions: what replaces states, and
    what it is told of the rows.
    """

    def __init__(
        self,
        wanted: Sequence[str],
        n_layers: int,
        kept: KeptRows | None = None,
        tokens: PackedTokens | None = None,
        interventions: Mapping[str, Intervention] | None = None,
    ) -> None:
        self.interventions = dict(interventions or {})
        unknown = sorted({*wanted, *self.interventions} - set(encoder_hook_names(n_layers)))
        if unknown:
            raise ModelError(
                f"hook {', '.join(unknown)} does not exist; this model has embed, final and "
                f"{', '.join(name + '_i' for name in BLOCK_HOOKS)} with i from 0 to {n_layers - 1}"
            )
        self.wanted = frozenset(wanted)
        self.n_blocks = max((_blocks_needed(name, n_layers) for name in wanted), default=0)
        self.kept = kept
        self.tokens = tokens
        self.narrowed = False
        self.states: dict[str, Tensor] = {}

    def offer(self, name: str, x_TD: Tensor) -> Tensor:
        """Records the state if it was asked for. Returns the one to go on with, replaced if it is to be."""
        if name in self.interventions:
            x_TD = self._replaced(name, x_TD)
        if name in self.wanted:
            self.states[name] = x_TD if self.kept is None or self.narrowed else x_TD[self.kept.rows_T]
        return x_TD

    def _replaced(self, name: str, x_TD: Tensor) -> Tensor:
        if self.tokens is None:
            raise ModelError(f"an intervention at {name} needs the tokens of the states")
        y_TD = self.interventions[name](x_TD, self.tokens)
        if y_TD.shape != x_TD.shape or y_TD.dtype != x_TD.dtype:
            raise ModelError(
                f"the intervention at {name} returned {y_TD.dtype} {tuple(y_TD.shape)}; expected "
                f"{x_TD.dtype} {tuple(x_TD.shape)}, a state for each that it was given"
            )
        return y_TD

    def kept_in(self, block: int) -> KeptRows | None:
        """The rows that `block` must compute, None for all: only behind the last one may rows be missing.

        And there only if nothing is replaced: an intervention may look at all rows.
        """
        behind = {f"attn_out_{block}", f"mlp_out_{block}", f"resid_post_{block}", f"resid_pre_{block + 1}"}
        if block != self.n_blocks - 1 or not self.interventions.keys().isdisjoint(behind | {"final"}):
            return None
        return self.kept

    def narrow(self, x_TD: Tensor) -> Tensor:
        """The kept rows of a state. What is offered from now on must hold no others."""
        if self.kept is None or self.narrowed:
            return x_TD
        self.narrowed = True
        return x_TD[self.kept.rows_T]


def kept_rows(rows_T: Tensor | None, layout: CellLayout, *, predictions: bool) -> KeptRows | None:
    """What `rows_T` of a forward pass means; None when all rows are wanted."""
    if rows_T is not None and predictions:
        raise ModelError("rows_T was given, but predictions are of all tokens; ask for one of them")
    kept = None if rows_T is None else KeptRows(rows_T, layout)
    return None if kept is None or len(kept.rows_T) == layout.n_tokens else kept


def _blocks_needed(name: str, n_layers: int) -> int:
    if name == "embed":
        return 0
    if name == "final":
        return n_layers
    kind, block = name.rsplit("_", 1)
    return int(block) + (kind != "resid_pre")


def layer_hook(layer: int, n_layers: int) -> str:
    """Hook that holds the output of `layer`; negative layers count from the end, the last one is `final`."""
    if not -n_layers <= layer < n_layers:
        raise ModelError(f"layer {layer} does not exist; this model has layers 0 to {n_layers - 1}")
    block = layer % n_layers
    return "final" if block == n_layers - 1 else f"resid_post_{block}"
