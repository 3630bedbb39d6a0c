"""The dataset of gene-term associations: types, members, what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pandas as pd
import pytest

from storage.databases import (
    ASSOCIATIONS,
    EDGES,
    SCHEMAS,
    TERMS,
    UNMAPPED,
    Databases,
    encoded,
    finish_sources,
    plan_sources,
    write_source,
)
from storage.errors import DamagedDataset, InputError
from storage.inspection import describe

FACTS = {
    "title": "Mine",
    "evidence_group": "pathway",
    "release": "v1",
    "licence": "CC0",
    "licence_url": "u",
    "redistribute": True,
    "attribution": "me",
}


def table(name: str, *rows: tuple[object, ...]) -> bytes:
    return encoded(name, pd.DataFrame(list(rows), columns=SCHEMAS[name].names))


def write(path: Path) -> None:
    dataset = plan_sources(str(path), {"preset": "mine"}, ["sets", "net"])
    sets = {
        ASSOCIATIONS: table(ASSOCIATIONS, ("A", "T1", "sets", "member", float("nan"), "one", "v1")),
        TERMS: table(TERMS, ("T1", "one", ["T0"], "pathway"), ("T0", "all", [], "pathway")),
        UNMAPPED: table(UNMAPPED, ("A", "unmatched", 1)),
    }
    net = {name: table(name) for name in (ASSOCIATIONS, TERMS, UNMAPPED)}
    write_source(dataset, "sets", sets, FACTS)
    write_source(
        dataset, "net", net | {EDGES: table(EDGES, ("A", "B", 900.0))}, FACTS | {"redistribute": False}
    )
    genes = pd.DataFrame([("A", "HGNC:1", "", "", "symbol")], columns=SCHEMAS["genes.parquet"].names)
    finish_sources(dataset, genes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "databases")
    return tmp_path / "databases"


def test_tables_come_back_with_their_types(path: Path) -> None:
    databases = pickle.loads(pickle.dumps(Databases.open(path)))
    assert databases.sources == ["sets", "net"]
    assert databases.networks == ["net"]
    assert databases.associations("sets").iloc[0, :4].tolist() == ["A", "T1", "sets", "member"]
    assert databases.associations("sets")["score"].isna().all()
    assert [list(parents) for parents in databases.terms("sets")["parents"]] == [["T0"], []]
    assert databases.edges("net").to_numpy().tolist() == [["A", "B", 900.0]]
    assert databases.unmapped("sets")["rows"].tolist() == [1]
    assert databases.genes["hgnc_id"].tolist() == ["HGNC:1"]
    assert databases.evidence_group("sets") == "pathway"
    assert databases.licences()["redistribute"].tolist() == [True, False]
    assert databases.facts["n_associations"] == 1
    # An empty table has the types of a full one, so all sources are one table.
    assert len(pd.read_parquet(path / "terms")) == 2


def test_what_is_not_there_is_named(path: Path) -> None:
    databases = Databases.open(path)
    with pytest.raises(InputError, match="no source gencc; there are sets, net"):
        databases.terms("gencc")
    with pytest.raises(InputError, match="sets has no edges"):
        databases.edges("sets")
    with pytest.raises(InputError, match="no dataset"):
        Databases.open(path / "nowhere")


def test_a_missing_table_is_an_error_by_name(path: Path) -> None:
    (path / "terms" / "sets.parquet").unlink()
    with pytest.raises(DamagedDataset, match=r"terms/sets\.parquet"):
        Databases.open(path)


def test_the_same_tables_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "again")
    assert (
        Databases.open(path).snapshot.all_objects == Databases.open(tmp_path / "again").snapshot.all_objects
    )


def test_inspect_shows_sources(path: Path) -> None:
    description = describe(str(path), verify=True)
    assert not description.problems
    assert "sets: 1 associations, release v1" in description.sample
