"""The Geneformer architecture (BERT with post-norm blocks) over packed tokens.

Source: Hugging Face BertForMaskedLM; tests/parity/test_geneformer.py holds it to its numbers.
Legend: T packed tokens, R kept rows of them (all, unless only some are wanted), D width,
F feed-forward width, N heads, H head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.encoder import Encoder, EncoderOutput, HookRecorder, Intervention, kept_rows
from engine.models.errors import ModelError
from engine.models.geneformer.config import GeneformerConfig
from engine.models.geneformer.embedding import Embeddings
from engine.models.geneformer.tokenise import GeneformerTokeniser
from engine.models.layers.activation import activation
from engine.models.layers.attention import attend
from engine.models.layers.precision import LayerNorm, Linear
from engine.models.layout import CellLayout, KeptRows
from engine.models.tokens import PackedTokens, Tokens


class Attention(nn.Module):
    """Self-attention within each cell, up to and including its output projection."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__()
        self.n_heads, self.head_width = config.n_heads, config.head_width
        self.weight_dropout = config.attention_dropout
        self.query = Linear(config.d_model, config.d_model)
        self.key = Linear(config.d_model, config.d_model)
        self.value = Linear(config.d_model, config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(self, x_TD: Tensor, layout: CellLayout, kept: KeptRows | None) -> Tensor:
        shape = (-1, self.n_heads, self.head_width)
        x_RD = x_TD if kept is None else x_TD[kept.rows_T]
        q_RNH, k_TNH, v_TNH = self.query(x_RD), self.key(x_TD), self.value(x_TD)
        dropout = self.weight_dropout if self.training else 0.0
        o_RNH = attend(
            q_RNH.view(shape), k_TNH.view(shape), v_TNH.view(shape), layout, kept=kept, dropout=dropout
        )
        a_RD: Tensor = self.out(o_RNH.flatten(1))
        return a_RD


class FeedForward(nn.Module):
    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__()
        self.activation = activation(config.activation)
        self.up = Linear(config.d_model, config.d_ffn)
        self.down = Linear(config.d_ffn, config.d_model)

    def forward(self, x_TD: Tensor) -> Tensor:
        m_TD: Tensor = self.down(self.activation(self.up(x_TD)))
        return m_TD


class Block(nn.Module):
    """One post-norm block: both residual sums are normalised, so resid_post is a normalised state."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__()
        self.attention, self.ffn = Attention(config), FeedForward(config)
        self.norm1 = LayerNorm(config.d_model, config.norm_eps)
        self.norm2 = LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_TD: Tensor, layout: CellLayout, recorder: HookRecorder, index: int) -> Tensor:
        kept = recorder.kept_in(index)
        x_TD = recorder.offer(f"resid_pre_{index}", x_TD)
        a_TD = self.attention(x_TD, layout, kept)
        if kept is not None:
            x_TD = recorder.narrow(x_TD)
        a_TD = recorder.offer(f"attn_out_{index}", a_TD)
        x_TD = self.norm1(x_TD + self.dropout(a_TD))
        m_TD = self.ffn(x_TD)
        m_TD = recorder.offer(f"mlp_out_{index}", m_TD)
        x_TD = self.norm2(x_TD + self.dropout(m_TD))
        return recorder.offer(f"resid_post_{index}", x_TD)


class MaskedGeneHead(nn.Module):
    """State of a token -> logits over the vocabulary; the output table is the input's."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__()
        self.activation = activation(config.activation)
        self.transform = Linear(config.d_model, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x_TD: Tensor, table_VD: Tensor) -> Tensor:
        h_TD = self.norm(self.activation(self.transform(x_TD)))
        # In the table's dtype, not the linear layers': the table stays float32 under precision bf16.
        return F.linear(h_TD.to(table_VD.dtype), table_VD, self.bias)


class GeneformerEncoder(Encoder):
    """Geneformer V1 or V2. Default embedding: mean over genes of the second-to-last layer."""

    def __init__(
        self, config: GeneformerConfig, tokeniser: GeneformerTokeniser, *, with_head: bool = True
    ) -> None:
        super().__init__()
        self.config: GeneformerConfig = config
        self.tokeniser: GeneformerTokeniser = tokeniser
        self.d_model, self.n_layers, self.max_tokens = config.d_model, config.n_layers, config.max_tokens
        self.default_layer = max(config.n_layers - 2, 0)
        self.default_pool, self.unit_embeddings = "mean", False
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.head = MaskedGeneHead(config) if with_head else None

    def forward(
        self,
        tokens: Tokens | PackedTokens,
        hooks: Sequence[str] = ("final",),
        predictions: bool = False,
        *,
        rows_T: Tensor | None = None,
        interventions: Mapping[str, Intervention] | None = None,
    ) -> EncoderOutput:
        """States at `hooks`, and with predictions `logits` (y_TV, before softmax)."""
        tokens = self.packed(tokens)
        if tokens.layout.longest > self.max_tokens:
            raise ModelError(
                f"a cell has {tokens.layout.longest} tokens, but this model knows {self.max_tokens} ranks; "
                f"tokenise with max_tokens={self.max_tokens}"
            )
        wanted = (*hooks, "final") if predictions else tuple(hooks)
        kept = kept_rows(rows_T, tokens.layout, predictions=predictions)
        recorder = HookRecorder(wanted, self.n_layers, kept, tokens, interventions)
        x_TD = self.embeddings(tokens.ids_T, tokens.layout.position_T)
        x_TD = recorder.offer("embed", x_TD)
        for index, block in enumerate(self.blocks[: recorder.n_blocks]):
            x_TD = block(x_TD, tokens.layout, recorder, index)
        # A hook may ask for the state before the first block that does not run, or after the last one.
        if recorder.n_blocks < self.n_layers:
            recorder.offer(f"resid_pre_{recorder.n_blocks}", x_TD)
        else:
            x_TD = recorder.offer("final", x_TD)
        heads = {"logits": self.gene_logits(x_TD)} if predictions else {}
        return EncoderOutput({name: recorder.states[name] for name in hooks}, heads)

    def gene_logits(self, x_TD: Tensor) -> Tensor:
        """Logits over the vocabulary for final states (any selection of them): y_TV."""
        if self.head is None:
            raise ModelError(
                "this checkpoint holds no masked-gene head (cls.predictions.*), so it predicts nothing"
            )
        y_TV: Tensor = self.head(x_TD, self.embeddings.words.weight)
        return y_TV
