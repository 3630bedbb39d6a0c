"""How long a question in words takes over HTTP, from its first byte out to its last byte in."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.retrieval.search import Searcher
from engine.retrieval.texts import Texts
from engine.serving.settings import Settings
from storage.index import VectorIndex
from tests.benchmarks.report import Figure, main
from tests.benchmarks.serving.server import Client, indexed, own_ray, prepare, serving, texts

ABOUT = """Milliseconds of `/v1/search` (10 cells) on an index of made-up cells of 512 dimensions, under a
joint model whose texts MiniLM embeds, one question at a time over one kept connection, on a real Ray Serve
behind its HAProxy, as `syncytium serve` starts it: texts in bfloat16 where the CPU has instructions for it.
Text in float32: with `--text-precision fp32`. New: a text nobody asked before. Known: one that was asked.
Score: a known text's score of every cell, a byte each. Beside them, in turns of ten: the same question to
the library in the client's own process, and a route that does nothing (`/healthz`). Inverted lists: an index
that has 2,048 of them (`index --ivf 2048`), asked as any other, which looks into as many as were measured to
hold 99 % of the true ten; and asked with `"how": "ivf", "probes": 16`. What a search loses against comparing
every cell is measured on vectors that lie from the cells as texts do (those of the texts here are of an
untrained head)."""

K, TURN = 10, 10
LISTS, FEW = 2_048, 16


def ask_library(library: Texts, searcher: Searcher, more: dict[str, Any], text: str) -> object:
    return searcher.search(library.question(text).vector, K, **more)


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    # The library beside the server: as many threads as there.
    torch.set_num_threads(1)
    if smoke:
        return of_size(scratch, "2,000 cells", 2_000, 10, 8, smoke)
    with own_ray():
        return [
            *of_size(scratch / "small", "50,000 cells", 50_000, 300),
            *of_size(scratch / "large", "1,000,000 cells", 1_000_000, 100, LISTS),
        ]


def of_size(
    folder: Path, size: str, n_cells: int, n: int, n_lists: int = 0, smoke: bool = False
) -> list[Figure]:
    settings = prepare(folder, n_cells)
    exact = settings.model_copy(update={"text_precision": "fp32"})
    asked = [(size, settings, {}), (f"{size}, text in float32", exact, {})]
    if n_lists:
        listed = indexed(folder, "index-lists", n_lists)
        few = {"how": "ivf", "probes": FEW}
        asked += [(f"{size}, inverted lists", listed, {}), (f"{size}, {FEW} inverted lists", listed, few)]
    figures = []
    # A server takes half a minute to begin and to end.
    for what, of, more in [asked[0], asked[-1]] if smoke else asked:
        figures += of_server(of, what, n, more)
        if n_lists and of is not exact:
            figures += losses(of, what, folder / "queries.npy", more)
    return figures


def losses(settings: Settings, size: str, queries: Path, more: dict[str, Any]) -> list[Figure]:
    """What a way of searching loses against comparing every cell."""
    searcher = Searcher(VectorIndex.open(settings.index))
    lost, missed = [], []
    for query in np.load(queries):
        best, found = searcher.search(query, K, how="exact"), searcher.search(query, K, **more)
        lost.append(best.score.mean() - found.score.mean())
        missed.append(1 - len(set(best.cell) & set(found.cell)) / K)
    return [
        Figure.error(f"{size}: regret", float(np.mean(lost)), "cosine", 1e-3, "every cell compared"),
        Figure.error(
            f"{size}: missed of the ten", float(np.mean(missed)), "share", None, "every cell compared"
        ),
    ]


def of_server(settings: Settings, size: str, n: int, more: dict[str, Any]) -> list[Figure]:
    """more: further fields of a search."""
    index = VectorIndex.open(settings.index)
    library, searcher = Texts.of_index(index), Searcher(index)
    searcher.warm()
    library.side.multiply_in(settings.text_precision)
    found: dict[str, list[float]] = {name: [] for name in ("new", "known", "score", "library", "nothing")}
    known = texts(8, seed=1)
    with serving(settings) as port:
        client = Client(port)

        def ask(path: str, body: dict[str, object]) -> float:
            status, took = client.ask("POST", path, body)
            if status != 200:
                raise RuntimeError(f"{path} answered {status}")
            return took

        for text in known * 2:
            ask("/v1/search", {"text": text, "k": K, **more})
        new = texts(n)
        for start in range(0, n, TURN):
            turn, again = new[start : start + TURN], (known * 2)[:TURN]
            found["new"] += [ask("/v1/search", {"text": text, "k": K, **more}) for text in turn]
            found["known"] += [ask("/v1/search", {"text": text, "k": K, **more}) for text in again]
            for text in turn:
                answer = partial(ask_library, library, searcher, more, text)
                found["library"].append(milliseconds(answer))
            found["score"] += [ask("/v1/score", {"text": text}) for text in again]
            found["nothing"] += [client.ask("GET", "/healthz")[1] for _ in turn]
        client.close()
    middle = {name: float(np.median(took)) for name, took in found.items()}
    return [
        *(
            Figure.cost(
                f"{size}: {what} text, {percentile}",
                float(np.percentile(found[what], share)),
                float(np.percentile(found["library"], share)),
                "ms",
                "ms, the library with a new text in the client's process",
                target if share == 50 and settings.text_precision == "auto" else None,
            )
            for what, target in (("new", 12.0), ("known", 7.0))
            for percentile, share in (("p50", 50), ("p99", 99))
        ),
        Figure.cost(
            f"{size}: score of every cell, p50",
            middle["score"],
            middle["known"],
            "ms",
            "ms, the best ten for a known text",
        ),
        Figure.cost(f"{size}: the door itself", middle["nothing"], middle["known"], "ms", "ms, a known text"),
    ]


if __name__ == "__main__":
    raise SystemExit(main("serve_latency", ABOUT, measure))
