"""Geneformer's training objective: name the gene at masked ranks.

Source: Geneformer's pretraining (BERT masking: 15 % of tokens, of which 80 % become <mask>, 10 % another
gene, 10 % stay). Legend: T packed tokens, M masked tokens, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.geneformer.model import GeneformerEncoder
from engine.models.objective import Loss
from engine.models.tokens import PackedTokens, Tokens

MASKED, REPLACED = 0.8, 0.1


class TrainingModule(nn.Module):
    """The encoder with its loss; a training loop calls `forward` alone (ZeRO-3 gathers weights there)."""

    def __init__(self, encoder: GeneformerEncoder, mask_probability: float = 0.15) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_probability = mask_probability

    def mask(self, tokens: Tokens, seed: int) -> dict[str, Tensor]:
        """A training batch: tokens with some genes masked; `targets_T` holds the gene there and -1 elsewhere.

        The same tokens and seed give the same batch. Special tokens are never chosen.
        """
        tokeniser, random = self.encoder.tokeniser, np.random.default_rng(seed)
        is_gene_T = tokeniser.token_classes[tokens.ids_T] == 0
        chosen_T = is_gene_T & (random.random(tokens.n_tokens) < self.mask_probability)
        kind_T = random.random(tokens.n_tokens)
        genes = np.flatnonzero(tokeniser.token_classes == 0)
        ids_T = np.where(chosen_T & (kind_T < MASKED), tokeniser.mask_id, tokens.ids_T)
        replaced_T = chosen_T & (kind_T >= MASKED) & (kind_T < MASKED + REPLACED)
        ids_T = np.where(replaced_T, random.choice(genes, tokens.n_tokens), ids_T)
        return {
            "ids_T": torch.as_tensor(ids_T.astype(np.int64)),
            "values_T": torch.as_tensor(tokens.values_T),
            "offsets": torch.as_tensor(tokens.offsets),
            "targets_T": torch.as_tensor(np.where(chosen_T, tokens.ids_T, -1).astype(np.int64)),
        }

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Loss of a batch from `mask`: mean cross entropy. Metrics: cross_entropy, accuracy."""
        tokens = PackedTokens.from_tensors(batch["ids_T"], batch["values_T"], batch["offsets"])
        x_TD = self.encoder(tokens).hooks["final"]
        chosen_T = batch["targets_T"] >= 0
        target_M = batch["targets_T"][chosen_T]
        logits_MV = self.encoder.gene_logits(x_TD[chosen_T]).float()
        n_masked = max(len(target_M), 1)  # a batch of tiny cells may have nothing masked: loss 0
        loss = F.cross_entropy(logits_MV, target_M, reduction="sum") / n_masked
        accuracy = (logits_MV.argmax(1) == target_M).float().sum() / n_masked
        return Loss(loss, {"cross_entropy": loss.detach(), "accuracy": accuracy})
