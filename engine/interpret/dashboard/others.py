"""Other autoencoders that these features were compared with: which features are shared, which are not.

Shape legend: F features of ours, G of the other.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.comparison.matching import Matching
from engine.interpret.comparison.run import FEATURES, MATCHING, METRICS
from engine.interpret.comparison.tables import matching_of
from engine.interpret.dashboard.numbers import rounded
from storage.commits import Snapshot
from storage.errors import InputError
from storage.features import FeatureTables

GENES_NAMED = 5


@dataclass(frozen=True)
class Others:
    """A comparison seen from one of its autoencoders. ours: its number in it. described: feature tables of
    others, by number."""

    comparison: Snapshot
    ours: int
    described: Mapping[int, FeatureTables]

    @classmethod
    def of(cls, comparison: Snapshot, features: FeatureTables, others: Sequence[FeatureTables]) -> Others:
        """Raises InputError when the comparison does not hold these autoencoders."""
        numbers = {one["fingerprint"]: n for n, one in enumerate(comparison.lineage["saes"])}
        for tables in (features, *others):
            if tables.lineage.get("sae") not in numbers:
                raise InputError(
                    f"{comparison.location}: compares other autoencoders than the one that "
                    f"{tables.snapshot.location} is of."
                )
        ours = numbers[features.lineage["sae"]]
        described = {numbers[tables.lineage["sae"]]: tables for tables in others}
        return cls(comparison, ours, {n: tables for n, tables in described.items() if n != ours})

    @cached_property
    def stability(self) -> pd.DataFrame:
        """stability, mean_similarity of each of our features."""
        known = pd.read_parquet(io.BytesIO(self.comparison.read(FEATURES)))
        return known[known["sae"] == self.ours].set_index("feature")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.comparison.read(METRICS))
        return found

    @cached_property
    def numbers(self) -> list[int]:
        """Of the other autoencoders."""
        return [n for n in range(len(self.metrics["autoencoders"])) if n != self.ours]

    @cached_property
    def matchings(self) -> dict[int, Matching]:
        """With each other autoencoder; ours is the first side."""
        return {number: self._matching(number) for number in self.numbers}

    def _matching(self, other: int) -> Matching:
        one, two = sorted((self.ours, other))
        sizes = [one["features"] for one in self.metrics["autoencoders"]]
        table = pd.read_parquet(io.BytesIO(self.comparison.read(f"{MATCHING}/{one}-{two}.parquet")))
        found = matching_of(table, sizes[one], sizes[two])
        return found if one == self.ours else found.reversed()

    def name(self, number: int) -> str:
        """Of its folder; with its number where two have the same. Whole paths are nobody's business."""
        names = [PurePosixPath(str(one["path"]).rstrip("/")).name for one in self.metrics["autoencoders"]]
        return names[number] if names.count(names[number]) == 1 else f"{names[number]} ({number})"

    def genes(self, number: int) -> list[str]:
        """Top genes of each feature of another autoencoder, as one text; empty without its feature tables."""
        if number not in self.described:
            return []
        return self._genes[number]

    @cached_property
    def _genes(self) -> dict[int, list[str]]:
        return {number: _named_genes(tables) for number, tables in self.described.items()}

    def summary(self) -> dict[str, Any]:
        """What the page of comparisons begins with; JSON values."""
        return {
            "ours": self.name(self.ours),
            "sameAbove": self.metrics["same_above"],
            "others": [self._of_pair(number) for number in self.numbers],
        }

    def _of_pair(self, number: int) -> dict[str, Any]:
        pair = next(p for p in self.metrics["pairs"] if {p["a"], p["b"]} == {self.ours, number})
        ours, theirs = ("a", "b") if pair["a"] == self.ours else ("b", "a")
        cka = pair.get("cka_codes") or {}
        known = self.metrics["autoencoders"][number]
        return {
            "number": number,
            "name": self.name(number),
            "model": str(known["model"])[:12],
            "hook": known["hook"],
            "features": known["features"],
            "by": pair["by"],
            "share": rounded([pair[f"share_{ours}"], pair[f"share_{theirs}"]], 3),
            "mutual": rounded([pair["mutual_share_above"]], 3)[0],
            # Measured from the first autoencoder's side.
            "chance": rounded([pair["chance_share_a"]], 3)[0],
            "tokens": pair.get("n_tokens"),
            "cka": rounded([cka["unbiased"]], 3)[0] if "unbiased" in cka else None,
            "described": number in self.described,
        }

    def columns(self, number: int) -> dict[str, Any]:
        """Every feature of ours and every one of theirs with its partner; JSON values, -1 for nobody."""
        found = self.matchings[number]
        table: dict[str, Any] = {
            "best": found.best_F.tolist(),
            "similarity": rounded(found.best_similarity_F, 3),
            "assigned": found.assigned_F.tolist(),
            "mutual": np.flatnonzero(found.mutual).tolist(),
            "back": found.best_G.tolist(),
            "backSimilarity": rounded(found.best_similarity_G, 3),
            "genes": self.genes(number),
            "labels": None,
        }
        if number in self.described:
            features = self.described[number].features
            table["density"] = rounded(features["density"], 3)
            if "best_label" in features:
                table["labels"] = [None if pd.isna(one) else str(one) for one in features["best_label"]]
        return table

    def of_features(self, features: list[int]) -> dict[int, dict[str, Any]]:
        """What the page of a feature says: how often it is found again, and its partner everywhere."""
        known = self.stability.reindex(features)
        scores = (rounded(known[name], 3) for name in ("stability", "mean_similarity"))
        found = {
            feature: {"share": share, "similarity": similarity, "partners": []}
            for feature, share, similarity in zip(features, *scores, strict=True)
        }
        for number, matching in self.matchings.items():
            genes, name, mutual_F = self.genes(number), self.name(number), matching.mutual
            for feature in features:
                partner = int(matching.best_F[feature])
                alike = float(f"{matching.best_similarity_F[feature]:.3g}")
                named = genes[partner] if genes and partner >= 0 else ""
                row = [number, name, partner, alike, bool(mutual_F[feature]), named]
                found[feature]["partners"].append(row)
        return found


def _named_genes(tables: FeatureTables) -> list[str]:
    top = tables.top_genes
    first = top[top["rank"] < GENES_NAMED]
    named = first["gene_name"].astype(str).groupby(first["feature"]).agg(" ".join)
    return [str(text) for text in named.reindex(tables.features["feature"]).fillna("")]
