"""How a stream scales: with encoders, with machines, with cells; and what Ray costs beside the encoding."""

import sys
import time
from pathlib import Path

import anndata
import numpy as np
from scipy import sparse

from engine import models, ray_session
from engine.models import tahoe
from engine.streaming.inputs import Inputs
from engine.streaming.members import TOKENS_PER_SHARD
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.run import encode
from storage.ingest import ingest
from storage.locations import Location
from tests.benchmarks.report import Figure, main
from tests.benchmarks.streams.bare import cells_per_second
from tests.benchmarks.streams.process_tree import ProcessTree
from tests.chaos.cache_runs import finish
from tests.chaos.namespaces import NamespaceCluster
from tests.chaos.switch import why_not
from tests.streaming.in_process import encode_here

ABOUT = """The `cache` stream on synthetic cells and random Tahoe-x1 encoders, one thread each.
Efficiency: how many times the cells/s of one encoder (or of one machine made of namespaces, one CPU each)
two of them reach, over how many times those of one plain process two plain processes reach that run the
same stages at the same time: virtual cores share what they are made of. Of the second half of the members,
which are a quarter as large as `cache` makes them, when all encoders have started; wall time.
Cost: CPU-seconds of the driver, Ray's processes and the encoder together, from the first commit to the
last; what was spent before is reported as start-up. Cells of 100 genes and the smallest encoder, so that
what is not encoding shows.
Ray's share: that cost against the same stages called one after the other in one process. It is paid per
member; per cell it is given for a member as `cache` makes them, 256 cells of 1,024 tokens."""

GENES = [f"ENSG{number:011d}" for number in range(2_000)]
# Members small enough that runs of a minute have many of them: a quarter of what `cache` makes, so that
# what Ray costs a member weighs four times as much as it does there.
SMALL_SHARD, SMOKE_SHARD, SHARD_TOKENS = TOKENS_PER_SHARD // 4, 2_048, 8_192
GENES_PER_CELL, TOKENS_PER_CELL = 100, 1_024


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
    """Cells per second in the second half of the members: by then all encoders have started."""
    times = commits(output)
    half = times[len(times) // 2 :]
    return cells * (len(half) - 1) / len(times) / (half[-1] - half[0])


def with_actors(inputs: Inputs, shard_tokens: int, scratch: Path) -> dict[int, float]:
    """Cells per second by number of encoders."""
    rates = {}
    for actors in (1, 2):
        output = scratch / f"actors{actors}"
        workers = Workers(actors=actors)
        encode(inputs, product(shard_tokens), Location.of(output), recipe=Recipe(512), workers=workers)
        rates[actors] = steady_rate(output, inputs.n_cells)
    return rates


def with_processes(store: Path, model: Path, shard_tokens: int, scratch: Path) -> dict[int, float]:
    """Cells per second by number of plain processes."""
    return {
        n: cells_per_second(n, store, model, product(shard_tokens), Recipe(512), scratch / f"bare{n}")
        for n in (1, 2)
    }


def with_machines(
    store: Path, model: Path, shard_tokens: int, scratch: Path, n_cells: int
) -> dict[int, float]:
    """Cells per second by number of machines; nothing where namespaces are not allowed."""
    lacking = why_not()
    if lacking:
        print(f"1 -> 2 machines: not measured, {lacking}", file=sys.stderr)
        return {}
    rates = {}
    (scratch / "cluster").mkdir()
    cluster = NamespaceCluster(scratch / "cluster")
    try:
        for machines in (1, 2):
            cluster.up(machines)
            output = scratch / f"machines{machines}"
            flags = ["--cells", store, "--model", model, "--hooks", "final", "--output", output]
            command = [sys.executable, "-m", "jobs.cache", *map(str, flags)]
            sizing = ["--shard-tokens", str(shard_tokens), "--address", cluster.address]
            code, messages = finish(cluster.start(cluster.nodes[1], [*command, *sizing]))
            if code:
                raise RuntimeError(messages)
            rates[machines] = steady_rate(output, n_cells)
    finally:
        cluster.down()
    return rates


def efficiency(name: str, ours: dict[int, float], bare: dict[int, float], target: float) -> Figure:
    speedup, possible = ours[2] / ours[1], bare[2] / bare[1]
    return Figure(
        name=f"efficiency, 1 -> 2 {name}",
        value=speedup / possible,
        unit="of what two processes gain",
        target=target,
        better="higher",
        ours=speedup,
        theirs=possible,
        theirs_is=f"times one process; {name}: {ours[1]:.0f} and {ours[2]:.0f} cells/s, "
        f"processes: {bare[1]:.0f} and {bare[2]:.0f}",
    )


def with_cells(scratch: Path, smoke: bool) -> list[Figure]:
    sizes = [500, 1_000] if smoke else [1_000, 10_000, 100_000]
    model = str(encoder(scratch, 32, 1))
    inputs = {size: Inputs.open(str(cell_store(scratch, size, GENES_PER_CELL)), model) for size in sizes}
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
    per_member = (with_ray - here) * (SHARD_TOKENS // (GENES_PER_CELL + 1))
    figures.append(
        Figure(
            name=f"Ray beside the encoding, a member of {TOKENS_PER_SHARD // TOKENS_PER_CELL} cells",
            value=per_member / (TOKENS_PER_SHARD // TOKENS_PER_CELL) * 1e6,
            unit="CPU-us per cell",
            # A tenth of what a 70M encoder takes for such a cell on a data-centre GPU.
            target=200.0,
            better="lower",
            ours=with_ray * 1e6,
            theirs=here * 1e6,
            theirs_is="CPU-us per cell, without Ray, in smaller members",
        )
    )
    return figures


def start_up_figure(start_up: dict[int, float]) -> Figure:
    """From CPU-seconds before the first commit, by number of cells: planning, an encoder, one member."""
    smallest, largest = min(start_up), max(start_up)
    return Figure.cost(
        f"start-up of a run in a warm Ray, {largest:,} cells",
        start_up[largest],
        start_up[smallest],
        "CPU-s",
        f"CPU-s at {smallest:,} cells",
    )


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    n_cells, shard_tokens = (96, SMOKE_SHARD) if smoke else (8_192, SMALL_SHARD)
    store, model = cell_store(scratch, n_cells, 256), encoder(scratch, 128, 3)
    bare = with_processes(store, model, shard_tokens, scratch)
    # The chaos tests prove that a stream runs on machines; starting those takes longer than all the rest.
    machines = {} if smoke else with_machines(store, model, shard_tokens, scratch, n_cells)
    figures = [efficiency("machines", machines, bare, 0.8)] if machines else []
    # Two encoders of one thread and what feeds them.
    with ray_session.connect("local", num_cpus=2):
        actors = with_actors(Inputs.open(str(store), str(model)), shard_tokens, scratch)
        return [efficiency("encoders", actors, bare, 0.85), *figures, *with_cells(scratch, smoke)]


if __name__ == "__main__":
    raise SystemExit(main("scaling", ABOUT, measure))
