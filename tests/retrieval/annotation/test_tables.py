"""obs and var as CELLxGENE takes them."""

import numpy as np
import pandas as pd

from engine.retrieval.annotation.tables import organism_of, shown_obs, shown_var, unique_names


def test_obs_columns() -> None:
    n = 600
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(["a", "b"] * 300),
            "note": [f"note {i}" for i in range(n)],
            "text": ["x"] * (n - 1) + [None],
            "count": np.arange(n, dtype=np.int64),
            "large": np.full(n, 1 << 40),
            "gaps": pd.array([1] * (n - 1) + [None], dtype="Int64"),
            "score": np.linspace(0, 1, n),
            "kept": np.arange(n) % 2 == 0,
            "series_submission_date": ["2019-07-01"] * (n - 1) + ["broken"],
        },
        index=["same"] * 2 + [f"c{i}" for i in range(n - 2)],
    )
    shown = shown_obs(obs)
    assert "note" not in shown  # more than 500 categories
    assert shown["count"].dtype == np.int32
    assert {str(shown[name].dtype) for name in ("large", "gaps", "score")} == {"float32"}
    assert {str(shown[name].dtype) for name in ("kind", "text")} == {"category"}
    assert shown["kept"].dtype == bool
    assert shown.index.is_unique
    assert list(shown.index[:3]) == ["same", "same-1", "c0"]
    assert np.allclose(shown["series_submission_date_cont"], 2019.496, atol=2e-3)


def test_gene_names_are_unique() -> None:
    var = pd.DataFrame({"gene_name": ["A", "B", "A"], "n": np.arange(3)}, index=["e1", "e2", "e3"])
    shown = shown_var(var, np.array([0.1, 0.2, 0.3]))
    assert list(shown["gene_name"]) == ["A", "B", "A_e3"]
    assert shown["log1p_normalizer"].dtype == np.float32
    assert shown["n"].dtype == np.int32
    assert list(shown.index) == ["e1", "e2", "e3"]


def test_names_and_organism() -> None:
    assert unique_names(pd.Index(["a", "a", "a-1", "a"])) == ["a", "a-2", "a-1", "a-3"]
    assert organism_of(pd.DataFrame({"organism": ["Mus musculus"]})) == ("mouse", "NCBITaxon:10090")
    assert organism_of(pd.DataFrame(index=["c"])) == ("human", "NCBITaxon:9606")
