"""What features are held responsible for: a number per cell that can be differentiated.

    loss        the encoder's own training loss on genes whose expression is hidden from it
    gene        what it predicts of one gene that is hidden from it
    direction   the cell embedding along a direction

Which genes are hidden depends on (seed, cell) alone, never on the batch. Sources: the models' objectives
(`engine.models.{tahoe,geneformer}.objective`).

Legend: T packed tokens, M hidden ones, C cells, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.interpret.steering.grid import repeated
from engine.interpret.steering.predictions import shown
from engine.models import Encoder, ModelError, PackedTokens, Tokens
from engine.models.encoder import Intervention, layer_hook
from engine.models.geneformer.model import GeneformerEncoder
from engine.models.tahoe.model import TahoeEncoder

# Geneformer hides this share of its genes in training; Tahoe-x1 says its own in its configuration.
GENEFORMER_HIDDEN = 0.15
Head = Literal["expression", "mvc", "logit"]


@dataclass(frozen=True)
class Batch:
    """Cells as the metric shows them to the encoder. hidden_T (bool): tokens whose expression (Tahoe-x1) or
    gene (Geneformer) is not shown; value_T, id_T: what is true of every token."""

    tokens: PackedTokens
    hidden_T: Tensor
    value_T: Tensor
    id_T: Tensor

    def repeated(self, n_versions: int) -> tuple[Batch, Tensor]:
        """Every cell several times, and where version v of token t lies (`steering.grid.repeated`)."""
        many, rows_VT = repeated(self.tokens, n_versions)

        def spread(x_T: Tensor) -> Tensor:
            x = x_T.new_empty(rows_VT.numel())
            x[rows_VT] = x_T
            return x

        hidden, value, ids = (spread(x_T) for x_T in (self.hidden_T, self.value_T, self.id_T))
        return Batch(many, hidden, value, ids), rows_VT


@dataclass(frozen=True)
class Metric:
    """One of the metrics of the module docstring. Small and picklable.

    gene: token id, for "gene"; head: which prediction of it. direction_D, layer, pool: for "direction".
    """

    kind: Literal["loss", "gene", "direction"]
    seed: int = 0
    gene: int = -1
    head: Head = "expression"
    direction_D: npt.NDArray[np.float32] | None = None
    layer: int = -1
    pool: str = "cls"

    def require(self, encoder: Encoder) -> None:
        """ModelError unless this encoder has what the metric reads."""
        if self.kind == "direction":
            return encoder.require_pool(self.pool)
        offered = heads(encoder)
        if not offered:
            raise ModelError("this encoder has no head, so it predicts nothing to attribute")
        if self.kind == "gene" and self.head not in offered:
            raise ModelError(f"head {self.head!r}: this encoder predicts {', '.join(offered)}")
        return None

    def batch(self, encoder: Encoder, tokens: Tokens, cells: npt.NDArray[np.int64]) -> Batch:
        """tokens of some cells, with the cells' numbers in their store."""
        hidden_T = torch.from_numpy(self._hidden(encoder, tokens, cells)).to(encoder.device)
        packed = tokens.to_torch(encoder.device)
        return Batch(shown(encoder, packed, hidden_T), hidden_T, packed.values_T, packed.ids_T)

    def values(
        self, encoder: Encoder, batch: Batch, interventions: Mapping[str, Intervention]
    ) -> tuple[Tensor, Tensor]:
        """The metric of every cell, float32 m_C, and whether it has one (a cell may lack the gene), bool."""
        if self.kind == "direction":
            return self._along(encoder, batch.tokens, interventions)
        rows_M = batch.hidden_T.nonzero().squeeze(1)
        cell_M, n_cells = batch.tokens.layout.cell_T[rows_M], batch.tokens.n_cells
        value_M = self._of_hidden(encoder, batch, rows_M, interventions)
        count_C = value_M.new_zeros(n_cells).index_add(0, cell_M, torch.ones_like(value_M))
        sum_C = value_M.new_zeros(n_cells).index_add(0, cell_M, value_M)
        return sum_C / count_C.clamp(min=1), count_C > 0

    def _along(
        self, encoder: Encoder, tokens: PackedTokens, interventions: Mapping[str, Intervention]
    ) -> tuple[Tensor, Tensor]:
        if self.direction_D is None:
            raise ModelError("the metric direction needs a direction")
        hook = layer_hook(self.layer, encoder.n_layers)
        states = encoder(tokens, (hook,), interventions=interventions).hooks
        e_CD = encoder.pooled(states[hook], tokens, self.pool)
        has_C = ~e_CD.isnan().any(dim=1)
        direction_D = torch.from_numpy(self.direction_D).to(e_CD)
        return torch.where(has_C, e_CD @ direction_D, 0), has_C

    def _of_hidden(
        self, encoder: Encoder, batch: Batch, rows_M: Tensor, interventions: Mapping[str, Intervention]
    ) -> Tensor:
        if isinstance(encoder, TahoeEncoder):
            predicted = encoder(
                batch.tokens,
                (),
                predictions=True,
                generative_T=batch.hidden_T,
                interventions=interventions,
            ).predictions
            if self.kind == "gene":
                gene_T: Tensor = predicted[self.head]
                return gene_T[rows_M]
            errors = [(y_T[rows_M] - batch.value_T[rows_M]).square() for y_T in predicted.values()]
            return torch.stack(errors).mean(dim=0)
        if not isinstance(encoder, GeneformerEncoder):
            raise ModelError(f"the metric {self.kind} of a {type(encoder).__name__} is not known")
        x_TD = encoder(batch.tokens, ("final",), interventions=interventions).hooks["final"]
        logits_MV, id_M = encoder.gene_logits(x_TD[rows_M]).float(), batch.id_T[rows_M]
        if self.kind == "gene":
            return logits_MV.gather(1, id_M[:, None]).squeeze(1)
        return F.cross_entropy(logits_MV, id_M, reduction="none")

    def _hidden(
        self, encoder: Encoder, tokens: Tokens, cells: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        if self.kind == "direction":
            return np.zeros(tokens.n_tokens, bool)
        if self.kind == "gene":
            return np.asarray(tokens.ids_T == self.gene)
        share, first = _training_mask(encoder)
        hidden_T: npt.NDArray[np.bool_] = encoder.tokeniser.token_classes[tokens.ids_T] == 0
        hidden_T &= tokens.position_T >= first
        for cell, start, stop in zip(cells, tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            maskable = np.flatnonzero(hidden_T[start:stop])
            # At least one, where there is any: a cell without would have no loss.
            n_hidden = int(np.ceil(share * len(maskable)))
            draws = np.random.default_rng([self.seed, int(cell)]).permutation(maskable)
            hidden_T[start:stop] = False
            hidden_T[start + draws[:n_hidden]] = True
        return hidden_T


def _training_mask(encoder: Encoder) -> tuple[float, int]:
    """Share of a cell's genes that is hidden, and the first position that may be."""
    if isinstance(encoder, TahoeEncoder):
        collator = encoder.config.collator
        return collator.mlm_probability, collator.keep_first_n_tokens
    return GENEFORMER_HIDDEN, 0


def heads(encoder: Encoder) -> tuple[Head, ...]:
    """What an encoder predicts of a gene that is hidden from it."""
    if isinstance(encoder, TahoeEncoder):
        return ("expression", "mvc") if encoder.cell_head is not None else ("expression",)
    return ("logit",) if isinstance(encoder, GeneformerEncoder) and encoder.head is not None else ()
