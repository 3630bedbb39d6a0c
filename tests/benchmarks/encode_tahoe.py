"""Tahoe-x1 70M: our stream against the official way of running the same weights."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine.models import Tokens, tahoe
from engine.models.layers.precision import set_precision
from engine.streaming.members import Member
from engine.streaming.packing import BATCH_TOKENS, pack, token_slots
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.products.embeddings import EmbeddingProduct
from tests.benchmarks.cpu_time import cpu_seconds_in_turns
from tests.benchmarks.encoding import padded_tahoe
from tests.benchmarks.encoding.packed import steps
from tests.benchmarks.encoding.real_cells import few_cells, real_cells
from tests.benchmarks.report import Figure, main

ABOUT = """Cells per CPU-second through Tahoe-x1's 70M architecture with random weights, one thread: our
collectors over packed batches, and the same weights run as the official inference script does (padded
batches of 64 cells in file order, float32, all blocks over all rows, padding left out by attention alone, no
prediction heads), from tokens to results. Both run every fourth of the first 64 cells of pbmc3k, which the
official way pads to the longest of the 64: what a row costs does not depend on how many there are. Steps of
both take turns."""

BATCH, MAX_TOKENS = 64, 2048
EVERY = 4
THEIRS = "padded batch of 64, full depth, float32, cells per CPU-s"


class Official:
    """The official run: one step per block. embeddings and middle_TD hold what it is compared by."""

    def __init__(self, encoder: tahoe.TahoeEncoder, tokens: Tokens, longest: int, middle: int) -> None:
        self.encoder, self.tokens, self.longest, self.middle = encoder, tokens, longest, middle

    @torch.inference_mode()
    def steps(self) -> Iterator[None]:
        batch = padded_tahoe.PaddedBatch(self.tokens, self.encoder.tokeniser.pad_id, longest=self.longest)
        x_CSD = padded_tahoe.embed(self.encoder, batch)
        for index, layer in enumerate(self.encoder.blocks):
            yield
            x_CSD = padded_tahoe.block(layer, x_CSD, batch)
            if index == self.middle:
                self.middle_TD = x_CSD[batch.valid_CS]
        self.embeddings = F.normalize(self.encoder.final_norm(x_CSD)[:, 0], dim=1).numpy()


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    torch.set_num_threads(1)
    counts, genes = few_cells() if smoke else real_cells("pbmc3k.h5ad")
    sizes: dict[str, Any] = {"n_layers": 4} if smoke else {"preset": "70m"}
    encoder = tahoe.create(genes, **sizes).eval()
    half = copy.deepcopy(encoder)
    set_precision(half, "bf16")
    member_lengths = np.minimum(np.diff(counts.indptr[:513]) + 1, MAX_TOKENS)
    counts = counts[:BATCH]
    batch = encoder.tokeniser.tokenise(
        counts.indptr, counts.indices, counts.data, encoder.tokeniser.match(genes), max_tokens=MAX_TOKENS
    )
    tokens = batch.select(range(0, batch.n_cells, EVERY))
    middle = encoder.n_layers // 2 - 1
    hook = f"resid_post_{middle}"
    member = Member("0", 0, tokens.n_cells)
    embedding = EmbeddingProduct(encoder.n_layers - 1, "cls")
    cache = ActivationProduct((hook,), "fp32", None, special_tokens=False, seed=0, identity={})
    official = Official(encoder, tokens, int(batch.lengths.max()), middle)
    embedded, halved = embedding.collect(encoder, tokens, member), embedding.collect(half, tokens, member)
    cached = cache.collect(encoder, tokens, member)
    spent = cpu_seconds_in_turns(
        {
            "official": official.steps(),
            "embeddings": steps(encoder, tokens, embedded),
            "hook": steps(encoder, tokens, cached),
            "bf16": steps(half, tokens, halved),
        }
    )
    rate = {name: tokens.n_cells / seconds for name, seconds in spent.items()}
    kept = cached.kept.row_T >= 0
    off = {
        "embeddings": float(np.abs(embedded.e_CD - official.embeddings).max()),
        "hook": float((cached.acts[hook][cached.kept.row_T[kept]] - official.middle_TD[kept]).abs().max()),
        "bf16": float(np.abs(halved.e_CD - embedded.e_CD).max()),
    }
    budget = 64 if smoke else BATCH_TOKENS
    padded = float(batch.lengths.max() * batch.n_cells)
    filled = float(member_lengths.sum() / token_slots(pack(member_lengths, budget), member_lengths, budget))
    return [
        Figure.ratio("cell embeddings", rate["embeddings"], rate["official"], THEIRS, 2.0),
        Figure.ratio(f"hook {hook}", rate["hook"], rate["official"], THEIRS, 4.0),
        Figure.ratio(
            "bf16 cell embeddings", rate["bf16"], rate["embeddings"], "our float32, cells per CPU-s", 1.5
        ),
        Figure.ratio("bf16 cell embeddings vs official", rate["bf16"], rate["official"], THEIRS),
        Figure.error("cell embeddings, largest difference", off["embeddings"], "absolute", 1e-4),
        Figure.error(f"hook {hook}, largest difference", off["hook"], "absolute", 1e-4),
        Figure.error("bf16 cell embeddings, largest difference to float32", off["bf16"], "absolute", None),
        share("useful tokens among those computed", 1.0, batch.n_tokens / padded, "padded"),
        share("tokens in a batch of 8,192, 512 cells of pbmc3k", filled, None, "-"),
    ]


def share(name: str, ours: float, theirs: float | None, theirs_is: str) -> Figure:
    return Figure(
        name=name,
        value=ours,
        unit="of 1",
        target=0.97,
        better="higher",
        ours=ours,
        theirs=theirs,
        theirs_is=theirs_is,
    )


if __name__ == "__main__":
    raise SystemExit(main("encode_tahoe", ABOUT, measure))
