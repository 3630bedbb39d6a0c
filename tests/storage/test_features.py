"""Feature tables: written together, read together, refused when damaged."""

import pickle

import pandas as pd
import pytest

from storage.errors import DamagedDataset, InputError, LineageMismatch
from storage.features import FeatureTables, plan_tables, write_tables
from storage.locations import Location

TABLES = {
    "features": pd.DataFrame({"feature": [0, 1], "density": [0.5, 0.0], "top_gene": ["CD3E", None]}),
    "top_genes": pd.DataFrame({"feature": [0], "rank": [0], "gene_name": ["CD3E"]}),
    "top_cells": pd.DataFrame({"feature": [0], "rank": [0], "cell": [17]}),
    "labels": pd.DataFrame({"feature": [0, 0], "label": pd.Categorical(["B", "T"])}),
    "projection": pd.DataFrame({"x": [0.1]}),
}
PRODUCTS = {"feature_gene_associations.json": b'{"0": {}}'}


def write(place: Location) -> FeatureTables:
    write_tables(plan_tables(place, {"sae": "abc"}), TABLES, PRODUCTS, {"top_genes": 20})
    return FeatureTables.open(place)


def test_tables_and_products_read_back(place: Location) -> None:
    found = pickle.loads(pickle.dumps(write(place)))
    for name in ("features", "top_genes", "top_cells", "labels"):
        pd.testing.assert_frame_equal(getattr(found, name), TABLES[name])
    pd.testing.assert_frame_equal(found.table("projection"), TABLES["projection"])
    assert found.product("feature_gene_associations.json") == b'{"0": {}}'
    assert found.facts == {"top_genes": 20}
    assert found.lineage == {"sae": "abc"}
    assert found.snapshot.members[0].facts["n_features"] == 2


def test_writing_again_changes_nothing_and_other_lineage_is_refused(near_place: Location) -> None:
    first = write(near_place)
    assert write(near_place).dataset_id == first.dataset_id
    with pytest.raises(LineageMismatch):
        plan_tables(near_place, {"sae": "def"})
    assert plan_tables(near_place, {"sae": "def"}, overwrite=True).pending()


def test_incomplete_tables_are_refused(near_place: Location) -> None:
    with pytest.raises(ValueError, match="without top_cells, labels"):
        write_tables(plan_tables(near_place, {}), {name: TABLES[name] for name in ("features", "top_genes")})
    with pytest.raises(InputError, match="not finished"):
        FeatureTables.open(near_place)


def test_what_is_not_there_or_damaged_is_an_error_by_name(near_place: Location) -> None:
    found = write(near_place)
    with pytest.raises(InputError, match=r"no enrichment\.parquet; there are .*features\.parquet"):
        found.table("enrichment")
    content = near_place.read("labels.parquet")
    near_place.put("labels.parquet", bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DamagedDataset, match=r"labels\.parquet"):
        _ = found.labels
    near_place.delete("labels.parquet")
    with pytest.raises(DamagedDataset, match=r"labels\.parquet: missing"):
        FeatureTables.open(near_place)
