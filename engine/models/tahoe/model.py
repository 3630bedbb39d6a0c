"""The Tahoe-x1 architecture over packed tokens.

Source: tahoe_x1 1.0.0 (forward pass in eval mode); tests/parity/test_tahoe.py compares the numbers.
Legend: T packed tokens, R kept rows of them (all, unless only some are wanted), D width,
F feed-forward width, N heads, H head width, C cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.models.encoder import Encoder, EncoderOutput, HookRecorder, Intervention, kept_rows
from engine.models.errors import ModelError
from engine.models.layers.activation import activation
from engine.models.layers.attention import attend
from engine.models.layers.embedding import Embedding
from engine.models.layers.linear import linear
from engine.models.layers.precision import LayerNorm, Linear
from engine.models.layout import CellLayout, KeptRows
from engine.models.tahoe.config import TahoeConfig
from engine.models.tahoe.embedding import DrugEmbedding, GeneEmbedding, ValueEmbedding
from engine.models.tahoe.tokenise import TahoeTokeniser
from engine.models.tokens import PackedTokens, Tokens


class Attention(nn.Module):
    """Self-attention within each cell. The rows of qkv's weight are [Q | K | V], each head by head."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.n_heads, self.head_width = config.n_heads, config.head_width
        self.qkv = Linear(config.d_model, 3 * config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(
        self, x_TD: Tensor, layout: CellLayout, kept: KeptRows | None, isolated_T: Tensor | None
    ) -> Tensor:
        if kept is None:
            q_RNH, k_TNH, v_TNH = self._heads(self.qkv(x_TD), 3)
        else:
            width = self.n_heads * self.head_width
            (q_RNH,) = self._heads(self._part(x_TD[kept.rows_T], slice(width)), 1)
            k_TNH, v_TNH = self._heads(self._part(x_TD, slice(width, None)), 2)
        o_RNH = attend(q_RNH, k_TNH, v_TNH, layout, kept=kept, isolated_T=isolated_T)
        a_RD: Tensor = self.out(o_RNH.flatten(1))
        return a_RD

    def _part(self, x_TD: Tensor, outputs: slice) -> Tensor:
        weight = self.qkv.weight[outputs]
        return linear(x_TD.to(weight.dtype), weight, self.qkv.bias[outputs])

    def _heads(self, x: Tensor, n_parts: int) -> tuple[Tensor, ...]:
        return x.view(-1, n_parts, self.n_heads, self.head_width).unbind(1)


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) with GLU."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.activation = activation(config.transformer_activation)
        self.up = Linear(config.d_model, config.d_ffn)
        self.gate = Linear(config.d_model, config.d_ffn) if config.use_glu else None
        self.down = Linear(config.d_ffn, config.d_model)

    def forward(self, x_TD: Tensor) -> Tensor:
        h_TF = self.up(x_TD)
        h_TF = self.activation(h_TF) if self.gate is None else self.activation(self.gate(x_TD)) * h_TF
        m_TD: Tensor = self.down(h_TF)
        return m_TD


class Block(nn.Module):
    """One transformer block, with its norms before (pre) or after (post) the residual additions."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm_scheme == "pre"
        self.attention, self.ffn = Attention(config), FeedForward(config)
        self.norm1 = LayerNorm(config.d_model, config.norm_eps)
        self.norm2 = LayerNorm(config.d_model, config.norm_eps)

    def forward(
        self, x_TD: Tensor, layout: CellLayout, isolated_T: Tensor | None, recorder: HookRecorder, index: int
    ) -> Tensor:
        kept = recorder.kept_in(index)
        x_TD = recorder.offer(f"resid_pre_{index}", x_TD)
        a_TD = self.attention(self.norm1(x_TD) if self.pre_norm else x_TD, layout, kept, isolated_T)
        if kept is not None:
            x_TD = recorder.narrow(x_TD)
        a_TD = recorder.offer(f"attn_out_{index}", a_TD)
        x_TD = x_TD + a_TD if self.pre_norm else self.norm1(x_TD + a_TD)
        m_TD = self.ffn(self.norm2(x_TD) if self.pre_norm else x_TD)
        m_TD = recorder.offer(f"mlp_out_{index}", m_TD)
        x_TD = x_TD + m_TD if self.pre_norm else self.norm2(x_TD + m_TD)
        return recorder.offer(f"resid_post_{index}", x_TD)


class ExpressionHead(nn.Module):
    """State of a token -> its predicted bin."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.activation = activation(config.decoder_activation)
        self.hidden = nn.ModuleList(
            Linear(config.d_model, config.d_model) for _ in range(config.decoder_layers)
        )
        self.out = Linear(config.d_model, 1)

    def forward(self, x_TD: Tensor) -> Tensor:
        for layer in self.hidden:
            x_TD = self.activation(layer(x_TD))
        y_T: Tensor = self.out(x_TD).squeeze(1).float()
        return y_T


class CellHead(nn.Module):
    """State of a cell and embedding of a gene -> the gene's predicted bin there (`mvc` in the original)."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.activation = activation(config.mvc_activation)
        self.scale = 1 / math.sqrt(config.d_model) if config.mvc_scaled else 1.0
        self.query = Linear(config.d_model, config.d_model)
        self.project = Linear(config.d_model, config.d_model, bias=False)

    def forward(self, g_TD: Tensor, cell_CD: Tensor, cell_T: Tensor) -> Tensor:
        query_TD: Tensor = self.project(self.activation(self.query(g_TD))).float()
        return (query_TD * cell_CD.float()[cell_T]).sum(1) * self.scale


# The original's prediction script reads this many tokens of a cell, whatever the model was trained with.
INFERENCE_TOKENS = 2048


class TahoeEncoder(Encoder):
    """Tahoe-x1. Default embedding: the final state of `<cls>`, scaled to length one."""

    def __init__(self, config: TahoeConfig, tokeniser: TahoeTokeniser) -> None:
        super().__init__()
        self.config: TahoeConfig = config
        self.tokeniser: TahoeTokeniser = tokeniser
        self.d_model, self.n_layers = config.d_model, config.n_layers
        self.max_tokens = max(tokeniser.max_tokens, INFERENCE_TOKENS)
        self.default_layer, self.default_pool, self.unit_embeddings = config.n_layers - 1, "cls", True
        self.genes = GeneEmbedding(config)
        self.values = ValueEmbedding(config)
        self.flag = Embedding(2, config.d_model)
        self.drugs = DrugEmbedding(config, config.chemical) if config.chemical else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        pre_norm = config.norm_scheme == "pre"
        self.final_norm = LayerNorm(config.d_model, config.norm_eps) if pre_norm else nn.Identity()
        self.expression_head = ExpressionHead(config)
        self.cell_head = CellHead(config) if config.mvc else None

    def forward(
        self,
        tokens: Tokens | PackedTokens,
        hooks: Sequence[str] = ("final",),
        predictions: bool = False,
        *,
        rows_T: Tensor | None = None,
        interventions: Mapping[str, Intervention] | None = None,
        generative_T: Tensor | None = None,
        drug_C: Tensor | None = None,
    ) -> EncoderOutput:
        """States at `hooks`, and with predictions `expression` and `mvc` (y_T each, in bins).

        generative_T (bool): tokens whose value is to be predicted: it is not shown to the model.
        drug_C (int64): row of the drug table for each cell, when the model was loaded with its drug token
            (default: row 0, the unknown drug).
        """
        tokens = self.packed(tokens)
        wanted = (*hooks, "final") if predictions else tuple(hooks)
        kept = kept_rows(rows_T, tokens.layout, predictions=predictions)
        recorder = HookRecorder(wanted, self.n_layers, kept, tokens, interventions)
        g_TD = self.genes(tokens.ids_T)
        x_TD = self._with_values(g_TD, tokens, generative_T, drug_C)
        x_TD = recorder.offer("embed", x_TD)
        isolated_T = generative_T if self.config.isolate_generative else None
        for index, block in enumerate(self.blocks[: recorder.n_blocks]):
            x_TD = block(x_TD, tokens.layout, isolated_T, recorder, index)
        if recorder.n_blocks < self.n_layers or "final" not in wanted:
            # A hook may ask for the state before the first block that does not run.
            recorder.offer(f"resid_pre_{recorder.n_blocks}", x_TD)
            return EncoderOutput(recorder.states)
        x_TD = self.final_norm(x_TD)  # of the kept rows alone, as the last block left them
        x_TD = recorder.offer("final", x_TD)
        heads = self._predict(g_TD, x_TD, tokens.layout) if predictions else {}
        return EncoderOutput({name: recorder.states[name] for name in hooks}, heads)

    def _with_values(
        self, g_TD: Tensor, tokens: PackedTokens, generative_T: Tensor | None, drug_C: Tensor | None
    ) -> Tensor:
        v_TD: Tensor = self.values(tokens.values_T, whole=tokens.whole_values)
        if generative_T is not None:
            flag_1D = self.flag(torch.ones(1, dtype=torch.long, device=g_TD.device))
            v_TD = torch.where(generative_T[:, None], flag_1D.to(v_TD.dtype), v_TD)
        x_TD: Tensor = g_TD + v_TD
        if self.drugs is None:
            if drug_C is not None:
                raise ModelError("drug ids were given, but the model was loaded without its drug token")
            return x_TD
        if drug_C is None:
            drug_C = torch.zeros(tokens.n_cells, dtype=torch.long, device=g_TD.device)
        at_C = tokens.layout.offsets_C1[:-1].long() + 1
        return x_TD.index_copy(0, at_C, self.drugs(drug_C).to(x_TD.dtype))

    def _predict(self, g_TD: Tensor, x_TD: Tensor, layout: CellLayout) -> dict[str, Tensor]:
        heads = {"expression": self.expression_head(x_TD)}
        if self.cell_head is not None:
            cell_CD = x_TD[layout.offsets_C1[:-1].long()]
            heads["mvc"] = self.cell_head(g_TD, cell_CD, layout.cell_T)
        return heads
