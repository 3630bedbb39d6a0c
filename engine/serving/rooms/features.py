"""What the features of a sparse autoencoder mean: their tables, searched and paged."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.models import sae
from engine.serving.problems import Problem
from engine.serving.rooms.cell_view import Scores, levels_of
from engine.serving.settings import Settings
from storage.checkpoints import local_copy
from storage.errors import InputError
from storage.features import FeatureTables

_NEIGHBOURS = 10


class FeatureRoom:
    """Feature tables in memory, rows found by feature."""

    def __init__(self, settings: Settings) -> None:
        if settings.features is None:
            raise ValueError("a room of features needs feature tables")
        self._tables = FeatureTables.open(settings.features)
        self._features = self._tables.features.set_index("feature", drop=False)
        self._decoder_FD = None if settings.sae is None else unit_decoder(settings.sae, len(self._features))
        columns = (self._features[name].astype(int).tolist() for name in ("feature", "n_cells"))
        self._fired = dict(zip(*columns, strict=True))
        self._genes = _by_feature(self._tables.top_genes)
        self._cells = _by_feature(self._tables.top_cells)
        self._labels = _by_feature(self._tables.labels)
        self._gene_text = {
            feature: " ".join(rows["gene_name"].astype(str)).upper() for feature, rows in self._genes.items()
        }

    def facts(self) -> dict[str, Any]:
        return {
            "features": str(self._tables.snapshot.location),
            "dataset_id": self._tables.dataset_id,
            "n_features": len(self._features),
            "columns": list(map(str, self._features.columns)),
        }

    def page(self, gene: str | None, sort: str, start: int, most: int) -> dict[str, Any]:
        """Features, largest first by a column; with a gene, those that have it among their top genes."""
        if sort not in self._features:
            detail = f"no column {sort!r}; there are {', '.join(map(str, self._features.columns))}"
            raise Problem(400, "no_column", detail)
        rows = self._features
        if gene:
            wanted = [f for f, text in self._gene_text.items() if gene.upper() in text.split()]
            rows = rows.loc[rows.index.isin(wanted)]
        ordered = rows.sort_values(sort, ascending=False, kind="stable")
        return {"total": len(ordered), "features": records(ordered.iloc[start : start + most])}

    def feature(self, number: int) -> dict[str, Any]:
        if number not in self._features.index:
            raise Problem(404, "no_feature", f"no feature {number}; there are {len(self._features):,}")
        return {
            **records(self._features.loc[[number]])[0],
            "top_genes": records(self._genes.get(number)),
            "top_cells": records(self._cells.get(number)),
            "labels": records(self._labels.get(number)),
            "neighbours": self._neighbours(number),
        }

    def _neighbours(self, number: int) -> list[dict[str, Any]]:
        """Features whose decoder directions are nearest, by cosine; none without --sae."""
        if self._decoder_FD is None:
            return []
        cosine_F = self._decoder_FD @ self._decoder_FD[number]
        nearest = np.argsort(-cosine_F, kind="stable")[1 : _NEIGHBOURS + 1]
        return [{"feature": int(f), "cosine": round(float(cosine_F[f]), 4)} for f in nearest]

    def of_cells(self, ids: npt.NDArray[np.int64], most: int) -> list[dict[str, Any]]:
        """Features that have the most of their top cells among these, with that number and top genes."""
        table = self._tables.top_cells
        own = table[table["cell"].isin(ids)].groupby("feature").size()
        total = table.groupby("feature").size()
        share = (own / total[own.index]).sort_values(ascending=False, kind="stable")
        share = share[own[share.index] >= 2][:most]
        return [
            {
                "feature": int(feature),
                "top_cells_here": int(own[feature]),
                "top_cells": int(total[feature]),
                "genes": self._genes[feature]["gene_name"].astype(str).head(6).tolist()
                if feature in self._genes
                else [],
            }
            for feature in share.index
        ]

    def top_cells(self, number: int) -> list[tuple[int, float]]:
        rows = self._cells.get(number)
        if number not in self._features.index:
            raise Problem(404, "no_feature", f"no feature {number}; there are {len(self._features):,}")
        if rows is None:
            return []
        return list(zip(rows["cell"].astype(int), rows["max_activation"].astype(float), strict=True))

    def levels(self, number: int, ids: npt.NDArray[np.int64]) -> tuple[Scores, int, int]:
        """The largest activation in each of these ascending cells, a byte each; in how many cells the tables
        list it, and in how many it fires. Where they list fewer (`features --top-cells`), it is not known of
        the others; where they list all, it is silent in the others.
        """
        listed = self.top_cells(number)
        n_fired: int = self._fired[number]
        values_N = np.full(len(ids), 0.0 if len(listed) >= n_fired else np.nan, np.float32)
        cells = np.array([cell for cell, _ in listed], np.int64)
        here = np.isin(cells, ids)
        values_N[np.searchsorted(ids, cells[here])] = np.array([value for _, value in listed])[here]
        return levels_of(values_N), len(listed), n_fired


def unit_decoder(path: str, n_features: int) -> npt.NDArray[np.float32]:
    """`[F, D]` directions of the features. Raises InputError when there is another number of them."""
    decoder_FD = sae.load(local_copy(path)).W_dec.detach().float().numpy()
    if len(decoder_FD) != n_features:
        raise InputError(f"{path}: {len(decoder_FD):,} features, but the tables have {n_features:,}")
    unit: npt.NDArray[np.float32] = decoder_FD / np.linalg.norm(decoder_FD, axis=1, keepdims=True).clip(1e-12)
    return unit


def _by_feature(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    return {int(str(feature)): rows for feature, rows in table.groupby("feature", sort=False)}


def records(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows as JSON: missing and infinite numbers are null."""
    if table is None:
        return []
    plain = table.astype(object).where(table.notna() & ~table.isin([np.inf, -np.inf]), None)
    return [
        {str(name): value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
