"""Searching an index of cells on a GPU: all rows compared, one query and many at a time."""

import sys
from pathlib import Path

import numpy as np
import torch

from engine.retrieval.build import IndexOptions, Source, build
from engine.retrieval.device import DeviceSearcher
from storage.locations import Location
from tests.benchmarks.device_time import best_seconds
from tests.benchmarks.report import Figure, main
from tests.benchmarks.vectors.clustered import Float32, clustered
from tests.retrieval.inputs import write_embeddings

ABOUT = """Ten nearest of 1,000,000 made-up 512-d joint embeddings to text-like queries, every row compared:
float16 products on the device, the best scored again in float32. Beside it torch alone, float32 product and
top-k, which is also the truth that recall is counted against. Reading the index into the device's memory is
not counted."""

K = 10


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    device = torch.device("cpu" if smoke else "cuda")
    n_cells, width = (3_000, 64) if smoke else (1_000_000, 512)
    made = clustered(n_cells, width, 8 if smoke else 256)
    write_embeddings(str(scratch / "embeddings"), made.cells, made.obs, chunk=65_536)
    source = Source.open(str(scratch / "embeddings"), None, None)
    index, _ = build(source, Location.of(scratch / "index"), IndexOptions(short_width=64))
    searcher, whole_ND = DeviceSearcher(index, device), torch.from_numpy(made.cells).to(device)

    def plain(queries_QD: Float32) -> torch.Tensor:
        scores_QN = torch.from_numpy(queries_QD).to(device) @ whole_ND.T
        return scores_QN.topk(K, dim=1).indices.cpu()

    figures = []
    for n_queries in (1, len(made.text)):
        queries_QD = made.text[:n_queries]
        ours = best_seconds(lambda queries_QD=queries_QD: searcher.search(queries_QD, K), device)
        theirs = best_seconds(lambda queries_QD=queries_QD: plain(queries_QD), device)
        figures.append(
            Figure.ratio(
                f"{n_cells:,} cells, queries at once: {n_queries}",
                n_queries / ours,
                n_queries / theirs,
                "torch, float32, queries/s",
            )
        )
    answers, truth = searcher.search(made.text, K), plain(made.text).numpy()
    shares = [np.isin(true, found.cell).mean() for true, found in zip(truth, answers, strict=True)]
    recall = float(np.mean(shares))
    figures.append(
        Figure(
            name=f"{n_cells:,} cells: recall@10",
            value=recall,
            unit="",
            target=0.99,
            better="higher",
            ours=recall,
            theirs=None,
            theirs_is="float32 on the device",
        )
    )
    score = best_seconds(lambda: searcher.scores(made.text[0]), device)
    figures.append(Figure.error(f"{n_cells:,} cells: score of every cell", 1e3 * score, "ms", None))
    return figures


if __name__ == "__main__":
    if not torch.cuda.is_available() and "--smoke" not in sys.argv:
        print("index_gpu: this machine has no CUDA device, so nothing was measured and no report is written")
        raise SystemExit(0)
    raise SystemExit(main("index_gpu", ABOUT, measure))
