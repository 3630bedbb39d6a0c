"""The Tahoe-x1 architecture over packed tokens.

Source: tahoe_x1 1.0.0 (forward pass in eval mode); tests/parity/test_tahoe.py compares the numbers.
Legend: T packed tokens, D width, F feed-forward width, N heads, H head width, C cells, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.models.encoder import Encoder, EncoderOutput, HookRecorder
from engine.models.errors import ModelError
from engine.models.layers.activation import activation
from engine.models.layers.attention import attend
from engine.models.layers.precision import LayerNorm, Linear
from engine.models.tahoe.config import ChemicalConfig, TahoeConfig
from engine.models.tahoe.tokenise import TahoeTokeniser
from engine.models.tokens import CellLayout, PackedTokens, Tokens


class GeneEmbedding(nn.Module):
    """Vocabulary id -> normalised embedding g_TD."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps) if config.gene_use_norm else nn.Identity()

    def forward(self, ids_T: Tensor) -> Tensor:
        g_TD: Tensor = self.norm(self.table(ids_T))
        return g_TD


class ValueEmbedding(nn.Module):
    """Binned count -> v_TD. Values are clamped from above only: -2 and -1 pass as they are."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.maximum = config.value_max
        self.activation = activation(config.value_activation)
        self.linear1 = Linear(1, config.d_model)
        self.linear2 = Linear(config.d_model, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps) if config.value_use_norm else nn.Identity()
        self.dropout = nn.Dropout(config.value_dropout)

    def forward(self, values_T: Tensor) -> Tensor:
        x_T1 = values_T.clamp(max=self.maximum)[:, None]
        v_TD: Tensor = self.dropout(self.norm(self.linear2(self.activation(self.linear1(x_T1)))))
        return v_TD


class DrugEmbedding(nn.Module):
    """Drug id -> token d_CD, from a table of Morgan fingerprints."""

    def __init__(self, config: TahoeConfig, chemical: ChemicalConfig) -> None:
        super().__init__()
        self.activation = activation(chemical.activation)
        self.table = nn.Embedding(chemical.n_drugs, chemical.n_bits, padding_idx=0)
        self.linear1 = Linear(chemical.n_bits, config.d_model)
        self.linear2 = Linear(config.d_model, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)

    def forward(self, drug_C: Tensor) -> Tensor:
        d_CD: Tensor = self.norm(self.linear2(self.activation(self.linear1(self.table(drug_C)))))
        return d_CD


class Attention(nn.Module):
    """Self-attention within each cell. The rows of qkv are [Q | K | V], each head by head."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.n_heads, self.head_width = config.n_heads, config.head_width
        self.qkv = Linear(config.d_model, 3 * config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(self, x_TD: Tensor, layout: CellLayout, isolated_T: Tensor | None) -> Tensor:
        q_TNH, k_TNH, v_TNH = self.qkv(x_TD).view(-1, 3, self.n_heads, self.head_width).unbind(1)
        o_TNH = attend(q_TNH, k_TNH, v_TNH, layout, isolated_T=isolated_T)
        a_TD: Tensor = self.out(o_TNH.flatten(1))
        return a_TD


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
        recorder.offer(f"resid_pre_{index}", x_TD)
        a_TD = self.attention(self.norm1(x_TD) if self.pre_norm else x_TD, layout, isolated_T)
        recorder.offer(f"attn_out_{index}", a_TD)
        x_TD = x_TD + a_TD if self.pre_norm else self.norm1(x_TD + a_TD)
        m_TD = self.ffn(self.norm2(x_TD) if self.pre_norm else x_TD)
        recorder.offer(f"mlp_out_{index}", m_TD)
        x_TD = x_TD + m_TD if self.pre_norm else self.norm2(x_TD + m_TD)
        recorder.offer(f"resid_post_{index}", x_TD)
        return x_TD


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
        self.flag = nn.Embedding(2, config.d_model)
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
        recorder = HookRecorder(wanted, self.n_layers)
        g_TD = self.genes(tokens.ids_T)
        x_TD = self._with_values(g_TD, tokens, generative_T, drug_C)
        recorder.offer("embed", x_TD)
        isolated_T = generative_T if self.config.isolate_generative else None
        for index, block in enumerate(self.blocks[: recorder.n_blocks]):
            x_TD = block(x_TD, tokens.layout, isolated_T, recorder, index)
        if recorder.n_blocks < self.n_layers or "final" not in wanted:
            # A hook may ask for the state before the first block that does not run.
            recorder.offer(f"resid_pre_{recorder.n_blocks}", x_TD)
            return EncoderOutput(recorder.states)
        x_TD = self.final_norm(x_TD)
        recorder.offer("final", x_TD)
        heads = self._predict(g_TD, x_TD, tokens.layout) if predictions else {}
        return EncoderOutput({name: recorder.states[name] for name in hooks}, heads)

    def _with_values(
        self, g_TD: Tensor, tokens: PackedTokens, generative_T: Tensor | None, drug_C: Tensor | None
    ) -> Tensor:
        v_TD: Tensor = self.values(tokens.values_T)
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
