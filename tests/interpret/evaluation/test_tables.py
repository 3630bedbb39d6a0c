"""What tables say of features that hardly fire."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.interpret.evaluation.inputs import GENE
from engine.interpret.evaluation.reconstruction import Reconstruction
from engine.interpret.evaluation.tables import density_table, dictionary_row


@pytest.fixture
def features() -> pd.DataFrame:
    """Silent, once on a gene, often on a gene, often on many, nearly always."""
    return pd.DataFrame(
        {
            "feature": np.arange(5),
            "n_tokens": [0, 1, 500, 500, 9000],
            "density": [0.0, 1e-4, 0.05, 0.05, 0.9],
            "gene_entropy": [np.nan, 0.0, 0.2, 6.0, 8.0],
        }
    )


def test_shares_are_of_features_that_can_be_judged(features: pd.DataFrame) -> None:
    row = dictionary_row(Reconstruction.empty(np.zeros(3), 1, 1), 0, features, GENE)
    assert row["dead_share"] == pytest.approx(1 / 5)
    assert row["ultra_dense_share"] == pytest.approx(1 / 4)
    # One activation lies on one gene whatever the feature.
    assert row["single_gene_share"] == pytest.approx(1 / 3)


def test_every_feature_is_in_one_bin_of_density(features: pd.DataFrame) -> None:
    table = density_table({"sae": features})
    assert table["n_features"].sum() == len(features)
    silent = table["log10_low"].isna()
    assert table.loc[silent, "n_features"].tolist() == [1]
    around = table[(table["log10_low"] <= np.log10(0.05)) & (np.log10(0.05) < table["log10_high"])]
    assert around["n_features"].tolist() == [2]
