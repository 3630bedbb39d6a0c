"""Does a feature come back when the same autoencoder is trained from another seed?

At 131k features on Llama-3-8B two seeds share 30 % (arXiv 2501.16615): what a single run finds once is weak
evidence, so every feature gets a score to be ranked by.

Shape legend: F features of the one, N other autoencoders, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.interpret.comparison.matching import BLOCK, CANDIDATES, Matching, match
from engine.interpret.comparison.similarity import DecoderCosine
from engine.interpret.runs import Float32, Float64

SAME_ABOVE = 0.7
"""Cosine of decoder directions above which two features count as the same (specs/sae.md section 6)."""


@dataclass(frozen=True)
class Stability:
    """How well the features of one autoencoder are found in N others.

    best_NF: similarity to the most alike feature of each other one. assigned_NF: to the partner in the
    one-to-one assignment, 0 for a feature left alone.
    """

    best_NF: Float32
    assigned_NF: Float32
    same_above: float = SAME_ABOVE

    @classmethod
    def of(cls, matchings: Sequence[Matching], same_above: float = SAME_ABOVE) -> Stability:
        """From the matchings of one autoencoder with others."""
        if not matchings:
            raise ValueError("stability needs at least one other autoencoder")
        return cls(
            np.stack([matching.best_similarity_F for matching in matchings]),
            np.stack([matching.assigned_similarity_F for matching in matchings]),
            same_above,
        )

    @property
    def score(self) -> Float64:
        """The score of every feature, [F]: share of the others in which it is found again."""
        return np.asarray((self.best_NF > self.same_above).mean(axis=0))

    @property
    def similarity(self) -> Float64:
        """Mean similarity to its best partners, [F]: ranks features of equal score."""
        return np.asarray(self.best_NF.mean(axis=0, dtype=np.float64))

    def shares(self, counted_F: np.ndarray | None = None) -> dict[str, float]:
        """Share of features (of those counted) found in another autoencoder, on average over the others:
        `best_share` by best partner, `assigned_share` one to one, `found_in_all_share` in all of
        them."""
        counted_F = np.ones(self.best_NF.shape[1], np.bool_) if counted_F is None else counted_F
        if not counted_F.any():
            return dict.fromkeys(("best_share", "assigned_share", "found_in_all_share"), 0.0)
        best_NF = self.best_NF[:, counted_F] > self.same_above
        return {
            "best_share": float(best_NF.mean()),
            "assigned_share": float((self.assigned_NF[:, counted_F] > self.same_above).mean()),
            "found_in_all_share": float(best_NF.all(axis=0).mean()),
        }


def stability_over_seeds(
    decoder_FD: torch.Tensor,
    others: Sequence[torch.Tensor],
    *,
    same_above: float = SAME_ABOVE,
    candidates: int = CANDIDATES,
    block: int = BLOCK,
) -> Stability:
    """Of the features with these decoder directions (`SAE.W_dec`), in autoencoders of the same activations.

    Blocked: memory is that of the decoders, plus `candidates` numbers a feature and one block of pairs.
    Raises ValueError when widths differ or there is no other.
    """
    return Stability.of(
        [
            match(DecoderCosine(decoder_FD, other_GD), candidates=candidates, block=block)
            for other_GD in others
        ],
        same_above,
    )
