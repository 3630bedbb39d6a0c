"""How long a question in words takes over HTTP, from its first byte out to its last byte in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.retrieval.search import Searcher
from engine.retrieval.texts import Texts
from storage.index import VectorIndex
from tests.benchmarks.report import Figure, main
from tests.benchmarks.serving.server import Client, prepare, serving, texts

ABOUT = """Milliseconds of `/v1/search` (10 cells) on an index of made-up cells of 512 dimensions, under a
joint model whose texts MiniLM embeds (fp32, one thread), one question at a time over one kept connection,
on a real Ray Serve with its default proxy. New: a text nobody asked before. Known: one that was asked.
Beside it, interleaved: the same question to the library in the client's own process, and a route that does
nothing (`/healthz`)."""

K = 10


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    if smoke:
        return of_size(scratch, "2,000 cells", 2_000, 20)
    return of_size(scratch, "50,000 cells", 50_000, 300)


def of_size(folder: Path, size: str, n_cells: int, n: int) -> list[Figure]:
    settings = prepare(folder, n_cells)
    index = VectorIndex.open(settings.index)
    index.warm()
    library, searcher = Texts.of_index(index), Searcher(index)
    found: dict[str, list[float]] = {name: [] for name in ("new", "known", "library", "nothing")}
    known = texts(8, seed=1)
    with serving(settings) as port:
        client = Client(port)
        for text in known * 2:
            client.ask("POST", "/v1/search", {"text": text, "k": K})
        for number, text in enumerate(texts(n)):
            for name, asked in (("new", text), ("known", known[number % len(known)])):
                status, took = client.ask("POST", "/v1/search", {"text": asked, "k": K})
                if status != 200:
                    raise RuntimeError(f"a search answered {status}")
                found[name].append(took)
            found["library"].append(
                milliseconds(lambda text=text: searcher.search(library.question(text).vector, K))
            )
            found["nothing"].append(client.ask("GET", "/healthz")[1])
        client.close()
    middle = {name: float(np.median(took)) for name, took in found.items()}
    return [
        *(
            Figure(
                name=f"{size}: {what} text, {percentile}",
                value=float(np.percentile(found[what], share)),
                unit="ms",
                target=target if share == 50 else None,
                better="lower",
                ours=float(np.percentile(found[what], share)),
                theirs=float(np.percentile(found["library"], share)),
                theirs_is="ms, the library with a new text in the client's process",
            )
            for what, target in (("new", 12.0), ("known", 7.0))
            for percentile, share in (("p50", 50), ("p99", 99))
        ),
        Figure(
            name=f"{size}: the door itself",
            value=middle["nothing"],
            unit="ms",
            target=None,
            better="lower",
            ours=middle["nothing"],
            theirs=middle["known"],
            theirs_is="ms, a known text",
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main("serve_latency", ABOUT, measure))
