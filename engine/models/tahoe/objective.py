"""Tahoe-x1's training objective: predict the binned counts of half of each cell's genes.

Source: tahoe_x1 1.0.0. Loss = (MSE of the expression head + MSE of the cell head) / 2 over the masked tokens,
in units of bins squared. Legend: T packed tokens, C cells.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from engine.models.objective import Loss
from engine.models.tahoe.model import TahoeEncoder
from engine.models.tokens import PackedTokens, Tokens


class TrainingModule(nn.Module):
    """The encoder with its loss; a training loop calls `forward` alone (ZeRO-3 gathers weights there)."""

    def __init__(self, encoder: TahoeEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def mask(self, tokens: Tokens, seed: int) -> dict[str, Tensor]:
        """A training batch: mlm_probability of each cell's genes become generative tokens.

        Their value is the collator's mask_value (the model does not look at it) and `targets_T` holds what it
        was. The same tokens and seed give the same batch. Special tokens and the first keep_first_n_tokens,
        whose values are not bins, are never masked; a cell with a gene to mask has at least one masked.
        """
        encoder = self.encoder
        collator, classes_V = encoder.config.collator, encoder.tokeniser.token_classes
        maskable_T = (classes_V[tokens.ids_T] == 0) & (tokens.position_T >= collator.keep_first_n_tokens)
        draw_T = np.random.default_rng(seed).random(tokens.n_tokens)
        draw_T[~maskable_T] = 2.0
        order = np.lexsort((draw_T, tokens.cell_T))
        n_maskable_C = np.bincount(tokens.cell_T, weights=maskable_T, minlength=tokens.n_cells)
        n_masked_C = np.ceil(n_maskable_C * collator.mlm_probability)
        generative_T = np.zeros(tokens.n_tokens, bool)
        generative_T[order] = tokens.position_T < np.repeat(n_masked_C, tokens.lengths)
        values_T = np.where(generative_T, np.float32(collator.mask_value), tokens.values_T)
        return {
            "ids_T": torch.as_tensor(tokens.ids_T.astype(np.int64)),
            "values_T": torch.as_tensor(values_T),
            "offsets": torch.as_tensor(tokens.offsets),
            "generative_T": torch.as_tensor(generative_T),
            "targets_T": torch.as_tensor(tokens.values_T),
        }

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Loss of a batch from `mask`. Metrics: mse, mvc_mse, baseline_mse (of always saying the mean)."""
        tokens = PackedTokens.from_tensors(batch["ids_T"], batch["values_T"], batch["offsets"])
        generative_T, targets_T = batch["generative_T"], batch["targets_T"]
        out = self.encoder(
            tokens, hooks=(), predictions=True, generative_T=generative_T, drug_C=batch.get("drug_C")
        )
        # A weighted mean instead of a selection: no data-dependent shapes, and no masked token gives 0.
        weight_T = generative_T.float()
        n_masked = weight_T.sum().clamp(min=1)
        errors = {
            name: ((predicted_T - targets_T) ** 2 * weight_T).sum() / n_masked
            for name, predicted_T in out.predictions.items()
        }
        loss = torch.stack(list(errors.values())).mean()
        mean = (targets_T * weight_T).sum() / n_masked
        metrics = {
            "mse": errors["expression"].detach(),
            "baseline_mse": ((targets_T - mean) ** 2 * weight_T).sum() / n_masked,
        }
        if "mvc" in errors:
            metrics["mvc_mse"] = errors["mvc"].detach()
        return Loss(loss, metrics)
