"""How often and how strongly features fire: what edits are measured in, and controls are chosen by.

From finished feature tables, or from a survey of some cells.

Shape legend: T gene tokens, F features, D width, C cells, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from engine.interpret.codes import sparse_codes
from engine.interpret.features import NO_LABEL
from engine.interpret.runs import Float64
from engine.interpret.steering.edits import Unit
from engine.models import Encoder, Tokens
from engine.models.interventions import Reading
from engine.streaming.packing import pack, token_positions
from storage.errors import InputError
from storage.features import FeatureTables

NEAREST = 10
"""A control is drawn from so many features whose density is nearest."""
NO_GENE = -1
SURVEY_TOKENS = 131_072
"""Codes of at most about so many tokens are kept, by chance: 70 MB with 64 features a token."""
FEWEST_TOKENS = 3
"""A gene seen on fewer tokens is not taken for a target: a mean over two says little."""


class Activity(Protocol):
    """What is known of how features fire. density_F: share of gene tokens that each fires on."""

    density_F: Float64

    def unit(self, feature: int, unit: Unit) -> float:
        """Activation of a feature that counts as 1; 0 for a feature that never fired."""

    def top_genes(self, feature: int, n_genes: int) -> list[int]:
        """Token ids of the genes it fires most on, strongest first."""


class TabledActivity:
    """From the tables that `features` wrote."""

    def __init__(self, tables: FeatureTables, n_features: int) -> None:
        self._tables = tables
        rows = tables.features.set_index("feature").reindex(range(n_features))
        self.density_F: Float64 = rows["density"].fillna(0).to_numpy(np.float64)
        self._peak_F = rows["max_activation"].fillna(0).to_numpy(np.float64)

    def unit(self, feature: int, unit: Unit) -> float:
        if unit.kind == "absolute":
            return 1.0
        if unit.kind == "max":
            return float(self._peak_F[feature])
        rows = self._tables.table("histograms")
        rows = rows[rows["feature"] == feature].sort_values("bin")
        if rows.empty:
            return 0.0
        # Within the bin that holds the quantile activations are taken as evenly spread.
        wanted = unit.quantile * rows["n_tokens"].sum()
        before = rows["n_tokens"].cumsum().to_numpy()
        at = min(int(np.searchsorted(before, wanted)), len(rows) - 1)
        row = rows.iloc[at]
        share = 1 - (before[at] - wanted) / row["n_tokens"]
        found = row["low"] + share * (row["high"] - row["low"])
        return float(min(found, self._peak_F[feature]))

    def top_genes(self, feature: int, n_genes: int) -> list[int]:
        rows = self._tables.top_genes
        rows = rows[rows["feature"] == feature].sort_values("rank")
        found: list[int] = rows["gene"].head(n_genes).astype(int).tolist()
        return found


class SurveyedActivity:
    """From the codes of surveyed tokens: codes_TF (sparse) and the gene of each (NO_GENE: a special one)."""

    def __init__(self, codes_TF: sparse.csr_matrix, gene_T: npt.NDArray[np.int64]) -> None:
        self._codes_FT = codes_TF.tocsc()
        self._gene_T = gene_T
        fired_F = np.diff(self._codes_FT.indptr)
        self.density_F: Float64 = fired_F / max(len(gene_T), 1)

    def unit(self, feature: int, unit: Unit) -> float:
        if unit.kind == "absolute":
            return 1.0
        values = self._values(feature)[1]
        if not len(values):
            return 0.0
        return float(values.max() if unit.kind == "max" else np.quantile(values, unit.quantile))

    def top_genes(self, feature: int, n_genes: int) -> list[int]:
        rows, values = self._values(feature)
        genes_T, is_gene_R = self._gene_T[self._gene_T != NO_GENE], self._gene_T[rows] != NO_GENE
        rows, values = rows[is_gene_R], values[is_gene_R]
        size = int(self._gene_T.max(initial=-1)) + 1
        tokens_G = np.bincount(genes_T, minlength=size)
        sum_G = np.bincount(self._gene_T[rows], weights=values, minlength=size)
        mean_G = np.where(tokens_G >= FEWEST_TOKENS, sum_G / np.maximum(tokens_G, 1), 0)
        order = np.lexsort((np.arange(size), -mean_G))[:n_genes]
        return [int(gene) for gene in order if mean_G[gene] > 0]

    def _values(self, feature: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Tokens that the feature fires on, and how strongly."""
        codes = self._codes_FT
        at = slice(codes.indptr[feature], codes.indptr[feature + 1])
        return codes.indices[at], codes.data[at]


def like_density(density_F: Float64, feature: int, taken: Sequence[int], seed: int) -> int:
    """Another feature that fires about as often, by chance one of the nearest; none of `taken`.

    Raises InputError when no other feature fired.
    """
    eligible = density_F > 0
    eligible[[*taken, feature]] = False
    candidates = np.flatnonzero(eligible)
    if not len(candidates):
        raise InputError(
            f"no feature but the edited ones fired on the surveyed cells, so there is no control for feature "
            f"{feature}; survey more cells, or leave the control random_feature out."
        )
    logs = np.log(np.maximum(density_F, 1e-12))
    nearest = candidates[np.argsort(np.abs(logs[candidates] - logs[feature]), kind="stable")[:NEAREST]]
    return int(np.random.default_rng([seed, feature]).choice(nearest))


@dataclass(frozen=True)
class Survey:
    """What a look at some unedited cells tells. label_sum_LD, label_cells_L: their embeddings by label."""

    activity: SurveyedActivity
    n_cells: int
    label_sum_LD: Float64
    label_cells_L: npt.NDArray[np.int64]


@torch.inference_mode()
def survey(
    encoder: Encoder,
    reading: Reading,
    tokens: Tokens,
    hook: str,
    *,
    layer_hook: str,
    pool: str,
    batch_tokens: int,
    label_C: npt.NDArray[np.int32] | None = None,
    n_labels: int = 0,
) -> Survey:
    """Codes of tokens that the autoencoder is about, and the cells' embeddings by label (-1: none)."""
    sae = reading.sae
    no_state_TD = torch.zeros(0, sae.d_in, device=sae.W_enc.device)
    codes, genes = [sparse_codes(sae, no_state_TD, sae.d_sae)], [np.zeros(0, np.int64)]
    # By place in all tokens, so that which are kept does not depend on batches.
    share = SURVEY_TOKENS / max(tokens.n_tokens, 1)
    kept_T = torch.from_numpy(np.random.default_rng(0).random(tokens.n_tokens) < share)
    sum_LD, cells_L = np.zeros((n_labels, encoder.d_model)), np.zeros(n_labels, np.int64)
    for cells in pack(tokens.lengths, batch_tokens):
        packed = tokens.select(cells).to_torch(encoder.device)
        states = encoder(packed, (hook, layer_hook)).hooks
        rows_R = reading.rows(packed)
        rows_R = rows_R[kept_T[token_positions(tokens.offsets, cells)][rows_R.cpu()].to(rows_R.device)]
        ids_R = packed.ids_T[rows_R]
        codes.append(sparse_codes(sae, reading.read(states[hook][rows_R], ids_R), sae.d_sae))
        genes.append(torch.where(encoder.is_gene(ids_R), ids_R, NO_GENE).cpu().numpy())
        if label_C is not None:
            e_CD = encoder.pooled(states[layer_hook], packed, pool).double().cpu().numpy()
            known = (label_C[cells] != NO_LABEL) & ~np.isnan(e_CD).any(axis=1)
            np.add.at(sum_LD, label_C[cells][known], e_CD[known])
            np.add.at(cells_L, label_C[cells][known], 1)
    activity = SurveyedActivity(sparse.vstack(codes, format="csr"), np.concatenate(genes))
    return Survey(activity, tokens.n_cells, sum_LD, cells_L)


def label_directions(found: Survey) -> npt.NDArray[np.float32]:
    """Unit vectors [L, D] from the mean embedding of all other labelled cells to the mean of a label's.

    Zeros where either has no cell.
    """
    cells_L1 = found.label_cells_L[:, None]
    others_L1 = cells_L1.sum() - cells_L1
    mean_LD = found.label_sum_LD / np.maximum(cells_L1, 1)
    rest_LD = (found.label_sum_LD.sum(axis=0) - found.label_sum_LD) / np.maximum(others_L1, 1)
    towards_LD = np.where((cells_L1 > 0) & (others_L1 > 0), mean_LD - rest_LD, 0)
    norm_L1 = np.linalg.norm(towards_LD, axis=1, keepdims=True)
    return (towards_LD / np.where(norm_L1 > 0, norm_L1, 1)).astype(np.float32)
