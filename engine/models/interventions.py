"""Replacing the state at a hook by what an autoencoder says of it: features edited, or a reconstruction.

Every function here gives an intervention for `encoder(tokens, interventions={hook: ...})`, on any hook of any
encoder. Gradients pass to the state, and not through the autoencoder's encoder: its codes count as constants.

    edits = [FeatureEdit(4711, "ablate"), FeatureEdit(88, "add", 3.0)]
    intervention = delta(Reading.of(encoder, sae), edits)
    encoder(tokens, predictions=True, interventions={"resid_post_16": intervention})

Legend: T packed tokens, R rows of them that may be changed, D width, J edited features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from engine.models.encoder import Encoder, Intervention
from engine.models.errors import ModelError
from engine.models.sae import SAE
from engine.models.tokens import PackedTokens

Op = Literal["ablate", "clamp", "scale", "add"]
# In a tokeniser's `token_classes` by number, and in an autoencoder's metadata by name.
TOKEN_CLASSES = ("gene", "cell", "special")
OPS: tuple[Op, ...] = ("ablate", "clamp", "scale", "add")


@dataclass(frozen=True)
class FeatureEdit:
    """What is done to the activation of one feature, on every token that may be changed.

    ablate: set to 0. clamp: set to `value`, where it was silent too. scale: times `value`. add: plus `value`,
    where it was silent too. token_ids: only on tokens of these genes (ids of the vocabulary); None for all.
    """

    feature: int
    op: Op
    value: float = 0.0
    token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ModelError(f"edit of feature {self.feature}: {self.op!r}; expected one of {', '.join(OPS)}")

    def change(self, a_R: Tensor) -> Tensor:
        """What the edit adds to activations a_R."""
        if self.op == "ablate":
            return -a_R
        if self.op == "clamp":
            return self.value - a_R
        if self.op == "scale":
            return (self.value - 1) * a_R
        return torch.full_like(a_R, self.value)

    def at(self, dose: float) -> FeatureEdit:
        """The edit at `dose` times its strength; 1 leaves it and -1 is its opposite.

        add and clamp: dose times the value. scale and ablate: dose times the change, so that half of an
        ablation halves the activation and its opposite doubles it.
        """
        if self.op in ("add", "clamp"):
            return replace(self, value=dose * self.value)
        factor = 0.0 if self.op == "ablate" else self.value
        return replace(self, op="scale", value=1 + dose * (factor - 1))


@dataclass(frozen=True)
class Reading:
    """An autoencoder and what it reads of the states at its hook.

    editable_V (bool by token id): the tokens it is about, None for all; no other is ever changed.
    gene_means_GD (by token id): of one trained on gene residuals, which takes states less the mean of their
    gene; None for one that takes states as they are.
    """

    sae: SAE
    editable_V: Tensor | None = None
    gene_means_GD: Tensor | None = None

    @classmethod
    def of(cls, encoder: Encoder, sae: SAE, gene_means_GD: Tensor | None = None) -> Reading:
        """About the class of tokens that its metadata says it was trained on: genes if they do not say."""
        kind = sae.config.metadata.get("token_class", "gene")
        if kind == "all":
            return cls(sae, None, gene_means_GD)
        number = TOKEN_CLASSES.index(kind) if kind in TOKEN_CLASSES else 0
        return cls(sae, tokens_of_class(encoder, number), gene_means_GD)

    def rows(self, tokens: PackedTokens) -> Tensor:
        """Packed rows, int64, whose state it is about."""
        return editable_rows(tokens, self.editable_V)

    def read(self, x_RD: Tensor, ids_R: Tensor) -> Tensor:
        """What the autoencoder takes for these states, constant to gradients."""
        x_RD = x_RD.detach()
        return x_RD if self.gene_means_GD is None else x_RD - self.gene_means_GD[ids_R]


def tokens_of_class(encoder: Encoder, number: int = 0) -> Tensor:
    """`editable_V` of the tokens of one class (a tokeniser's `token_classes`); 0: genes."""
    return torch.as_tensor(encoder.tokeniser.token_classes == number, device=encoder.device)


def delta(reading: Reading, edits: Sequence[FeatureEdit]) -> Intervention:
    """x plus what the edits change in its reconstruction; what the autoencoder does not explain stays.

    Rows that the autoencoder is not about, and those that no edit changes, keep their bits. Raises ModelError
    for edits that this autoencoder cannot take.
    """
    sae, features = reading.sae, edited_features(reading.sae, edits)
    features_J = torch.tensor(features, dtype=torch.int64, device=sae.W_enc.device)

    def intervene(x_TD: Tensor, tokens: PackedTokens) -> Tensor:
        rows_R = reading.rows(tokens)
        ids_R = tokens.ids_T[rows_R]
        read_RD = reading.read(x_TD[rows_R], ids_R)
        change_RJ = changes(sae.encode_features(read_RD, features_J), features, edits, ids_R)
        moved_RD = sae.decode_change(change_RJ, features_J, read_RD)
        return x_TD.index_add(0, rows_R, moved_RD.to(x_TD.dtype))

    return intervene


def reconstruct(
    reading: Reading, *, edits: Sequence[FeatureEdit] = (), keep_error: bool = False
) -> Intervention:
    """The reconstruction in place of x, with edited activations.

    keep_error: plus what the autoencoder did not explain of x, which is `delta` computed the long way (and x
    itself without edits).
    """
    sae, features = reading.sae, edited_features(reading.sae, edits)
    features_J = torch.tensor(features, dtype=torch.int64, device=sae.W_enc.device)

    def intervene(x_TD: Tensor, tokens: PackedTokens) -> Tensor:
        rows_R = reading.rows(tokens)
        ids_R = tokens.ids_T[rows_R]
        read_RD = reading.read(x_TD[rows_R], ids_R)
        r_RD = sae.decode_sparse(sae.encode_sparse(read_RD), read_RD)
        # With gene residuals: what is not explained, means included, is what the state is beside them.
        beside_RD = x_TD[rows_R] - (r_RD if keep_error else read_RD)
        if edits:
            change_RJ = changes(sae.encode_features(read_RD, features_J), features, edits, ids_R)
            r_RD = r_RD + sae.decode_change(change_RJ, features_J, read_RD)
        if keep_error or reading.gene_means_GD is not None:
            r_RD = r_RD + (beside_RD if keep_error else beside_RD.detach())
        return x_TD.index_copy(0, rows_R, r_RD.to(x_TD.dtype))

    return intervene


def replace_by(state_D: Tensor, editable_V: Tensor | None = None) -> Intervention:
    """The same state for every token: the mean state (mean ablation), or zeros (zero ablation)."""

    def intervene(x_TD: Tensor, tokens: PackedTokens) -> Tensor:
        rows_R = editable_rows(tokens, editable_V)
        states_RD = state_D.to(x_TD).expand(len(rows_R), -1)
        return x_TD.index_copy(0, rows_R, states_RD)

    return intervene


def edited_features(sae: SAE, edits: Sequence[FeatureEdit]) -> list[int]:
    """Numbers of the edited features. Raises ModelError for edits that do not fit the autoencoder."""
    _require_same_space(sae)
    features = [edit.feature for edit in edits]
    beyond = sorted(feature for feature in features if not 0 <= feature < sae.d_sae)
    if beyond:
        raise ModelError(f"feature {beyond[0]} does not exist; the autoencoder has 0 to {sae.d_sae - 1}")
    twice = sorted({feature for feature in features if features.count(feature) > 1})
    if twice:
        raise ModelError(f"feature {twice[0]} is edited twice; say what is to become of it in one edit")
    return features


def changes(a_RJ: Tensor, features: Sequence[int], edits: Sequence[FeatureEdit], ids_R: Tensor) -> Tensor:
    """What the edits add to the activations a_RJ of `features` on tokens of these ids."""
    place = {feature: column for column, feature in enumerate(features)}
    change_RJ = torch.zeros_like(a_RJ)
    for edit in edits:
        column = place[edit.feature]
        change_R = edit.change(a_RJ[:, column])
        if edit.token_ids is not None:
            meant_R = torch.isin(ids_R, torch.tensor(edit.token_ids, device=ids_R.device))
            change_R = torch.where(meant_R, change_R, 0)
        change_RJ[:, column] = change_R
    return change_RJ


def editable_rows(tokens: PackedTokens, editable_V: Tensor | None) -> Tensor:
    """Packed rows, int64, whose state may be changed."""
    if editable_V is None:
        return torch.arange(tokens.n_tokens, device=tokens.ids_T.device)
    return editable_V.to(tokens.ids_T.device)[tokens.ids_T].nonzero().squeeze(1)


def _require_same_space(sae: SAE) -> None:
    if sae.config.d_out is not None:
        raise ModelError(
            "a transcoder reconstructs another hook than the one it reads; interventions need an autoencoder"
        )
