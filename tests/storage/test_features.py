"""Feature tables: written range by range, read together, refused when damaged."""

import pickle

import pandas as pd
import pytest

from storage.errors import DamagedDataset, InputError, LineageMismatch
from storage.features import FeatureTables, finish_tables, plan_tables, read_table, write_range
from storage.locations import Location

NAMES = ("features", "top_genes", "top_cells", "labels", "histograms", "partners")
TABLES = {
    "features": pd.DataFrame({"feature": [0, 1], "density": [0.5, 0.0], "top_gene": ["CD3E", None]}),
    "top_genes": pd.DataFrame({"feature": [0], "rank": [0], "gene_name": ["CD3E"]}),
    "top_cells": pd.DataFrame({"feature": [0], "rank": [0], "cell": [17]}),
    "labels": pd.DataFrame({"feature": [0, 0], "label": ["B", "T"]}),
    "histograms": pd.DataFrame({"feature": [0], "bin": [3], "n_tokens": [2]}),
    "partners": pd.DataFrame({"feature": [0], "rank": [0], "partner": [1]}),
}
GENES = pd.DataFrame({"gene": [0, 1], "n_tokens": [4, 0]})
PRODUCTS = {"feature_gene_associations.json": b'{"0": {}}'}


def write(place: Location) -> FeatureTables:
    """Features 0 and 1 with rows, feature 2 without."""
    dataset = plan_tables(place, {"sae": "abc"}, [0, 2, 3])
    write_range(dataset, "00000", TABLES, {"n_pairs": 7})
    silent = {name: table.iloc[:0] for name, table in TABLES.items()}
    silent["features"] = pd.DataFrame({"feature": [2], "density": [0.0], "top_gene": [None]})
    write_range(dataset, "00001", silent)
    finish_tables(dataset, GENES, PRODUCTS, {"top_genes": 20})
    return FeatureTables.open(place)


def test_tables_and_products_read_back(place: Location) -> None:
    found = pickle.loads(pickle.dumps(write(place)))
    for name in NAMES[1:]:
        pd.testing.assert_frame_equal(found.table(name), TABLES[name])
        pd.testing.assert_frame_equal(found.table(name, ["00000"]), TABLES[name])
        assert found.table(name, ["00001"]).empty
    assert found.features["feature"].tolist() == [0, 1, 2]
    assert found.labels["label"].tolist() == ["B", "T"]
    pd.testing.assert_frame_equal(found.genes, GENES)
    assert found.ranges == ["00000", "00001"]
    assert found.product("feature_gene_associations.json") == b'{"0": {}}'
    assert found.facts == {"top_genes": 20}
    assert found.lineage == {"sae": "abc"}
    facts = found.snapshot.members[0].facts
    assert (facts["n_features"], facts["n_pairs"]) == (2, 7)


def test_a_range_can_be_read_before_the_others_are_written(near_place: Location) -> None:
    dataset = plan_tables(near_place, {}, [0, 2, 3])
    write_range(dataset, "00000", TABLES)
    pd.testing.assert_frame_equal(read_table(dataset, "labels", ["00000"]), TABLES["labels"])
    with pytest.raises(InputError, match="1 of 2 members"):
        finish_tables(dataset, GENES, {}, {})


def test_writing_again_changes_nothing_and_other_lineage_is_refused(near_place: Location) -> None:
    first = write(near_place)
    assert write(near_place).dataset_id == first.dataset_id
    with pytest.raises(LineageMismatch):
        plan_tables(near_place, {"sae": "def"}, [0, 2, 3])
    with pytest.raises(LineageMismatch):
        plan_tables(near_place, {"sae": "abc"}, [0, 1, 3])
    assert plan_tables(near_place, {"sae": "def"}, [0, 3], overwrite=True).pending()


def test_incomplete_tables_are_refused(near_place: Location) -> None:
    dataset = plan_tables(near_place, {}, [0, 2])
    with pytest.raises(ValueError, match="without top_cells, labels"):
        write_range(dataset, "00000", {name: TABLES[name] for name in ("features", "top_genes")})
    with pytest.raises(InputError, match="not finished"):
        FeatureTables.open(near_place)


def test_what_is_not_there_or_damaged_is_an_error_by_name(near_place: Location) -> None:
    found = write(near_place)
    with pytest.raises(InputError, match=r"no table enrichment; there are features, top_genes"):
        found.table("enrichment")
    with pytest.raises(InputError, match=r"no notes\.txt; there are .*features/00000\.parquet"):
        found.product("notes.txt")
    name = "labels/00000.parquet"
    content = near_place.read(name)
    near_place.put(name, bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DamagedDataset, match=r"labels/00000\.parquet"):
        _ = found.labels
    near_place.delete(name)
    with pytest.raises(DamagedDataset, match=r"labels/00000\.parquet: missing"):
        FeatureTables.open(near_place)
