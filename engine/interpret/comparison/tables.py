"""The tables of a comparison: pairs of features, scores of features, and what they come to.

Shape legend: F features of the one side, G of the other, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.interpret.comparison.aligned_codes import AlignedCodes
from engine.interpret.comparison.matching import NOBODY, Matching, partners
from engine.interpret.comparison.similarity import CodeCorrelation, DecoderCosine, Similarity
from engine.interpret.comparison.stability import Stability
from engine.interpret.runs import Float32, Int64

CHANCE_FEATURES = 512
"""Features whose best partner by chance is looked at."""


def pair_table(
    matching: Matching, numbers: tuple[int, int], measures: Mapping[str, Similarity]
) -> pd.DataFrame:
    """One row for every pair that is the best of either feature, or assigned; by feature, then partner.

    measures: similarities to give beside the one that the pairs were found by.
    """
    n_one, n_other = len(matching.best_F), len(matching.best_G)
    one, other = np.arange(n_one), np.arange(n_other)
    key_P = np.unique(
        np.concatenate(
            [
                _keys(one, matching.best_F, n_other),
                _keys(matching.best_G, other, n_other),
                _keys(one, matching.assigned_F, n_other),
            ]
        )
    )
    one_P, other_P = np.divmod(key_P, n_other)
    best_of_a, best_of_b = matching.best_F[one_P] == other_P, matching.best_G[other_P] == one_P
    assigned = matching.assigned_F[one_P] == other_P
    similarity_P = np.where(assigned, matching.assigned_similarity_F[one_P], 0)
    similarity_P = np.where(best_of_b, matching.best_similarity_G[other_P], similarity_P)
    similarity_P = np.where(best_of_a, matching.best_similarity_F[one_P], similarity_P)
    table = {
        "sae_a": np.full(len(key_P), numbers[0]),
        "sae_b": np.full(len(key_P), numbers[1]),
        "feature_a": one_P,
        "feature_b": other_P,
        "similarity": similarity_P.astype(np.float32),
        "best_of_a": best_of_a,
        "best_of_b": best_of_b,
        "mutual": best_of_a & best_of_b,
        "assigned": assigned,
    }
    return pd.DataFrame(table | {name: known.of_pairs(one_P, other_P) for name, known in measures.items()})


def pair_metrics(matching: Matching, similarity: Similarity, same_above: float) -> dict[str, float]:
    """What the pairs of two autoencoders come to; `chance_*` is what unrelated features would show."""
    chance_F = chance_similarity(similarity)
    assigned_F = matching.assigned_similarity_F
    return {
        "mean_best_a": float(matching.best_similarity_F.mean()),
        "mean_best_b": float(matching.best_similarity_G.mean()),
        "share_a": float((matching.best_similarity_F > same_above).mean()),
        "share_b": float((matching.best_similarity_G > same_above).mean()),
        "mutual_share": float(matching.mutual.mean()),
        "mutual_share_above": float((matching.mutual & (matching.best_similarity_F > same_above)).mean()),
        "assigned_share": float((matching.assigned_F != NOBODY).mean()),
        "assigned_share_above": float((assigned_F > same_above).mean()),
        "mean_assigned": float(assigned_F.mean()),
        "chance_mean_best_a": float(chance_F.mean()),
        "chance_share_a": float((chance_F > same_above).mean()),
    }


def chance_similarity(similarity: Similarity) -> Float32:
    """Similarity to their best partners of some features of the first side, once it has been scrambled."""
    sample = np.unique(np.linspace(0, similarity.shape[0] - 1, CHANCE_FEATURES).astype(np.int64))
    best, _ = partners(similarity.scrambled(sample), candidates=1)
    return np.maximum(best.similarity_FC[:, 0], 0)


@dataclass(frozen=True)
class Scored:
    """One autoencoder's features in all others. fired_F: aligned tokens each fired on, in the pair with the
    most of them; None without a cache."""

    number: int
    stability: Stability
    best_other_F: Int64
    best_feature_F: Int64
    fired_F: Int64 | None

    @classmethod
    def of(
        cls, number: int, matchings: Mapping[int, Matching], same_above: float, fired_F: Int64 | None
    ) -> Scored:
        """matchings: of this autoencoder (the first side) with each other one, by its number."""
        stability = Stability.of(list(matchings.values()), same_above)
        place_F = stability.best_NF.argmax(axis=0)
        features_NF = np.stack([matching.best_F for matching in matchings.values()])
        best_feature_F = np.take_along_axis(features_NF, place_F[None], axis=0)[0]
        others_F = np.asarray(list(matchings))[place_F]
        return cls(
            number, stability, np.where(best_feature_F == NOBODY, NOBODY, others_F), best_feature_F, fired_F
        )

    def table(self) -> pd.DataFrame:
        """One row a feature. `stability`: share of the other autoencoders in which it is found again."""
        n = len(self.best_other_F)
        table = {
            "sae": np.full(n, self.number),
            "feature": np.arange(n),
            "stability": self.stability.score,
            "mean_similarity": self.stability.similarity,
            "worst_similarity": self.stability.best_NF.min(axis=0),
            "best_sae": self.best_other_F,
            "best_feature": self.best_feature_F,
        }
        return pd.DataFrame(table | ({} if self.fired_F is None else {"n_tokens": self.fired_F}))

    def metrics(self) -> dict[str, float]:
        """Shares of features found again; of those that fired on the cache, where there is one."""
        shares = self.stability.shares()
        if self.fired_F is None:
            return shares
        fired = self.fired_F > 0
        live = {f"live_{name}": share for name, share in self.stability.shares(fired).items()}
        return {**shares, "live_features": int(fired.sum()), **live}


def matching_of(table: pd.DataFrame, n_one: int, n_other: int) -> Matching:
    """The matching that a `pair_table` was made from."""
    return Matching(
        *_column(table[table["best_of_a"]], "feature_a", "feature_b", n_one),
        *_column(table[table["best_of_b"]], "feature_b", "feature_a", n_other),
        *_column(table[table["assigned"]], "feature_a", "feature_b", n_one),
    )


def firing_table(codes: AlignedCodes, numbers: tuple[int, int]) -> pd.DataFrame:
    """On how many of the aligned tokens each feature of both autoencoders fires."""
    sides = zip(numbers, (codes.one_TF, codes.other_TG), strict=True)
    return pd.concat(
        [
            pd.DataFrame(
                {"sae": number, "feature": np.arange(side.shape[1]), "n_tokens": side.getnnz(axis=0)}
            )
            for number, side in sides
        ],
        ignore_index=True,
    )


def measures_of(
    cosine: DecoderCosine | None, tokens: CodeCorrelation | None, cells: CodeCorrelation | None
) -> dict[str, Similarity]:
    """Those that can be computed, by the name of their column."""
    known = {"decoder_cosine": cosine, "token_correlation": tokens, "cell_correlation": cells}
    return {name: similarity for name, similarity in known.items() if similarity is not None}


def _keys(one_P: Int64, other_P: Int64, n_other: int) -> Int64:
    paired = (one_P != NOBODY) & (other_P != NOBODY)
    return np.asarray(one_P[paired] * n_other + other_P[paired])


def _column(table: pd.DataFrame, side: str, partner: str, n: int) -> tuple[Int64, Float32]:
    index, similarity = np.full(n, NOBODY, np.int64), np.zeros(n, np.float32)
    index[table[side]] = table[partner]
    similarity[table[side]] = table["similarity"]
    return index, similarity
