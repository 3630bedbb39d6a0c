"""What a Geneformer token is made of: its gene and its rank in the cell.

Source: Hugging Face BertEmbeddings. Legend: T packed tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models.geneformer.config import GeneformerConfig
from engine.models.layers.embedding import Embedding
from engine.models.layers.precision import LayerNorm


class Embeddings(nn.Module):
    """Gene and rank -> normalised sum of their embeddings."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__()
        self.words = Embedding(config.vocab_size, config.d_model)
        self.positions = Embedding(config.max_tokens, config.d_model)
        # All tokens are of type 0; the table is kept so that checkpoints keep their meaning.
        self.types = Embedding(config.type_vocab_size, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, ids_T: Tensor, position_T: Tensor) -> Tensor:
        type_1D = self.types(torch.zeros(1, dtype=torch.long, device=ids_T.device))
        x_TD: Tensor = self.dropout(self.norm(self.words(ids_T) + type_1D + self.positions(position_T)))
        return x_TD
