"""Tahoe-x1 shapes on a GPU: model FLOPs utilisation, peak memory, and the padded way of running them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.models import Tokens, tahoe
from engine.models.layers.precision import set_precision
from engine.streaming.copies import on_device
from engine.streaming.packing import pack
from tests.benchmarks.device_time import cost, matrix_rate
from tests.benchmarks.encoding import padded_tahoe
from tests.benchmarks.report import Figure, main

ABOUT = """Tahoe-x1 architectures with random weights in bf16, all states of the last layer: packed batches of
a token budget, and the same weights over padded batches of 64 cells in file order with one masked SDPA call
per layer. Useful FLOPs are those of the blocks over the cells' own tokens; utilisation is their rate over the
card's own best rate for square bf16 matrices, measured first. Cell lengths are drawn from the deciles of
pbmc4k's and capped. Copies to the device are included; tokenising and the way back to the host are not."""

# Tokens per cell of pbmc4k_soupx.h5ad (2,170 cells), <cls> included.
DECILES = [499, 878, 1007, 1092, 1162, 1237, 1317, 1411, 1562, 1857, 4135]
VOCABULARY = 62_706  # genes of the released models; with the special tokens 62,720
PADDED_CELLS = 64


@dataclass(frozen=True)
class Setting:
    """One line of the report. target: least utilisation asked for, of 1."""

    name: str
    sizes: dict[str, Any]
    max_tokens: int
    n_cells: int
    budget: int
    target: float | None


SETTINGS = [
    Setting(name, {"preset": preset}, max_tokens, n_cells, 32_768, target)
    for name, preset, n_cells, target in (
        ("70M", "70m", 1024, 0.3),
        ("1.3B", "1b", 256, 0.5),
        ("3B", "3b", 128, 0.5),
    )
    for max_tokens in (1024, 2048)
]
SMOKE = [Setting("tiny", {"n_layers": 2, "d_model": 32, "n_heads": 2}, 64, 20, 256, None)]


def build(setting: Setting, device: torch.device) -> tahoe.TahoeEncoder:
    """The architecture with its weights made on the device: a 3B model need not pass through host memory."""
    n_genes = 200 if setting in SMOKE else VOCABULARY
    with torch.device("meta"):
        encoder = tahoe.create([f"ENSG{gene:011d}" for gene in range(n_genes)], **setting.sizes)
    set_precision(encoder, "bf16")
    encoder = encoder.to_empty(device=device).eval()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0, module.weight.shape[1] ** -0.5)
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    return encoder


def cells(setting: Setting, n_vocabulary: int) -> Tokens:
    random = np.random.default_rng(0)
    draws = np.interp(random.random(setting.n_cells), np.linspace(0, 1, len(DECILES)), DECILES)
    scale = setting.max_tokens / 1024 if setting in SMOKE else 1
    lengths = np.minimum(draws * scale, setting.max_tokens).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids_T = random.integers(3, n_vocabulary, offsets[-1]).astype(np.int32)
    return Tokens(ids_T, random.integers(1, 51, offsets[-1]).astype(np.float32), offsets)


def useful_flops(encoder: tahoe.TahoeEncoder, lengths: np.ndarray) -> float:
    """Of all blocks over the cells' own tokens, two per multiplication and addition."""
    width, ffn = encoder.d_model, encoder.config.d_ffn
    linear = 2 * (4 * width * width + 2 * width * ffn) * float(lengths.sum())
    attention = 4 * width * float((lengths.astype(np.float64) ** 2).sum())
    return encoder.n_layers * (linear + attention)


@torch.inference_mode()
def packed(encoder: tahoe.TahoeEncoder, tokens: Tokens, budget: int) -> None:
    for _, batch in on_device(tokens, pack(tokens.lengths, budget), encoder.device):
        encoder(batch, ("final",))


@torch.inference_mode()
def padded(encoder: tahoe.TahoeEncoder, tokens: Tokens) -> torch.Tensor:
    """x_TD of the last batch."""
    for start in range(0, tokens.n_cells, PADDED_CELLS):
        some = tokens.select(range(start, min(start + PADDED_CELLS, tokens.n_cells)))
        batch = padded_tahoe.PaddedBatch(some, encoder.tokeniser.pad_id, device=str(encoder.device))
        with torch.autocast(encoder.device.type, torch.bfloat16):
            x_CSD = padded_tahoe.embed(encoder, batch)
            for layer in encoder.blocks:
                x_CSD = padded_tahoe.block(layer, x_CSD, batch, mask=True)
            x_CSD = encoder.final_norm(x_CSD)
    return x_CSD[batch.valid_CS].float()


@torch.inference_mode()
def difference(encoder: tahoe.TahoeEncoder, tokens: Tokens) -> float:
    """The largest between both ways over a few cells, in units of the largest state; of bfloat16's size."""
    few = tokens.select(range(4))
    expected_TD = padded(encoder, few)
    return float((encoder(few).hooks["final"] - expected_TD).abs().max() / expected_TD.abs().max())


def compare(setting: Setting, rate: float, device: torch.device) -> list[Figure]:
    encoder = build(setting, device)
    tokens = cells(setting, encoder.config.vocab_size)
    flops = useful_flops(encoder, tokens.lengths)
    ours, our_memory = cost(lambda: packed(encoder, tokens, setting.budget), device)
    theirs, their_memory = cost(lambda: padded(encoder, tokens), device)
    off = difference(encoder, tokens)
    where = f"{setting.name}, {setting.max_tokens:,} tokens"
    return [
        Figure(
            name=f"{where}: utilisation",
            value=flops / ours / rate,
            unit="of 1",
            target=setting.target,
            better="higher",
            ours=flops / ours / 1e12,
            theirs=rate / 1e12,
            theirs_is="the device's bf16 matrices, TFLOP/s",
        ),
        Figure.ratio(
            f"{where}: against padding",
            tokens.n_cells / ours,
            tokens.n_cells / theirs,
            "padded batches of 64 with SDPA, cells/s",
        ),
        Figure.cost(
            f"{where}: peak memory", our_memory, their_memory, "GiB", "padded batches of 64 with SDPA, GiB"
        ),
        Figure.error(f"{where}: largest difference", off, "of the largest state", 0.05),
    ]


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    device = torch.device("cpu" if smoke else "cuda")
    rate = matrix_rate(device, smoke=smoke)
    settings = SMOKE if smoke else SETTINGS
    return [figure for setting in settings for figure in compare(setting, rate, device)]


if __name__ == "__main__":
    if not torch.cuda.is_available() and "--smoke" not in sys.argv:
        print("gpu: this machine has no CUDA device, so nothing was measured and no report is written")
        raise SystemExit(0)
    raise SystemExit(main("gpu", ABOUT, measure))
