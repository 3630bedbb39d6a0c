"""Building: a killed build resumes to the same bytes; places without files; real cells find their kind."""

from pathlib import Path

import anndata
import numpy as np
import pytest
import xxhash
from scipy import sparse

from engine.retrieval.build import IndexOptions, Source, build
from engine.retrieval.search import Searcher
from storage.commits import Dataset
from storage.locations import Location
from tests.retrieval.inputs import clustered, write_embeddings

OPTIONS = IndexOptions(short_width=16, segment_cells=200, ivf_lists=4)


def hashes(place: Location) -> dict[str, str]:
    return {name: xxhash.xxh3_128_hexdigest(place.read(name)) for name in place.list()}


def test_a_killed_build_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    write_embeddings(place / "e", *clustered(700), chunk=128)
    source = Source.open(place / "e", None, None)

    class Killed(Exception):
        pass

    def killed_after_two(done: int, total: int, unit: str) -> None:
        assert (total, unit) == (700, "cells")
        if done == 400:
            raise Killed

    with pytest.raises(Killed):
        build(source, place / "killed", OPTIONS, report=killed_after_two)
    assert [member.key for member in Dataset.open(place / "killed").pending()] == ["00002", "00003"]
    resumed, did_work = build(source, place / "killed", OPTIONS)
    assert did_work
    build(source, place / "whole", OPTIONS)
    assert hashes(place / "killed") == hashes(place / "whole")
    assert resumed.facts["shortlist"]["n_rows"] == 700


def test_every_way_of_searching_without_files_to_map(near_place: Location) -> None:
    vectors, obs = clustered(700)
    write_embeddings(near_place / "e", vectors, obs, chunk=128)
    index, _ = build(Source.open(near_place / "e", ("n_genes",), 600), near_place / "i", OPTIONS)
    searcher = Searcher(index)
    for how in ("exact", "shortlist", "ivf"):
        found = searcher.search(vectors[17], 3, how=how, shortlist=100 if how == "shortlist" else None)  # type: ignore[arg-type]
        assert found.cell[0] == 17
        assert found.score[0] == pytest.approx(1, abs=1e-3)
        assert (found.cell < 600).all()


def principal_components(counts: sparse.csr_matrix, n: int) -> np.ndarray:
    """Of log-normalised counts of the 300 most variable genes."""
    logged = (sparse.diags(1e4 / counts.sum(axis=1).A1) @ counts).log1p()
    variance = logged.multiply(logged).mean(axis=0).A1 - np.square(logged.mean(axis=0).A1)
    dense = logged[:, np.argsort(-variance)[:300]].toarray()
    dense -= dense.mean(axis=0)
    _, directions = np.linalg.eigh(dense.T @ dense)
    return (dense @ directions[:, -n:]).astype(np.float32)


def test_real_blood_cells_find_their_kind(shared: Path, tmp_path: Path) -> None:
    """2,638 blood cells: neighbours are of the same annotated type, whichever way they are searched, and a
    condition that leaves out the query's own surroundings loses nothing.
    """
    cells = anndata.read_h5ad(shared / "data" / "pbmc3k.h5ad")
    label = next(name for name in ("cell_type", "louvain", "label") if name in cells.obs)
    vectors = principal_components(sparse.csr_matrix(cells.X, dtype=np.float64), 40)
    write_embeddings(str(tmp_path / "e"), vectors, cells.obs[[label]], chunk=1_024)
    source = Source.open(str(tmp_path / "e"), None, None)
    index, _ = build(source, Location.of(tmp_path / "i"), IndexOptions(short_width=16))
    searcher, types = Searcher(index), cells.obs[label].astype(str).to_numpy()
    drawn = np.random.default_rng(0).choice(len(vectors), 60, replace=False)
    same, agreeing = [], []
    for row in drawn:
        exact = searcher.search(vectors[row], 11, how="exact").cell
        agreeing.append(np.isin(exact, searcher.search(vectors[row], 11, how="shortlist").cell).mean())
        same.append((types[exact[exact != row]] == types[row]).mean())
        where = f"{label} != '{types[row]}'"
        elsewhere = [searcher.search(vectors[row], 10, where=where, how=how) for how in ("exact", "auto")]  # type: ignore[arg-type]
        np.testing.assert_array_equal(elsewhere[0].cell, elsewhere[1].cell)
        assert not (types[elsewhere[0].cell] == types[row]).any()
    assert np.mean(same) > 0.8
    assert np.mean(agreeing) > 0.99
