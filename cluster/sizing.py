"""How many machines for how long: `python -m cluster.sizing docs/benchmarks > docs/reference/sizing.md`.

Every number of the page is the planner's or a report's; what no report has measured yet is an assumption and
says so. Floating-point operations are counted as `tests.benchmarks.gpu` counts them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.models import geneformer, tahoe
from engine.streaming.members import MOST_CELLS, TOKENS_PER_SHARD
from engine.training.options import TrainingOptions
from engine.training.plan import H200, of_sae

CELLS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
GPUS = (1, 8, 64, 1_000)
# Tokens of a cell as our models take them at most; half of pbmc4k's cells have more genes.
TOKENS = 1024
# d_in, features, k, tokens, GPUs of autoencoders as people train them.
AUTOENCODERS = (
    (512, 16_384, 32, 1e9, 1),
    (2048, 65_536, 64, 1e10, 8),
    (2560, 262_144, 64, 1e10, 64),
)
SAE_BATCH = 65_536
# Cells of the member that the report `scaling` gives Ray's cost for: a cache's, at TOKENS each.
CELLS_OF_RAY = TOKENS_PER_SHARD // TOKENS


@dataclass(frozen=True)
class Rate:
    """One number that the tables rest on, and where it comes from."""

    name: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Encoder:
    name: str
    width: int
    layers: int
    ffn: int

    @property
    def flops_per_cell(self) -> float:
        """Of all blocks over a cell of TOKENS tokens, two per multiplication and addition."""
        linear = 2 * (4 * self.width * self.width + 2 * self.width * self.ffn) * TOKENS
        return float(self.layers * (linear + 4 * self.width * TOKENS**2))


def encoders() -> Iterator[Encoder]:
    for name, sizes in tahoe.PRESETS.items():
        width = sizes["d_model"]
        yield Encoder(f"Tahoe-x1 {name}", width, sizes["n_layers"], 4 * width)
    for name, sizes in geneformer.PRESETS.items():
        yield Encoder(f"Geneformer {name}", sizes["d_model"], sizes["n_layers"], sizes["ffn"])


# report, figure, side of it, unit, and what is assumed where there is no such report.
_MEASURED: tuple[tuple[str, str, str, str, str, float | None], ...] = (
    ("utilisation", "gpu", "70M, 1,024 tokens: utilisation", "value", "of the card's best", 0.3),
    ("encoding, Tahoe-x1 70m", "encode_tahoe", "cell embeddings", "ours", "cells/CPU-s", None),
    ("reading cells", "store_read", "in order vs h5ad (gzip) backed", "ours", "cells/CPU-s", None),
    ("tokenising", "tokenise", "Tahoe-x1 tokens of pbmc3k", "ours", "cells/CPU-s", None),
    ("writing activations", "cache_io", "bf16: write", "ours", "MB/s", None),
    ("training, 1 core", "sae_step", "train step vs SAELens", "ours", "tokens/CPU-s", None),
    ("committing", "control_plane", "coordination of a member", "ours", "CPU-ms a member", None),
    ("requests", "control_plane", "requests to the store a member", "ours", "a member", None),
    (
        "Ray",
        "scaling",
        f"Ray beside the encoding, a member of {CELLS_OF_RAY} cells",
        "value",
        "CPU-us a cell",
        None,
    ),
    ("features over a cache", "feature_pass", "tokens per CPU-second", "ours", "tokens/CPU-s", None),
)


def rates(reports: Path) -> list[Rate]:
    """The numbers of the reports in a folder. Raises FileNotFoundError, KeyError for one that is not there
    and cannot be assumed.
    """
    found = []
    for name, report, figure, side, unit, assumed in _MEASURED:
        file = reports / f"{report}.json"
        if assumed is not None and not file.exists():
            found.append(Rate(name, assumed, unit, "assumed: no GPU has been measured yet"))
            continue
        told = json.loads(file.read_text())
        figures = {each["name"]: each for each in told["figures"]}
        # As the page shows it, so that the page can be made again from itself.
        value = float(f"{figures[figure][side]:.6g}")
        found.append(Rate(name, value, unit, f"report {report} at {told['commit']}"))
    return found


def page(used: Sequence[Rate]) -> str:
    """The whole page from the rates; the first table of the page gives them back (`rates_of`)."""
    by_name = {rate.name: rate.value for rate in used}
    parts = (
        _INTRODUCTION,
        _table(
            ("rate", "value", "unit", "source"),
            [(rate.name, f"{rate.value:.6g}", rate.unit, rate.source) for rate in used],
        ),
        _ENCODING.format(utilisation=by_name["utilisation"], flops=H200.flops / 1e12, tokens=TOKENS),
        _table(
            (
                "encoder",
                "TFLOP a cell",
                "cells/s a GPU",
                "cells",
                *(f"{n:,} GPUs" for n in GPUS),
                "GPU-hours",
            ),
            _encoding_rows(by_name["utilisation"]),
        ),
        _BESIDE.format(core=by_name["encoding, Tahoe-x1 70m"]),
        _table(("encoder", "reading", "tokenising", "activations, one hook"), _feeding_rows(by_name)),
        _TRAINING.format(batch=SAE_BATCH, rates=H200.rates),
        _table(("autoencoder", "tokens", "GPUs", "GB a GPU", "hours", "GPU-hours"), _training_rows()),
        _STORING.format(members=MOST_CELLS, tokens=TOKENS, shard=TOKENS_PER_SHARD),
        _table(
            ("cells", "embeddings (float32, 512)", "members", "cache of one hook (bf16, 512)", "members"),
            _storing_rows(),
        ),
        _COORDINATING.format(gpus=GPUS[-1]),
        _table(
            ("encoder", "cells a member", "members/s", "protocol, cores", "requests/s", "Ray, cores"),
            _coordination_rows(by_name),
        ),
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def rates_of(text: str) -> list[Rate]:
    """The rates that a page was made from, out of its first table."""
    lines = text[text.index("|---") :].splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in _until_blank(lines)]
    return [Rate(name, float(value), unit, source) for name, value, unit, source in cells]


def _until_blank(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if not line:
            return
        yield line


def _cells_per_second(encoder: Encoder, utilisation: float) -> float:
    return utilisation * H200.flops / encoder.flops_per_cell


def _encoding_rows(utilisation: float) -> Iterator[Sequence[str]]:
    for encoder in encoders():
        rate = _cells_per_second(encoder, utilisation)
        for cells in CELLS:
            hours = cells / rate / 3600
            first = cells == CELLS[0]
            yield (
                encoder.name if first else "",
                f"{encoder.flops_per_cell / 1e12:.3g}" if first else "",
                f"{rate:,.0f}" if first else "",
                f"{cells / 1e6:,.0f}M",
                *(_hours(hours / n) for n in GPUS),
                f"{hours:,.1f}",
            )


def _feeding_rows(by_name: Mapping[str, float]) -> Iterator[Sequence[str]]:
    """What feeds one GPU, in cores, and what comes out of it."""
    for encoder in encoders():
        rate = _cells_per_second(encoder, by_name["utilisation"])
        written = rate * TOKENS * encoder.width * 2 / 1e6
        yield (
            encoder.name,
            f"{rate / by_name['reading cells']:.2f} cores",
            f"{rate / by_name['tokenising']:.2f} cores",
            f"{written:,.0f} MB/s",
        )


def _training_rows() -> Iterator[Sequence[str]]:
    for d_in, width, k, tokens, gpus in AUTOENCODERS:
        in_node = min(gpus, H200.gpus_per_node)
        training = TrainingOptions(
            steps=int(tokens // SAE_BATCH),
            batch=SAE_BATCH,
            workers=gpus,
            feature_parallel=in_node,
            zero=1,
            precision="bf16",
        )
        plan = of_sae(d_in=d_in, width=width, k=k, training=training)
        yield (
            f"{d_in:,} x {width:,}, k {k}",
            f"{tokens:.0e}",
            str(gpus),
            f"{plan.memory_bytes / 1e9:,.1f}",
            f"{plan.hours:,.2f}",
            f"{plan.hours * gpus:,.1f}",
        )


def _coordination_rows(by_name: Mapping[str, float]) -> Iterator[Sequence[str]]:
    """Of embeddings, and of a cache of every token."""
    for encoder in encoders():
        cells_per_second = GPUS[-1] * _cells_per_second(encoder, by_name["utilisation"])
        for cells in (MOST_CELLS, CELLS_OF_RAY):
            members = cells_per_second / cells
            yield (
                encoder.name if cells == MOST_CELLS else "",
                f"{cells:,}",
                f"{members:,.1f}",
                f"{members * by_name['committing'] / 1e3:,.2f}",
                f"{members * by_name['requests']:,.0f}",
                f"{members * by_name['Ray'] * CELLS_OF_RAY / 1e6:,.1f}",
            )


def _storing_rows() -> Iterator[Sequence[str]]:
    for cells in CELLS:
        yield (
            f"{cells / 1e6:,.0f}M",
            _size(cells * 512 * 4),
            f"{-(-cells // MOST_CELLS):,}",
            _size(cells * TOKENS * 512 * 2),
            f"{-(-cells // (TOKENS_PER_SHARD // TOKENS)):,}",
        )


def _hours(hours: float) -> str:
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e12:,.2f} TB" if n_bytes >= 1e12 else f"{n_bytes / 1e9:,.1f} GB"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]] | Iterator[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| --- |", "|---|", 1)


_INTRODUCTION = """
# Sizing

Made by `python -m cluster.sizing docs/benchmarks > docs/reference/sizing.md`; nothing is typed by hand.
GPU-hours are the price: multiply them by what yours cost. What the tables rest on:
"""
_ENCODING = """
## Encoding: embed, cache, train-sae from a stream

Cells of {tokens:,} tokens on H200s whose bf16 products reach {flops:g} TFLOP/s, of which encoders use
{utilisation:g}. A GPU encodes alone, so hours go with the number of GPUs as long as storage and coordination
keep up (below).
"""
_BESIDE = """
Without GPUs: a core encodes {core:.3g} cells a second with Tahoe-x1 70m.

What one GPU needs beside it, in cores, and what a cache writes per GPU and hook point: storage, not the GPU,
is the limit of a cache of a small encoder. Keep a sample (`--tokens-per-cell`) or train from the stream.
"""
_TRAINING = """
## Sparse autoencoders

From the planner (`syncytium train-sae --dry-run`), {batch:,} tokens a step, features over the GPUs of a node
and batches over nodes, at rates of {rates}. Not measured on GPUs yet. What delivers the tokens must keep up:
`--source-rate`.
"""
_STORING = """
## Storage

Embeddings in members of {members:,} cells; a cache of every token, {tokens:,} of each cell, in members of
{shard:,} tokens.
"""
_COORDINATING = """
## Coordination of {gpus:,} GPUs

Members that so many GPUs finish in a second, and what these cost: cores of the commit protocol (in the
workers), requests to the store, cores of Ray (driver and workers together). Where the last column is more
than a few cores, one driver is too little: what to do is in [scale](scale.md).
"""


def main(argv: Sequence[str]) -> int:
    if len(argv) != 1:
        print("usage: python -m cluster.sizing FOLDER_OF_REPORTS", file=sys.stderr)
        return 2
    print(page(rates(Path(argv[0]))), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
