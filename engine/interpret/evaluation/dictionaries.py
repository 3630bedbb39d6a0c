"""What takes activations apart and puts them together again: autoencoders and the baselines beside them.

All of them give sparse codes above zero, so that whatever is measured of one is measured of all.

Shape legend: T tokens, D width, F features, K active features of a token, J directions of a basis.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch

from engine.interpret.runs import Float32, Int64
from engine.models.sae import SAE

TOKENS_AT_ONCE = 4096
"""Tokens explained together; an autoencoder holds no more of them densely, and often fewer."""


class Explained(NamedTuple):
    """index_TK int64 and value_TK float32 of the active features, padded with value 0; reconstruction r_TD
    float32."""

    index_TK: torch.Tensor
    value_TK: torch.Tensor
    r_TD: torch.Tensor


class Dictionary(Protocol):
    """Directions that activations are made of."""

    n_features: int

    def explain(self, x_TD: torch.Tensor, /) -> Explained:
        """Codes and reconstruction of float32 activations, on their device."""

    def to(self, device: torch.device | str, /) -> Dictionary: ...


class Autoencoder:
    """A sparse autoencoder, trained or not."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self.n_features = sae.d_sae

    @torch.no_grad()
    def explain(self, x_TD: torch.Tensor) -> Explained:
        codes = self.sae.encode_sparse(x_TD)
        return Explained(codes.index_BK, codes.value_BK, self.sae.decode_sparse(codes, x_TD))

    def to(self, device: torch.device | str) -> Autoencoder:
        return Autoencoder(self.sae.to(device))


class SignedBasis:
    """`k` orthogonal directions a token, each as two features: along it and against it.

    basis_JD: unit rows; the features of direction j are 2 j and 2 j + 1. None: the model's own neurons, of
    which each token keeps the k furthest from the mean. With a basis of k rows all of them are active.
    """

    def __init__(self, mean_D: torch.Tensor, k: int, basis_JD: torch.Tensor | None = None) -> None:
        self.mean_D, self.basis_JD = mean_D.float(), None if basis_JD is None else basis_JD.float()
        n_directions = len(mean_D) if basis_JD is None else len(basis_JD)
        self.k, self.n_features = min(k, n_directions), 2 * n_directions

    @torch.no_grad()
    def explain(self, x_TD: torch.Tensor) -> Explained:
        centred_TD = x_TD - self.mean_D
        z_TJ = centred_TD if self.basis_JD is None else centred_TD @ self.basis_JD.T
        value_TK, index_TK = z_TJ.abs().topk(self.k, dim=1)
        against_TK = z_TJ.gather(1, index_TK) < 0
        kept_TJ = torch.zeros_like(z_TJ).scatter(1, index_TK, z_TJ.gather(1, index_TK))
        r_TD = kept_TJ if self.basis_JD is None else kept_TJ @ self.basis_JD
        return Explained(2 * index_TK + against_TK, value_TK, r_TD + self.mean_D)

    def to(self, device: torch.device | str) -> SignedBasis:
        basis_JD = None if self.basis_JD is None else self.basis_JD.to(device)
        return SignedBasis(self.mean_D.to(device), self.k, basis_JD)


class Activations(NamedTuple):
    """Activations above zero of some tokens, token by token."""

    token_N: Int64
    feature_N: Int64
    value_N: Float32


def activations_of(explained: Explained, first_token: int = 0) -> Activations:
    """On the host; tokens count from `first_token`."""
    fires_TK = explained.value_TK > 0
    active_T = fires_TK.sum(dim=1).cpu().numpy()
    tokens = np.arange(first_token, first_token + len(active_T), dtype=np.int64)
    return Activations(
        np.repeat(tokens, active_T),
        explained.index_TK[fires_TK].cpu().numpy().astype(np.int64),
        explained.value_TK[fires_TK].float().cpu().numpy(),
    )


def joined(parts: list[Activations]) -> Activations:
    """Parts in the order of their tokens, as one."""
    return Activations(*(np.concatenate(column) for column in zip(*parts, strict=True)))
