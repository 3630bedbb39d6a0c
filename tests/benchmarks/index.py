"""Searching an index of cells: time, recall, conditions, opening, building; against faiss, hnswlib, LanceDB
and plain numpy.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from engine.retrieval.build import IndexOptions, Source, build
from engine.retrieval.search import Searcher
from storage.index import VectorIndex
from storage.locations import Location
from tests.benchmarks.report import Figure, main
from tests.benchmarks.vectors import alternatives
from tests.benchmarks.vectors.alternatives import Alternative, K, Only, Rows, anonymous_bytes
from tests.benchmarks.vectors.clustered import Clustered, Float32, clustered, conditions
from tests.retrieval.inputs import write_embeddings

ABOUT = """Ten nearest of 50,000 and of 1,000,000 made-up 512-d joint embeddings (300 classes of Zipf sizes in
30 families) to text-like queries, which lie a modality gap away, and to held-out cells; one query at a time,
one thread, CPU milliseconds a query, best of three passes that take turns. Recall is the share of the ten
nearest by float32 brute force; regret the mean cosine lost against them (text queries have thousands of near
ties, which recall counts and regret does not). Conditions pass whole families or types, as a tissue does, or
rows at random; faiss gets them as a bitmap, ours and LanceDB as text; ours remembers what a condition passes
after the first query, as in a session. Memory is what building an index added to the process that no file
backs; ours and LanceDB's lie in files that are mapped or read as needed. LanceDB runs on as many threads as
it likes. Graphs are not built at 1,000,000: that takes longer than all the rest."""

PASSES = 3
Search = Callable[[Float32], Rows]


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    if smoke:
        return list(measured(scratch / "smoke", "4k", 4_000, 64, 5))
    return [
        *measured(scratch / "small", "50k", 50_000, 512, 100),
        *measured(scratch / "large", "1M", 1_000_000, 512, 40),
    ]


def measured(folder: Path, size: str, n_cells: int, width: int, n_queries: int) -> Iterator[Figure]:
    torch.set_num_threads(1)
    made = clustered(n_cells, width, n_queries)
    write_embeddings(str(folder / "embeddings"), made.cells, made.obs, chunk=65_536)
    before, started = anonymous_bytes(), time.process_time()
    source = Source.open(str(folder / "embeddings"), None, None)
    index, _ = build(source, index_location(folder), IndexOptions(short_width=min(64, width)))
    spent, memory = time.process_time() - started, anonymous_bytes() - before
    searcher = Searcher(index)
    index.warm()
    print(f"{size}: built in {spent:.1f} CPU s; shortlists {index.facts['shortlist']}", flush=True)

    is_large = n_cells > 200_000
    others = [alternatives.flat(made.cells), alternatives.ivf(made.cells)]
    others.append(alternatives.lance_ivf_pq(made.cells, made.obs, folder / "lance"))
    if not is_large:
        others += [alternatives.hnswlib_graph(made.cells), alternatives.hnsw(made.cells)]
    for other in others:
        yield Figure.cost(
            f"{size}: build beside {other.name}", spent, other.build_seconds, "CPU s", other.name
        )
        yield Figure.cost(
            f"{size}: memory beside {other.name}",
            memory / 2**20,
            other.memory_bytes / 2**20,
            "MiB",
            other.name,
        )
    stored = sum(stored.size for stored in index.snapshot.all_objects.values())
    yield Figure.error(
        f"{size}: on disk", stored / 2**20, "MiB", None, f"float32: {made.cells.nbytes / 2**20:.0f}"
    )
    yield from opening(folder, size, 50.0 if is_large else None)
    yield from top_k(size, searcher, made, others, 8.0 if is_large else 1.3)
    yield from all_scores(size, searcher, made, 40.0 if is_large else None)
    yield from under_conditions(size, searcher, made, others)


def opening(folder: Path, size: str, target: float | None) -> Iterator[Figure]:
    """Until the first vector could be read, and what that adds to the memory of the process."""
    before, walls = anonymous_bytes(), []
    opened = []
    for _ in range(5):
        started = time.perf_counter()
        opened.append(VectorIndex.open(index_location(folder)))
        touched = opened[-1].segments[0].arrays.vectors[0]
        walls.append(time.perf_counter() - started)
        if not np.isfinite(touched).all():
            raise RuntimeError("the first vector is not finite")
    yield Figure.error(f"{size}: opening", 1e3 * min(walls), "ms", target)
    yield Figure.error(
        f"{size}: memory five opened indexes add", (anonymous_bytes() - before) / 2**20, "MiB", None
    )


def top_k(
    size: str, searcher: Searcher, made: Clustered, others: list[Alternative], target: float
) -> Iterator[Figure]:
    ways: dict[str, Search] = {
        "ours": lambda query: searcher.search(query, K).cell,
        "ours, exact": lambda query: searcher.search(query, K, how="exact").cell,
    }
    ways |= {other.name: (lambda query, other=other: other.search(query, None)) for other in others}
    for kind, queries in (("text", made.text), ("cells", made.held_out)):
        truth = nearest(made.cells, queries)
        costs, walls, found = timed(ways, queries)
        print(f"{size} {kind}: ours searched by {searcher.search(queries[0], K).ways}", flush=True)
        for name in list(ways)[1:]:
            yield Figure.cost(
                f"{size}, {kind}: top 10 beside {name}",
                costs["ours"],
                costs[name],
                "CPU ms",
                f"{name} (recall {recall(found[name], truth):.3f})",
                target,
            )
        yield quality(
            f"{size}, {kind}: recall@10", recall(found["ours"], truth), 0.99 if target < 8 else None
        )
        lost = regret(made.cells, queries, found["ours"], truth)
        yield Figure.error(f"{size}, {kind}: regret", lost, "cosine", 1e-3)
        for percent in (50, 99):
            wall = float(np.percentile(walls["ours"], percent))
            yield Figure.error(f"{size}, {kind}: wall p{percent}", wall, "ms", None)


def all_scores(size: str, searcher: Searcher, made: Clustered, target: float | None) -> Iterator[Figure]:
    half = alternatives.half(made.cells)
    ways: dict[str, Callable[[Float32], object]] = {
        "ours": searcher.scores,
        "numpy, float32": lambda query: made.cells @ query,
        "torch, float16": lambda query: [
            torch.mv(torch.from_numpy(segment.arrays.vectors), torch.from_numpy(query).half())
            for segment in searcher.segments
        ],
        "faiss SQ fp16, ten best only": lambda query: half.search(query, None),
        # What memory allows: the same bytes, and next to nothing done with them.
        "the largest of the same bytes as int64": lambda query: [
            segment.arrays.vectors.view(np.int64).max() for segment in searcher.segments
        ],
    }
    costs, _, _ = timed(ways, made.text[:10])
    for name in list(ways)[1:]:
        yield Figure.cost(
            f"{size}: score of every cell beside {name}", costs["ours"], costs[name], "CPU ms", name, target
        )


def under_conditions(
    size: str, searcher: Searcher, made: Clustered, others: list[Alternative]
) -> Iterator[Figure]:
    # The fastest without a condition, and the database.
    rivals = [others[-1] if len(made.cells) < 200_000 else others[1], others[2]]
    for name, where in conditions(made.obs).items():
        mask = np.zeros(len(made.cells), bool)
        mask[searcher.cells(where)] = True
        only = Only(mask, where)
        ways: dict[str, Search] = {
            "ours": lambda query, where=where: searcher.search(query, K, where=where).cell
        }
        ways |= {
            rival.name: (lambda query, rival=rival, only=only: rival.search(query, only)) for rival in rivals
        }
        queries = made.text[:20]
        truth = nearest(made.cells, queries, mask)
        costs, _, found = timed(ways, queries)
        ours = recall(found["ours"], truth)
        for rival in rivals:
            yield Figure(
                name=f"{size}, {name}: recall@10 beside {rival.name}",
                value=ours,
                unit="",
                target=0.99 if len(made.cells) < 200_000 else None,
                better="higher",
                ours=ours,
                theirs=recall(found[rival.name], truth),
                theirs_is=rival.name,
            )
            yield Figure.cost(
                f"{size}, {name}: top 10 beside {rival.name}",
                costs["ours"],
                costs[rival.name],
                "CPU ms",
                rival.name,
            )
        lost = regret(made.cells, queries, found["ours"], truth)
        yield Figure.error(f"{size}, {name}: regret", lost, "cosine", 1e-3)


def timed(
    ways: dict[str, Callable[[Float32], object]] | dict[str, Search], queries: Float32
) -> tuple[dict[str, float], dict[str, list[float]], dict[str, list[Rows]]]:
    """CPU ms a query, wall ms of each query, and what was found in the last pass."""
    costs, walls, found = dict.fromkeys(ways, np.inf), {}, {}
    for _ in range(PASSES):
        for name, search in ways.items():
            walls[name], found[name] = [], []
            started = time.process_time()
            for query in queries:
                began = time.perf_counter()
                found[name].append(search(query))
                walls[name].append(1e3 * (time.perf_counter() - began))
            costs[name] = min(costs[name], 1e3 * (time.process_time() - started) / len(queries))
    return costs, walls, found


def nearest(cells: Float32, queries: Float32, mask: np.ndarray | None = None) -> list[Rows]:
    """By brute force in float32."""
    truth = []
    for query in queries:
        scores = cells @ query
        if mask is not None:
            scores[~mask] = -np.inf
        n = K if mask is None else min(K, int(mask.sum()))
        truth.append(np.argpartition(scores, -n)[-n:])
    return truth


def recall(found: list[Rows], truth: list[Rows]) -> float:
    return float(np.mean([np.isin(true, rows).mean() for rows, true in zip(found, truth, strict=True)]))


def regret(cells: Float32, queries: Float32, found: list[Rows], truth: list[Rows]) -> float:
    lost = [
        (cells[true] @ query).mean() - (cells[rows] @ query).mean()
        for query, rows, true in zip(queries, found, truth, strict=True)
    ]
    return float(np.mean(lost))


def quality(name: str, value: float, target: float | None) -> Figure:
    return Figure(
        name=name,
        value=value,
        unit="",
        target=target,
        better="higher",
        ours=value,
        theirs=None,
        theirs_is="float32 brute force",
    )


def index_location(folder: Path) -> Location:
    return Location.of(folder / "index")


if __name__ == "__main__":
    raise SystemExit(main("index", ABOUT, measure))
