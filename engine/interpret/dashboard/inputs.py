"""What a site is made from: feature tables and, where given, enrichment, comparison, steering, batches, the
autoencoder itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.comparison.matching import Partners
from engine.interpret.dashboard.neighbours import neighbours_of
from engine.interpret.dashboard.others import Others
from engine.interpret.dashboard.trees import Hierarchy, hierarchies_of
from storage.checkpoints import fingerprint, local_copy
from storage.commits import Snapshot, open_snapshot
from storage.enrichment import HIERARCHY, EnrichmentTables
from storage.errors import InputError
from storage.features import FeatureTables
from storage.locations import Location

HIDDEN_LABEL = "named by a source that may not be shown"
COMPARISON, STEERING = "comparison", "effects"


@dataclass(frozen=True)
class SiteInputs:
    """Opened datasets; None where not given. public: leave out sources that may not be shown to others."""

    title: str
    features: FeatureTables
    enrichment: EnrichmentTables | None
    others: Others | None
    steering: Snapshot | None
    batch: FeatureTables | None
    sae: str | None
    public: bool

    @classmethod
    def open(
        cls,
        features: str,
        *,
        title: str = "",
        enrichment: str | None = None,
        comparison: str | None = None,
        others: Sequence[str] = (),
        steering: str | None = None,
        batch: str | None = None,
        sae: str | None = None,
        public: bool = False,
    ) -> SiteInputs:
        """Raises InputError for what is not there or belongs to other features."""
        tables = FeatureTables.open(features)
        enriched = EnrichmentTables.open(enrichment) if enrichment else None
        if enriched is not None and enriched.lineage.get("features") != tables.dataset_id:
            raise InputError(
                f"{enrichment}: made from other feature tables ({enriched.lineage.get('features')}) than "
                f"{features} ({tables.dataset_id}); run `enrich` on these."
            )
        batches = FeatureTables.open(batch) if batch else None
        if batches is not None and batches.lineage.get("sae") != tables.lineage.get("sae"):
            raise InputError(f"{batch}: of another autoencoder than {features}.")
        if others and not comparison:
            raise InputError("feature tables of other autoencoders need the comparison with them.")
        compared = open_snapshot(Location.of(comparison), COMPARISON) if comparison else None
        if sae is not None and fingerprint(local_copy(sae)) != tables.lineage.get("sae"):
            raise InputError(f"{sae}: another autoencoder than the one {features} is of.")
        return cls(
            title or "What the features mean",
            tables,
            enriched,
            None
            if compared is None
            else Others.of(compared, tables, [FeatureTables.open(one) for one in others]),
            open_snapshot(Location.of(steering), STEERING) if steering else None,
            batches,
            sae,
            public,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """For the lineage."""
        return {
            "features": self.features.dataset_id,
            "enrichment": self.enrichment and self.enrichment.dataset_id,
            "comparison": self.others and self.others.comparison.dataset_id,
            "others": [one.dataset_id for one in self.others.described.values()] if self.others else [],
            "steering": self.steering and self.steering.dataset_id,
            "batch": self.batch and self.batch.dataset_id,
            "neighbours": self.sae is not None,
            "title": self.title,
            "public": self.public,
        }

    @property
    def alpha(self) -> float:
        return float(self.enrichment.lineage["alpha"]) if self.enrichment else 0.05

    @cached_property
    def hidden_sources(self) -> frozenset[str]:
        """Sources whose rows are left out of a public site: those known to forbid it."""
        if not self.public or self.enrichment is None:
            return frozenset()
        return frozenset(row["source"] for row in self.enrichment.sources if row.get("redistribute") is False)

    def terms(self, key: str) -> pd.DataFrame | None:
        """Rows of the enrichment's `terms` for a range of features, as far as they may be shown."""
        if self.enrichment is None:
            return None
        rows = self.enrichment.table("terms", [key])
        return rows[~rows["source"].isin(self.hidden_sources)]

    @cached_property
    def systems(self) -> dict[tuple[str, str], str]:
        """(source, term id) -> names of the organ systems above a phenotype, joined by `|`."""
        if self.enrichment is None:
            return {}
        known = self.enrichment.catalogue
        known = known[known["systems"] != ""]
        keys = zip(known["source"].tolist(), known["term_id"].tolist(), strict=True)
        return dict(zip(keys, known["systems"].tolist(), strict=True))

    @cached_property
    def described(self) -> pd.DataFrame | None:
        """The enrichment's row of each feature. In a public site, best terms of hidden sources are blank."""
        if self.enrichment is None:
            return None
        table = self.enrichment.features
        hidden = table["best_source"].isin(self.hidden_sources)
        return table.assign(
            best_term=table["best_term"].mask(hidden, ""),
            best_term_id=table["best_term_id"].mask(hidden, ""),
            label=table["label"].mask(
                hidden & (table["n_terms"] > 0), "(from a source that may not be shown)"
            ),
        )

    @cached_property
    def hierarchies(self) -> dict[str, Hierarchy]:
        """Of the sources that may be shown and say what lies under what."""
        # Enrichment made before hierarchies were kept has none.
        if self.enrichment is None or HIERARCHY not in self.enrichment.snapshot.all_objects:
            return {}
        table = self.enrichment.hierarchy
        return hierarchies_of(table[~table["source"].isin(self.hidden_sources)])

    @cached_property
    def neighbours(self) -> Partners | None:
        """The features whose decoder directions are nearest to each one's; None without the autoencoder."""
        return None if self.sae is None else neighbours_of(self.sae)

    @cached_property
    def batch_auroc(self) -> pd.Series | None:
        """How well each feature tells its best batch from the others: 0.5 says nothing."""
        if self.batch is None:
            return None
        table = self.batch.features
        if "best_label_auroc" not in table:
            raise InputError(f"{self.batch.snapshot.location}: made without --label; give a batch column.")
        return table.set_index("feature")["best_label_auroc"]

    @cached_property
    def steering_effects(self) -> dict[int, list[dict[str, Any]]]:
        """Of each feature that was edited alone: dose and the genes whose prediction changed most."""
        if self.steering is None:
            return {}
        names = ("variants.parquet", "genes.parquet")
        variants, genes = (pd.read_parquet(io.BytesIO(self.steering.read(name))) for name in names)
        change = next((name for name in map(str, genes.columns) if name.startswith("change_")), None)
        effects: dict[int, list[dict[str, Any]]] = {}
        for row in variants.to_dict("records"):
            first = str(row["edits"]).split(" ", 1)[0]
            if row["kind"] != "edit" or "," in str(row["edits"]) or not first.isdigit() or change is None:
                continue
            of_variant = genes[genes["variant"] == row["variant"]]
            strongest = of_variant.iloc[np.argsort(-of_variant[change].abs(), kind="stable")[:10]]
            effects.setdefault(int(first), []).append(
                {
                    "edit": str(row["edits"]),
                    "what": change.removeprefix("change_"),
                    "genes": [
                        [str(name), float(f"{value:.4g}")]
                        for name, value in zip(strongest["gene_name"], strongest[change], strict=True)
                    ],
                }
            )
        return effects
