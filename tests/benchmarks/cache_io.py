"""Writing and reading an activation cache, against raw files of the same bytes."""

import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from storage.activations import (
    KIND,
    ActivationCache,
    encode_shard,
    finish_activations,
    gene_table,
    quantise,
    shard_name,
)
from storage.activations.shards import TokenActivations
from storage.commits import Dataset, MemberPlan
from storage.locations import Location
from tests.benchmarks.report import Figure, main

ABOUT = """An activation cache of width 512 against raw files of the same bytes. Writing: encoding, hash and
durable commit of every shard, against write and fsync. Reading, page cache warm: whole members with their
hash checked, and shuffled batches of 4,096 tokens as tensors while the next pool of shards is read, against
reading each file whole. fp8 is handed out as it is stored, codes and scales, which is what travels to a GPU;
read as float32 it is compared with reading float32 files of as many numbers. MB are bytes on disk. Wall clock
where the disk or a second thread counts, CPU time elsewhere; best of interleaved passes."""

WIDTH, BATCH, TARGET = 512, 4_096, 0.8
# The pool that is read ahead when the measuring stops is then a small part of what was read.
PASSES_FED = 4
HOOK = "resid_post_6"


def shards(n_shards: int, n_tokens: int, precision: str) -> list[tuple]:
    """Arguments of `encode_shard`: bf16 or fp8 activations with scales as a residual stream has them."""
    made = []
    for number in range(n_shards):
        rng = torch.Generator().manual_seed(number)
        acts = torch.randn(n_tokens, WIDTH, generator=rng) * torch.rand(WIDTH, generator=rng) * 4
        place = np.arange(n_tokens)
        columns = (place // 1_000, place % 20_000, place % 1_000, np.zeros(n_tokens), {"seed": "0"})
        made.append((acts.bfloat16(), *columns) if precision == "bf16" else with_scale(acts, columns))
    return made


def with_scale(acts: torch.Tensor, columns: tuple) -> tuple:
    codes, scale = quantise(acts)
    return (codes, *columns, scale)


def write_cache(place: Path, parts: list[tuple]) -> None:
    members = [
        MemberPlan(f"{number:06d}", {"start": number, "stop": number + 1}) for number in range(len(parts))
    ]
    dataset = Dataset.plan(Location.of(place), kind=KIND, lineage={}, members=members)
    for member, part in zip(members, parts, strict=True):
        writer = dataset.member(member.key)
        writer.put(shard_name(HOOK, member.key), encode_shard(*part))
        writer.commit({**member.facts, "n_tokens": len(part[0])})
    finish_activations(dataset, gene_table(["ENSG1"], frozenset(), pd.DataFrame()))


def write_raw(place: Path, contents: list[bytes]) -> None:
    place.mkdir()
    for number, content in enumerate(contents):
        with open(place / str(number), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def batches(cache: ActivationCache, n_tokens: int) -> None:
    seen = 0
    stream = cache.batches(HOOK, BATCH, seed=0, shards_in_buffer=2, decoded=False)
    for tokens in islice(stream, n_tokens // BATCH):
        seen += len(tokens.acts)
    stream.close()  # type: ignore[attr-defined]
    if seen != n_tokens // BATCH * BATCH:
        raise RuntimeError(f"{seen} tokens of {n_tokens}")


def read_members(cache: ActivationCache, decoded: bool = False) -> None:
    for member in cache.members:
        tokens: TokenActivations = cache.read(HOOK, member.key, decoded=decoded)
        if tokens.acts.shape[1] != WIDTH:
            raise RuntimeError(f"width {tokens.acts.shape[1]}")


def spent(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def best(passes: int, ours: Callable[[int], object], theirs: Callable[[int], object]) -> np.ndarray:
    """Least seconds, [ours | theirs, wall | CPU], of interleaved passes."""
    least = np.full((2, 2), np.inf)
    for number in range(passes):
        for row, run in enumerate((ours, theirs)):
            least[row] = np.minimum(least[row], spent(lambda: run(number)))  # noqa: B023
    return least


def figure(
    name: str, least: np.ndarray, clock: int, size: float, target: float | None, theirs_is: str
) -> Figure:
    ours, theirs = size / least[0, clock], size / least[1, clock]
    unit = "MB/s" if clock == 0 else "MB/CPU-s"
    return Figure.ratio(name, ours, theirs, f"{theirs_is}, {unit}", target)


def of_precision(scratch: Path, precision: str, n_shards: int, n_tokens: int, passes: int) -> list[Figure]:
    parts = shards(n_shards, n_tokens, precision)
    contents = [b"".join(encode_shard(*part)) for part in parts]
    size = sum(map(len, contents)) / 1e6
    writing = best(
        passes,
        lambda number: write_cache(scratch / f"{precision}-cache-{number}", parts),
        lambda number: write_raw(scratch / f"{precision}-raw-{number}", contents),
    )
    cache = ActivationCache.open(str(scratch / f"{precision}-cache-0"))
    files = sorted((scratch / f"{precision}-raw-0").iterdir())

    def read_raw(number: int) -> None:
        for file in files:
            file.read_bytes()

    reading = best(2 * passes, lambda number: read_members(cache), read_raw)
    feeding = best(
        passes,
        lambda number: batches(cache, PASSES_FED * n_shards * n_tokens),
        lambda number: [read_raw(number) for _ in range(PASSES_FED)],
    )
    whole = "reading the files whole"
    raw = f"{whole}, {PASSES_FED} times"
    return [
        figure(f"{precision}: write", writing, 0, size, TARGET, "write and fsync"),
        figure(f"{precision}: read members", reading, 1, size, TARGET, whole),
        figure(f"{precision}: shuffled batches to torch", feeding, 0, PASSES_FED * size, TARGET, raw),
        figure(f"{precision}: shuffled batches to torch, CPU", feeding, 1, PASSES_FED * size, None, raw),
    ]


def decoding(scratch: Path, n_shards: int, n_tokens: int, passes: int) -> Figure:
    """Members of the fp8 cache as float32, against float32 files of as many numbers."""
    cache = ActivationCache.open(str(scratch / "fp8-cache-0"))
    numbers = np.random.default_rng(0).random((n_tokens, WIDTH), np.float32)
    write_raw(scratch / "fp32-raw", [numbers.data.cast("B")])

    def read_float32(_: int) -> None:
        for _ in range(n_shards):
            (scratch / "fp32-raw" / "0").read_bytes()

    least = best(2 * passes, lambda _: read_members(cache, decoded=True), read_float32)
    size = n_shards * numbers.nbytes / 1e6
    return figure("fp8: read members as float32", least, 1, size, None, "reading float32 files whole")


def quantising(n_tokens: int, passes: int) -> Figure:
    acts = torch.randn(n_tokens, WIDTH)
    least = best(passes, lambda number: quantise(acts), lambda number: acts.bfloat16())
    size = acts.numel() * 4 / 1e6
    return figure(
        "fp8: making the codes and scales", least, 1, size, None, "torch's cast to bfloat16, of float32"
    )


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    torch.set_num_threads(1)
    n_shards, n_tokens, passes = (4, 4 * BATCH, 1) if smoke else (6, 32 * BATCH, 3)
    figures = []
    for precision in ("bf16", "fp8"):
        figures += of_precision(scratch, precision, n_shards, n_tokens, passes)
    return [*figures, decoding(scratch, n_shards, n_tokens, passes), quantising(n_tokens, passes)]


if __name__ == "__main__":
    raise SystemExit(main("cache_io", ABOUT, measure))
