"""One training step of large TopK autoencoders on a GPU: ours, SAELens' trainer, and the encoder's product.

Legend: B tokens of a batch, D width, F features.
"""

import sys
from pathlib import Path

import torch

from tests.benchmarks.device_time import cost, matrix_rate
from tests.benchmarks.report import Figure, main
from tests.benchmarks.sae_step import Size, activations, our_step, saelens_step

ABOUT = """Tokens per second of one training step (forward, backward, clipping at norm 1, fused Adam) of TopK
autoencoders on one GPU, encoder in bf16 with fp32 rescoring, everything else fp32. The ceiling is the step if
it were the encoder's product alone at the card's own best rate for square bf16 matrices, measured first.
SAELens is `SAETrainer.step` as installed, where it fits the card. Peak memory is that of the device."""

SETTINGS = [(Size(2_560, 40_960, 64, 4_096), True), (Size(2_560, 655_360, 64, 4_096), False)]
SMOKE = [(Size(64, 4_096, 16, 256), True)]


def compare(size: Size, with_saelens: bool, rate: float, device: torch.device) -> list[Figure]:
    where = f"{size.width} x {size.features:,}, k {size.k}"
    x_BD = activations(size).to(device)
    nobody = torch.zeros(size.features, dtype=torch.bool, device=device)
    ceiling = rate / (2 * size.width * size.features)
    ours, memory = cost(our_step(size, x_BD, nobody), device)
    figures = [
        Figure.ratio(
            f"{where}: share of the ceiling",
            size.tokens / ours,
            ceiling,
            "the encoder's product, tokens/s",
            0.6,
        ),
        Figure(
            name=f"{where}: peak memory",
            value=memory,
            unit="GiB",
            target=None,
            better="lower",
            ours=memory,
            theirs=None,
            theirs_is="-",
        ),
    ]
    if with_saelens:
        theirs, _ = cost(saelens_step(size, x_BD, nobody, fused=False), device)
        about = "SAELens 6.54 SAETrainer.step, tokens/s"
        figures.append(Figure.ratio(f"{where}: vs SAELens", size.tokens / ours, size.tokens / theirs, about))
    return figures


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    device = torch.device("cpu" if smoke else "cuda")
    rate = matrix_rate(device, smoke=smoke)
    settings = SMOKE if smoke else SETTINGS
    return [figure for size, saelens in settings for figure in compare(size, saelens, rate, device)]


if __name__ == "__main__":
    if not torch.cuda.is_available() and "--smoke" not in sys.argv:
        print("sae_gpu: this machine has no CUDA device, so nothing was measured and no report is written")
        raise SystemExit(0)
    raise SystemExit(main("sae_gpu", ABOUT, measure))
