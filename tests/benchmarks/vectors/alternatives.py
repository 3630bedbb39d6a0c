"""What our searches are measured against: indexes of faiss, each as it would be used, on one thread."""

import time
from collections.abc import Callable
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from tests.benchmarks.vectors.clustered import Float32

Rows = npt.NDArray[np.int64]
K = 10


class Alternative(NamedTuple):
    """search: rows found for one query; with a mask, among those it passes. build_seconds: of CPU time."""

    name: str
    build_seconds: float
    search: Callable[[Float32, npt.NDArray[np.bool_] | None], Rows]


def flat(cells: Float32) -> Alternative:
    return _built("faiss Flat fp32", lambda: faiss.IndexFlatIP(cells.shape[1]), cells, None)


def half(cells: Float32) -> Alternative:
    kind = faiss.ScalarQuantizer.QT_fp16
    make = lambda: faiss.IndexScalarQuantizer(cells.shape[1], kind, faiss.METRIC_INNER_PRODUCT)  # noqa: E731
    return _built("faiss SQ fp16", make, cells, None)


def hnsw(cells: Float32) -> Alternative:
    def make() -> faiss.Index:
        graph = faiss.IndexHNSWFlat(cells.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 80
        return graph

    return _built(
        "faiss HNSW32, ef 64", make, cells, lambda sel: faiss.SearchParametersHNSW(efSearch=64, sel=sel)
    )


def ivf(cells: Float32) -> Alternative:
    n_lists = 1_024 if len(cells) > 200_000 else max(16, int(4 * len(cells) ** 0.5))
    make = lambda: faiss.index_factory(  # noqa: E731
        cells.shape[1], f"IVF{n_lists},SQ8", faiss.METRIC_INNER_PRODUCT
    )
    return _built(
        f"faiss IVF{n_lists}-SQ8, nprobe 32",
        make,
        cells,
        lambda sel: faiss.SearchParametersIVF(nprobe=32, sel=sel),
    )


def _built(
    name: str,
    make: Callable[[], faiss.Index],
    cells: Float32,
    parameters: Callable[[faiss.IDSelector | None], faiss.SearchParameters] | None,
) -> Alternative:
    faiss.omp_set_num_threads(1)
    started = time.process_time()
    index = make()
    if not index.is_trained:
        index.train(cells[: 64 * 1_024])
    index.add(cells)
    spent = time.process_time() - started
    given = parameters or (lambda sel: faiss.SearchParameters(sel=sel))
    everything = given(None)

    def search(query_D: Float32, mask: npt.NDArray[np.bool_] | None) -> Rows:
        chosen = everything
        if mask is not None:
            chosen = given(faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")))
        rows: Rows = index.search(query_D[None], K, params=chosen)[1][0]
        return rows[rows >= 0]

    return Alternative(name, spent, search)
