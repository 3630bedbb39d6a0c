"""`index` and `search` on the command line, from embeddings to answers."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from jobs.__main__ import main
from storage.index import VectorIndex
from storage.inspection import describe
from tests.retrieval.inputs import clustered, write_embeddings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs")
    write_embeddings(str(path / "embeddings"), *clustered(300))
    write_embeddings(str(path / "more"), *clustered(60, seed=1))
    write_embeddings(str(path / "foreign"), *clustered(20, seed=2), model="another")
    assert index(path / "index", "--embeddings", path / "embeddings", "--short-dims", 16) == 0
    return path


def index(output: Path, *flags: object) -> int:
    return main(["index", "--output", str(output), *map(str, flags)])


def search(folder: Path, *flags: object) -> int:
    return main(["search", "--index", str(folder / "index"), *map(str, flags)])


def answers(printed: str) -> pd.DataFrame:
    hits = json.loads(printed.strip().splitlines()[-1])["facts"]["hits"]
    return pd.DataFrame([{**hit["obs"], **hit} for hit in hits])


def test_cells_like_some_cells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = "n_genes > 500"
    assert search(folder, "--cells-query", "cell_type = 'type 4'", "--filter", where, "--json") == 0
    printed = capsys.readouterr().out
    hits = answers(printed)
    assert "cell0-" in printed.splitlines()[2]
    assert hits["rank"].tolist() == list(range(1, 11))
    assert hits["score"].is_monotonic_decreasing
    assert (hits["n_genes"] > 500).all()
    # The rest of cluster 4 has no type: those are nearest, and the cells of the query are no answers.
    assert hits["cell_type"].isna().sum() >= 2
    assert not (hits["cell_type"] == "type 4").any()


def test_every_cell_of_embeddings_is_a_query(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--query-embeddings", folder / "embeddings", "--max-cells", 5, "--top-k", 2, "--json"]
    assert search(folder, *flags, "--output", folder / "hits.json") == 0
    hits = answers(capsys.readouterr().out)
    first = hits[hits["rank"] == 1]
    assert first["query"].tolist() == first["name"].tolist() == [f"cell0-{row}" for row in range(5)]
    np.testing.assert_allclose(first["score"], 1, atol=1e-3)
    assert json.loads((folder / "hits.json").read_text())[0]["name"] == "cell0-0"


def test_like_some_and_unlike_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "--cells-query",
        "cell_type = 'type 4'",
        "--minus",
        "cell_type = 'type 6'",
        "--top-k",
        "20",
        "--json",
    ]
    assert search(folder, *asked) == 0
    hits = answers(capsys.readouterr().out)
    vectors, obs = clustered(300)
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    like, unlike = (unit[(obs["cell_type"] == kind).to_numpy()].mean(axis=0) for kind in ("type 4", "type 6"))
    scores = unit @ (like / np.linalg.norm(like) - unlike / np.linalg.norm(unlike))
    scores[obs["cell_type"].isin(["type 4", "type 6"])] = -np.inf
    assert set(hits["row"]) == set(np.argsort(-scores)[:20])


def test_a_cell_of_several_kinds_is_said_to_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(folder, "--cells-query", "row >= 0 and row < 200", "--how", "exact") == 0
    assert "200 cells, alike to 0." in (printed := capsys.readouterr().out)
    assert "several kinds" in printed


def test_changing_an_index(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "index"
    build = ["--embeddings", folder / "embeddings", "--short-dims", 16, "--columns", "tissue,n_genes"]
    assert index(place, *build) == 0
    assert index(place, "--append", "--embeddings", folder / "more") == 0
    assert index(place, "--append", "--embeddings", folder / "more") == 0
    assert "already complete" in capsys.readouterr().err
    assert index(place, "--delete", "row < 90") == 0
    assert "after --compact: many rows are deleted" in capsys.readouterr().out
    assert index(place, "--delete", "row < 100", "--compact") == 0
    changed = VectorIndex.open(str(place))
    assert (changed.n_cells, len(changed.segments)) == (260, 1)
    description = describe(str(place), verify=True)
    assert not description.problems
    assert "260 cells" in description.sample
    assert index(place, *build) == 0
    assert VectorIndex.open(str(place)).version == changed.version
    assert anndata.read_zarr(folder / "more").n_obs == 60


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query-embeddings", "foreign", "--minus", "row = 1"], "--minus takes something away from"),
        ([], "give --query, --cells-query or --query-embeddings"),
        (["--cells-query", "row = 1", "--top-k", "101"], "--top-k is 101; it must be 1 to 100"),
        (["--cells-query", "row = 1000"], "no cell of the index passes"),
        (["--cells-query", "row = 1", "--filter", "age > 3"], "no column age"),
        (["--query-embeddings", "foreign"], "vectors of two models cannot be compared"),
        (["--cells-query", "row = 1", "--index-version", "3"], "no version 3; there are 1 to 1"),
    ],
)
def test_search_refuses(
    folder: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(folder, *[folder / "foreign" if flag == "foreign" else flag for flag in flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--embeddings is missing: say which"),
        (["--embeddings", "E", "--short-dims", "49"], "short codes of 49 dimensions; the embeddings have 48"),
        (["--embeddings", "E", "--columns", "age"], "no obs column age; there are tissue"),
        (["--embeddings", "E", "--sort-by", "age"], "no obs column age to sort by"),
        (["--embeddings", "E", "--segment-cells", "0"], "--segment-cells must be at least 1"),
        (["--append"], "takes --embeddings or --cells exactly with --append"),
        (["--delete", "row = 1"], "no dataset here"),
    ],
)
def test_index_refuses(
    folder: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [folder / "embeddings" if flag == "E" else flag for flag in flags]
    assert index(tmp_path / "out", *given) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
