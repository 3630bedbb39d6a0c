"""The batched search on a torch device finds what the exact search finds; here on the CPU, and where there is
one on a GPU.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from engine.retrieval import device
from engine.retrieval.device import DeviceSearcher
from engine.retrieval.search import Searcher
from storage.errors import InputError
from storage.index import VectorIndex, versions
from storage.locations import Location
from tests.retrieval.inputs import built, clustered

QUERIES = clustered(7, seed=5)[0]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    whole = built(Location.of(tmp_path_factory.mktemp("index")), n_cells=1_200, segment_cells=500)
    return versions.delete(whole, np.arange(10, 40))


NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def searcher(
    request: pytest.FixtureRequest, index: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DeviceSearcher]:
    # So that a segment takes more than one product, and the queries more than one batch.
    monkeypatch.setattr(device, "_ROWS", 300)
    monkeypatch.setattr(device, "_QUERIES", 4)
    return DeviceSearcher(index, request.param)


@pytest.mark.parametrize("where", [None, "tissue = 'skin'", "row in (4, 12, 700)"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_as_exact_search(searcher: DeviceSearcher, index: VectorIndex, k: int, where: str | None) -> None:
    one_by_one = Searcher(index)
    for query, found in zip(QUERIES, searcher.search(QUERIES, k, where=where), strict=True):
        expected = one_by_one.search(query, k, where=where, how="exact")
        np.testing.assert_allclose(found.score, expected.score, atol=1e-5)
        assert (found.cell == expected.cell).mean() > 0.95  # equals may change places
        assert (found.n_passing, found.version) == (expected.n_passing, expected.version)


def test_scores_of_all_rows(searcher: DeviceSearcher, index: VectorIndex) -> None:
    np.testing.assert_allclose(searcher.scores(QUERIES[0]), Searcher(index).scores(QUERIES[0]), atol=2e-3)


def test_refusals(searcher: DeviceSearcher, index: VectorIndex) -> None:
    with pytest.raises(InputError, match="the index holds 48-d vectors"):
        searcher.search(np.ones((1, 3), np.float32))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU that torch can use"):
            DeviceSearcher(index, "cuda")


def test_a_gpu_on_the_command_line(index: VectorIndex, capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.__main__ import main

    asked = [
        "search",
        "--index",
        str(index.snapshot.location),
        "--cells-query",
        "row = 3",
        "--device",
        "cuda",
    ]
    assert main([*asked, "--metric", "dot"]) == 2
    assert "leave --metric and --how out" in capsys.readouterr().err
    assert main(asked) == (0 if torch.cuda.is_available() else 2)
