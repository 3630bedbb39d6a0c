"""What our searches are measured against: faiss, hnswlib and LanceDB, each as it would be used.

faiss and hnswlib run on one thread; LanceDB decides itself, and its CPU time is that of all its threads.
"""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import hnswlib
import lancedb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from lancedb.index import IvfPq

from tests.benchmarks.vectors.clustered import Float32

Rows = npt.NDArray[np.int64]
K = 10

# Its stubs do not know the arguments that its Python layer adds.
keyworded: Any = faiss


class Only(NamedTuple):
    """Rows that may be found, as faiss takes it and as a database does."""

    mask: npt.NDArray[np.bool_]
    where: str


class Alternative(NamedTuple):
    """search: rows found for one query, among some only if they are given. build_seconds: of CPU time.
    memory_bytes: that building it added to the process, beside the vectors it was built from.
    """

    name: str
    build_seconds: float
    memory_bytes: int
    search: Callable[[Float32, Only | None], Rows]


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    gc.collect()
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


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
        "faiss HNSW32, ef 64", make, cells, lambda sel: keyworded.SearchParametersHNSW(efSearch=64, sel=sel)
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
        lambda sel: keyworded.SearchParametersIVF(nprobe=32, sel=sel),
    )


def hnswlib_graph(cells: Float32) -> Alternative:
    before, started = anonymous_bytes(), time.process_time()
    graph = hnswlib.Index(space="ip", dim=cells.shape[1])
    graph.init_index(len(cells), ef_construction=80, M=16, random_seed=0)
    graph.set_num_threads(1)
    graph.add_items(cells, num_threads=1)
    graph.set_ef(64)
    spent, memory = time.process_time() - started, anonymous_bytes() - before

    def search(query_D: Float32, only: Only | None) -> Rows:
        # Its filter is a Python function called for every row it meets.
        allowed = None if only is None else only.mask.__getitem__
        rows, _ = graph.knn_query(query_D[None], K, num_threads=1, filter=allowed)
        found: Rows = rows[0].astype(np.int64)
        return found

    return Alternative("hnswlib M16, ef 64", spent, memory, search)


def lance_ivf_pq(cells: Float32, obs: pd.DataFrame, folder: Path) -> Alternative:
    """Inverted lists of product-quantised vectors, 20 K of them rescored; conditions before that, as SQL."""
    n, width = cells.shape
    before, started = anonymous_bytes(), time.process_time()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(cells.reshape(-1)), width)
    columns = {name: pa.array(obs[name].to_numpy()) for name in obs.columns}
    rows = pa.table({"row": np.arange(n), "vector": vectors, **columns})
    table: Any = lancedb.connect(folder).create_table("cells", rows)
    n_lists = max(16, int(n**0.5))
    config = IvfPq(distance_type="dot", num_partitions=n_lists, num_sub_vectors=width // 8)
    table.create_index("vector", config=config)
    spent, memory = time.process_time() - started, anonymous_bytes() - before

    def search(query_D: Float32, only: Only | None) -> Rows:
        asked = table.search(query_D).distance_type("dot").limit(K).select(["row", "_distance"])
        asked = asked.nprobes(32).refine_factor(20)
        if only is not None:
            asked = asked.where(only.where, prefilter=True)
        found: Rows = asked.to_arrow()["row"].to_numpy()
        return found

    return Alternative(f"LanceDB IVF{n_lists}-PQ, nprobe 32, refine 20", spent, memory, search)


def _built(
    name: str,
    make: Callable[[], faiss.Index],
    cells: Float32,
    parameters: Callable[[faiss.IDSelector | None], faiss.SearchParameters] | None,
) -> Alternative:
    faiss.omp_set_num_threads(1)
    before, started = anonymous_bytes(), time.process_time()
    index = make()
    if not index.is_trained:
        index.train(cells[: 64 * 1_024])
    index.add(cells)
    spent, memory = time.process_time() - started, anonymous_bytes() - before
    given = parameters or (lambda sel: keyworded.SearchParameters(sel=sel))
    everything = given(None)

    def search(query_D: Float32, only: Only | None) -> Rows:
        chosen = everything
        if only is not None:
            chosen = given(keyworded.IDSelectorBitmap(np.packbits(only.mask, bitorder="little")))
        rows: Rows = index.search(query_D[None], K, params=chosen)[1][0]
        return rows[rows >= 0]

    return Alternative(name, spent, memory, search)
