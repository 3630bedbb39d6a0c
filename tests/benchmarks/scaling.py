"""How a stream scales: with encoders, with machines, with cells; and what Ray costs beside the encoding."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
from scipy import sparse

from engine import models, ray_session
from engine.models import tahoe
from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.run import encode
from storage.ingest import ingest
from storage.locations import Location
from tests.benchmarks.report import Figure, main
from tests.chaos.cache_runs import finish
from tests.chaos.namespaces import NamespaceCluster, why_not
from tests.streaming.in_process import encode_here

ABOUT = """The `cache` stream on synthetic cells and random Tahoe-x1 encoders, one thread each.
Efficiency: cells/s with two encoders (or two machines made of namespaces, one CPU each) over twice those
with one, from the first commit to the last, so without start-up; wall time on a shared machine, interleaved,
best of the repeats.
Cost: CPU-seconds of the driver, Ray's processes and the encoder together, from the first commit to the last;
what was spent before is reported as start-up. Cells of 100 genes and the smallest encoder, so that what is
not encoding shows.
Ray's share: that cost against the same stages called one after the other in one process."""

GENES = [f"ENSG{number:011d}" for number in range(2_000)]
SHARD_TOKENS = 8_192


def cell_store(folder: Path, n_cells: int, genes_per_cell: int) -> Path:
    """Random cells, all of the same number of genes."""
    rng = np.random.default_rng(n_cells)
    indices = np.concatenate(
        [np.sort(rng.choice(len(GENES), genes_per_cell, replace=False)) for _ in range(n_cells)]
    )
    counts = rng.geometric(0.6, size=len(indices)).astype(np.float32)
    pointers = np.arange(n_cells + 1) * genes_per_cell
    cells = anndata.AnnData(sparse.csr_matrix((counts, indices, pointers), shape=(n_cells, len(GENES))))
    cells.var_names = GENES
    file = folder / f"{n_cells}x{genes_per_cell}.h5ad"
    cells.write_h5ad(file)
    ingest([str(file)], str(file.with_suffix("")))
    return file.with_suffix("")


def encoder(folder: Path, width: int, blocks: int) -> Path:
    directory = folder / f"encoder{width}x{blocks}"
    made = tahoe.create(GENES, d_model=width, n_layers=blocks, n_heads=2, max_tokens=512, seed=1)
    models.save(made, directory)
    return directory


def product(shard_tokens: int) -> ActivationProduct:
    return ActivationProduct(("final",), "bf16", None, False, 0, {"model": "m"}, shard_tokens=shard_tokens)


def commits(output: Path) -> list[float]:
    """When each member was committed, in order."""
    return sorted(path.stat().st_mtime for path in (output / "_log").glob("member-*.json"))


def steady_rate(output: Path, cells: int) -> float:
    """Cells per second between the first commit and the last."""
    times = commits(output)
    return cells * (len(times) - 1) / len(times) / (times[-1] - times[0])


class ProcessTree:
    """CPU-seconds of this process and of all it has started, also of those that have ended since."""

    LOOK_EVERY_SECONDS = 0.1

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, str], float] = {}
        self._tick = os.sysconf("SC_CLK_TCK")
        self._looks: list[tuple[float, float]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(self.LOOK_EVERY_SECONDS):
                self._look()
                # Looking is no part of what is measured.
                total = sum(self._seconds.values()) - time.thread_time()
                self._looks.append((time.time(), total))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def seconds(self, start: float, stop: float) -> float:
        """CPU-seconds between two moments, in seconds since the epoch."""
        moments, totals = zip(*self._looks, strict=True)
        return float(np.interp(stop, moments, totals) - np.interp(start, moments, totals))

    def _look(self) -> None:
        parents: dict[int, int] = {}
        cpu: dict[int, tuple[str, float]] = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # Of proc(5), counted behind the name: parent, user and system time, time of start.
            parents[int(name)] = int(fields[1])
            cpu[int(name)] = (fields[19], (int(fields[11]) + int(fields[12])) / self._tick)
        for pid, (started, seconds) in cpu.items():
            if _descends(pid, os.getpid(), parents):
                self._seconds[pid, started] = seconds


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parents.get(pid, 0)
    return False


def with_actors(scratch: Path, smoke: bool) -> list[Figure]:
    n_cells, repeats = (96, 1) if smoke else (512, 2)
    inputs = Inputs.open(str(cell_store(scratch, n_cells, 256)), str(encoder(scratch, 128, 3)))
    best = {1: 0.0, 2: 0.0}
    for repeat in range(repeats):
        for actors in best:
            output = scratch / f"actors{actors}.{repeat}"
            encode(
                inputs,
                product(2_048),
                Location.of(output),
                recipe=Recipe(512),
                workers=Workers(actors=actors),
            )
            best[actors] = max(best[actors], steady_rate(output, n_cells))
    return [efficiency("1 -> 2 encoders", best[1], best[2], "twice the cells/s of one encoder", 0.85)]


def with_machines(scratch: Path, smoke: bool) -> list[Figure]:
    lacking = why_not()
    if lacking:
        print(f"1 -> 2 machines: not measured, {lacking}", file=sys.stderr)
        return []
    n_cells, repeats = (96, 1) if smoke else (512, 2)
    store, model = cell_store(scratch, n_cells, 256), encoder(scratch, 128, 3)
    best = {1: 0.0, 2: 0.0}
    (scratch / "cluster").mkdir()
    cluster = NamespaceCluster(scratch / "cluster")
    try:
        for repeat in range(repeats):
            for machines in best:
                while len(cluster.nodes) > machines:
                    cluster.drain(cluster.nodes[max(cluster.nodes)])
                cluster.up(machines)
                output = scratch / f"machines{machines}.{repeat}"
                flags = ["--cells", store, "--model", model, "--hooks", "final", "--output", output]
                command = [sys.executable, "-m", "jobs.cache", *map(str, flags), "--shard-tokens", "2048"]
                code, messages = finish(
                    cluster.start(cluster.nodes[1], [*command, "--address", cluster.address])
                )
                if code:
                    raise RuntimeError(messages)
                best[machines] = max(best[machines], steady_rate(output, n_cells))
    finally:
        cluster.down()
    return [efficiency("1 -> 2 machines", best[1], best[2], "twice the cells/s of one machine", 0.8)]


def efficiency(name: str, one: float, two: float, theirs_is: str, target: float) -> Figure:
    return Figure(
        name=f"efficiency, {name}",
        value=two / (2 * one),
        unit="of linear",
        target=target,
        better="higher",
        ours=two,
        theirs=2 * one,
        theirs_is=theirs_is,
    )


def with_cells(scratch: Path, smoke: bool) -> list[Figure]:
    sizes = [500, 1_000] if smoke else [1_000, 10_000, 100_000]
    model = str(encoder(scratch, 32, 1))
    inputs = {size: Inputs.open(str(cell_store(scratch, size, 100)), model) for size in sizes}
    here: list[float] = []
    start_up: dict[int, list[float]] = {size: [] for size in sizes}
    cost: dict[int, list[float]] = {size: [] for size in sizes}
    tree = ProcessTree()
    with tree.watched():
        # The first run also starts what Ray keeps for all of them; the largest needs no second look.
        for size in [*sizes[:-1] * (1 if smoke else 2), sizes[-1]]:
            before, seconds = _streamed(inputs[size], scratch / f"{size}.{len(cost[size])}", tree)
            start_up[size].append(before)
            cost[size].append(seconds / size)
        for repeat in range(1 if smoke else 2):
            began = time.process_time()
            encode_here(inputs[sizes[1]], product(SHARD_TOKENS), scratch / f"here{repeat}", Recipe(512))
            here.append((time.process_time() - began) / sizes[1])
    return [*cost_figures(_least(cost), min(here)), start_up_figure(_least(start_up))]


def _least(seconds: dict[int, list[float]]) -> dict[int, float]:
    return {size: min(of_runs) for size, of_runs in seconds.items()}


def _streamed(inputs: Inputs, output: Path, tree: ProcessTree) -> tuple[float, float]:
    """CPU-seconds of a run before the first commit, and from there to the last (for all cells)."""
    began = time.time()
    encode(inputs, product(SHARD_TOKENS), Location.of(output), recipe=Recipe(512), workers=Workers(actors=1))
    # So that the moment of the last commit lies between two looks.
    time.sleep(2 * ProcessTree.LOOK_EVERY_SECONDS)
    times = commits(output)
    between = tree.seconds(times[0], times[-1]) * len(times) / (len(times) - 1)
    return tree.seconds(began, times[0]), between


def cost_figures(cost: dict[int, float], here: float) -> list[Figure]:
    """From CPU-seconds per cell by number of cells."""
    smallest, *larger = cost
    figures = [
        Figure(
            name=f"cost per cell, {size:,} cells against {smallest:,}",
            value=cost[size] / cost[smallest],
            unit="x",
            target=1.1,
            better="lower",
            ours=cost[size] * 1e6,
            theirs=cost[smallest] * 1e6,
            theirs_is=f"CPU-us per cell at {smallest:,} cells",
        )
        for size in larger
    ]
    with_ray = cost[larger[0]]
    # A tenth of what a 70M encoder takes for a cell of 1,024 tokens on a data-centre GPU.
    figures.append(
        Figure(
            name="Ray beside the encoding",
            value=(with_ray - here) * 1e6,
            unit="CPU-us per cell",
            target=200.0,
            better="lower",
            ours=with_ray * 1e6,
            theirs=here * 1e6,
            theirs_is="CPU-us per cell, the same stages without Ray",
        )
    )
    return figures


def start_up_figure(start_up: dict[int, float]) -> Figure:
    """From CPU-seconds before the first commit, by number of cells: planning, an encoder, one member."""
    smallest, largest = min(start_up), max(start_up)
    return Figure(
        name=f"start-up of a run in a warm Ray, {largest:,} cells",
        value=start_up[largest],
        unit="CPU-s",
        target=None,
        better="lower",
        ours=start_up[largest],
        theirs=start_up[smallest],
        theirs_is=f"CPU-s at {smallest:,} cells",
    )


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    figures = with_machines(scratch, smoke)
    # Two encoders of one thread and what feeds them.
    with ray_session.connect("local", num_cpus=2):
        return with_actors(scratch, smoke) + figures + with_cells(scratch, smoke)


if __name__ == "__main__":
    raise SystemExit(main("scaling", ABOUT, measure))
