"""What a Tahoe-x1 token is made of: its gene, its value and, in the 3B model, the cell's drug.

Source: tahoe_x1 1.0.0. Legend: T packed tokens, D width, C cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models.layers.activation import activation
from engine.models.layers.embedding import Embedding
from engine.models.layers.precision import LayerNorm, Linear
from engine.models.tahoe.config import ChemicalConfig, TahoeConfig

# The original's padding value, which <cls> and other tokens without a count carry.
LOWEST_VALUE = -2


class GeneEmbedding(nn.Module):
    """Vocabulary id -> normalised embedding g_TD."""

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.table = Embedding(config.vocab_size, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps) if config.gene_use_norm else nn.Identity()

    def forward(self, ids_T: Tensor) -> Tensor:
        g_TD: Tensor = self.norm(self.table(ids_T))
        return g_TD


class ValueEmbedding(nn.Module):
    """Binned count -> v_TD. Values are clamped from above only: -2 and -1 pass as they are.

    Bins, the markers -2 and -1 and raw counts up to the clamp are few whole numbers, so inference looks their
    embeddings up in a table, made when first needed and again whenever a weight has changed since. (A table
    of normalised genes would do the same for `GeneEmbedding`; but there it would save one norm in
    2 n_layers + 2, 0.02% of the time of the 70M model, for twice the memory of its largest tensor.)
    """

    def __init__(self, config: TahoeConfig) -> None:
        super().__init__()
        self.maximum = config.value_max
        self.activation = activation(config.value_activation)
        self.linear1 = Linear(1, config.d_model)
        self.linear2 = Linear(config.d_model, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps) if config.value_use_norm else nn.Identity()
        self.dropout = nn.Dropout(config.value_dropout)
        self._tabled: tuple[list[WeightState], Tensor] | None = None

    def forward(self, values_T: Tensor, *, whole: bool = False) -> Tensor:
        """whole: all values are whole numbers, none below -2."""
        values_T = values_T.clamp(max=self.maximum)
        if whole and self._may_table():
            return self._table()[(values_T - LOWEST_VALUE).long()]
        return self._embed(values_T)

    def _embed(self, values_T: Tensor) -> Tensor:
        x_T1 = values_T[:, None]
        v_TD: Tensor = self.dropout(self.norm(self.linear2(self.activation(self.linear1(x_T1)))))
        return v_TD

    def _may_table(self) -> bool:
        if self.training or torch.is_grad_enabled() or not float(self.maximum).is_integer():
            return False
        # Weights made under inference_mode do not count their changes.
        return not any(weight.is_inference() for weight in self.parameters())

    def _table(self) -> Tensor:
        """Row v - LOWEST_VALUE: the embedding of value v."""
        states = [WeightState.of(weight) for weight in self.parameters()]
        if self._tabled is None or self._tabled[0] != states:
            values = torch.arange(LOWEST_VALUE, int(self.maximum) + 1, device=states[0].weight.device)
            self._tabled = states, self._embed(values.float())
        return self._tabled[1]

    def train(self, mode: bool = True) -> ValueEmbedding:
        self._tabled = None  # an optimiser may change weights without counting it
        return super().train(mode)


@dataclass(frozen=True, eq=False)
class WeightState:
    """A weight at one moment: which one, at which version, and its memory, which is held so that no other
    weight can come to lie there.
    """

    weight: Tensor
    version: int
    memory: Tensor

    @staticmethod
    def of(weight: Tensor) -> WeightState:
        return WeightState(weight, weight._version, weight.detach())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, WeightState)
            and self.weight is other.weight
            and self.version == other.version
            and self.memory.data_ptr() == other.memory.data_ptr()
        )


class DrugEmbedding(nn.Module):
    """Drug id -> token d_CD, from a table of Morgan fingerprints."""

    def __init__(self, config: TahoeConfig, chemical: ChemicalConfig) -> None:
        super().__init__()
        self.activation = activation(chemical.activation)
        self.table = Embedding(chemical.n_drugs, chemical.n_bits, padding_idx=0)
        self.linear1 = Linear(chemical.n_bits, config.d_model)
        self.linear2 = Linear(config.d_model, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)

    def forward(self, drug_C: Tensor) -> Tensor:
        d_CD: Tensor = self.norm(self.linear2(self.activation(self.linear1(self.table(drug_C)))))
        return d_CD
