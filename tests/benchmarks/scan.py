"""The scans of Mamba-1 and Mamba-2 over a genome's genes, forward and backward, against loops over genes.

Legend: B sequences, L length, E channels, N state, H heads, P head width, G groups.
"""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.models.bimamba.scan import ssd
from engine.models.bimamba.selective_scan import selective_scan
from tests.benchmarks.report import Figure, main

ABOUT = """CPU-seconds of one forward and backward pass of the scan alone (no projections), one sequence,
float32, one thread, d_model 128 (256 channels, 4 heads of 64), 16 states, best of interleaved repeats. The
loops are written here as one writes the recurrence: `indexing` reads `x[:, t]`, whose gradient is a tensor as
long as the whole, so that its time grows with the square of the length and is measured at 1,125 genes;
`unbind` cuts the sequence once and is linear. The matrix form is all chunks at once with a decay between
every pair of chunks. Memory is the growth of the process's resident size during the pass. Step sizes and
decays are those of mamba-ssm's initialisation. The best CPU figure of the specification for 18,000 genes is
0.214 s, measured on another day on this kind of machine."""

CHANNELS, HEADS, STATE = 256, 4, 16
SPECIFIED = 0.214
Pass = Callable[[], object]


def step_sizes(length: int, channels: int) -> Tensor:
    """Log-uniform from 0.001 to 0.1 by channel, and half as much again along the sequence."""
    by_channel = torch.exp(torch.rand(channels) * 4.6 - 6.9)
    return (by_channel * (0.5 + torch.rand(1, length, channels))).requires_grad_()


def state_inputs(length: int, *shape: int) -> Tensor:
    return torch.randn(1, length, *shape, requires_grad=True)


def mamba2_inputs(length: int) -> tuple[Tensor, ...]:
    rates_H = (-(1 + 15 * torch.rand(HEADS))).requires_grad_()
    x_BLHP = state_inputs(length, HEADS, CHANNELS // HEADS)
    return x_BLHP, step_sizes(length, HEADS), rates_H, *(state_inputs(length, 1, STATE) for _ in range(2))


def mamba1_inputs(length: int) -> tuple[Tensor, ...]:
    rates_EN = (-torch.arange(1.0, STATE + 1).repeat(CHANNELS, 1)).requires_grad_()
    x_BLE = state_inputs(length, CHANNELS)
    return x_BLE, step_sizes(length, CHANNELS), rates_EN, *(state_inputs(length, STATE) for _ in range(2))


def backward_of(scan: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Pass:
    def step() -> None:
        for part in inputs:
            part.grad = None
        scan(*inputs).square().mean().backward()

    return step


def indexing_loop(u_BLE: Tensor, dt_BLE: Tensor, A_EN: Tensor, B_BLN: Tensor, C_BLN: Tensor) -> Tensor:
    """The recurrence of Mamba-1, reading by index."""
    decay_BLEN = (dt_BLE[..., None] * A_EN).exp()
    added_BLEN = (dt_BLE * u_BLE)[..., None] * B_BLN[..., None, :]
    state_BEN, outputs = torch.zeros_like(added_BLEN[:, 0]), []
    for t in range(u_BLE.shape[1]):
        state_BEN = decay_BLEN[:, t] * state_BEN + added_BLEN[:, t]
        outputs.append((state_BEN * C_BLN[:, t, None]).sum(-1))
    return torch.stack(outputs, 1)


def unbind_loop(u_BLE: Tensor, dt_BLE: Tensor, A_EN: Tensor, B_BLN: Tensor, C_BLN: Tensor) -> Tensor:
    """The same, cut along the sequence once."""
    decay_BLEN = (dt_BLE[..., None] * A_EN).exp()
    added_BLEN = (dt_BLE * u_BLE)[..., None] * B_BLN[..., None, :]
    state_BEN, outputs = torch.zeros_like(added_BLEN[:, 0]), []
    for decay, added, C_BN in zip(decay_BLEN.unbind(1), added_BLEN.unbind(1), C_BLN.unbind(1), strict=True):
        state_BEN = decay * state_BEN + added
        outputs.append((state_BEN * C_BN[:, None]).sum(-1))
    return torch.stack(outputs, 1)


def matrix_form(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor) -> Tensor:
    """Mamba-2 with chunks of 64, all of them at once, and a matrix of decays between chunks for each head."""
    chunk, length = 64, x_BLHP.shape[1]
    assert length % chunk == 0
    x, B, C = (part.unflatten(1, (-1, chunk)) for part in (x_BLHP * dt_BLH[..., None], B_BLGN, C_BLGN))
    log = (dt_BLH * A_H).unflatten(1, (-1, chunk)).movedim(-1, 1).cumsum(-1)  # [B, H, chunks, Q]
    within = decays(log)
    y = torch.einsum("bcqgn,bckgn,bhcqk,bckhp->bcqhp", C, B, within, x)
    states = torch.einsum("bckgn,bhck,bckhp->bchpn", B, (log[..., -1:] - log).exp(), x)
    totals = torch.nn.functional.pad(log[..., -1], (1, 0)).cumsum(-1)
    before = torch.einsum("bhzc,bchpn->bzhpn", decays(totals)[..., :-1, 1:], states)
    y = y + torch.einsum("bcqgn,bchpn,bhcq->bcqhp", C, before, log.exp())
    return y.flatten(1, 2)


def decays(log: Tensor) -> Tensor:
    """exp(log_i - log_j) for j <= i, else 0."""
    later = torch.ones(log.shape[-1], log.shape[-1], dtype=torch.bool).triu(1)
    return (log[..., :, None] - log[..., None, :]).masked_fill(later, -torch.inf).exp()


def seconds(passes: dict[str, Pass], repeats: int) -> dict[str, float]:
    """CPU-seconds of each, best of `repeats` taken in turn."""
    best = dict.fromkeys(passes, float("inf"))
    for _ in range(repeats):
        for name, step in passes.items():
            started = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - started)
    return best


def grown_megabytes(kind: str, length: int) -> float:
    """Growth of the peak resident size during a pass, in a fresh process: nothing freed before is reused."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as processes:
        return processes.apply(_growth_here, (kind, length))


def _growth_here(kind: str, length: int) -> float:
    torch.set_num_threads(1)
    make, scan = {"mamba2": (mamba2_inputs, ssd), "mamba1": (mamba1_inputs, selective_scan)}[kind]
    backward_of(scan, make(128))()  # threads and buffers that any pass makes once
    step = backward_of(scan, make(length))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step()
    return (resident("VmHWM") - before) / 1e6


def resident(field: str) -> int:
    """Bytes that the kernel reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def largest_difference(length: int) -> float:
    """Between our gradients and the loop's, relative to the largest of each."""
    found = []
    for scan in (selective_scan, unbind_loop):
        torch.manual_seed(1)
        inputs = mamba1_inputs(length)
        backward_of(scan, inputs)()
        found.append([part.grad for part in inputs])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    short, whole = (256, 1_024) if smoke else (2_048, 18_048)
    looped = 128 if smoke else 1_125
    at_length = {
        length: {
            "mamba2": backward_of(ssd, mamba2_inputs(length)),
            "mamba1": backward_of(selective_scan, mamba1_inputs(length)),
        }
        for length in (short, whole)
    }
    repeats = 2 if smoke else 5
    ours = {length: seconds(passes, repeats) for length, passes in at_length.items()}
    full = seconds(
        {
            **at_length[whole],
            "unbind": backward_of(unbind_loop, mamba1_inputs(whole)),
            "matrix": backward_of(matrix_form, mamba2_inputs(whole)),
        },
        2 if smoke else 3,
    )
    slow = seconds(
        {
            "mamba2": backward_of(ssd, mamba2_inputs(looped)),
            "indexing": backward_of(indexing_loop, mamba1_inputs(looped)),
        },
        2,
    )
    genes = f"{whole:,} genes"
    best = min(ours[whole]["mamba2"], full["mamba2"])
    figures = [
        Figure.error(f"Mamba-2 scan, {genes}, of the specification's best", best / SPECIFIED, "x", 2.0),
        versus(f"Mamba-2 scan vs a Mamba-1 loop with unbind, {genes}", best, full["unbind"], 10.0),
        versus(
            f"Mamba-2 scan vs a Mamba-1 loop with indexing, {looped:,} genes",
            slow["mamba2"],
            slow["indexing"],
            10.0,
        ),
        versus(f"Mamba-2 scan vs the matrix form, {genes}", best, full["matrix"], None),
        versus(f"Mamba-1 scan vs a Mamba-1 loop with unbind, {genes}", full["mamba1"], full["unbind"], None),
    ]
    for name, title in (("mamba2", "Mamba-2"), ("mamba1", "Mamba-1")):
        spent = [ours[length][name] for length in (short, whole)]
        grown = [grown_megabytes(name, length) for length in (short, whole)]
        figures.append(growth(title, (short, whole), spent, "s"))
        figures.append(growth(title, (short, whole), grown, "MB"))
    error = largest_difference(short)
    figures.append(Figure.error("Mamba-1 gradients vs the loop's", error, "relative", 1e-4, "unbind loop"))
    return figures


def versus(name: str, ours: float, theirs: float, target: float | None) -> Figure:
    return Figure.ratio(name, 1 / ours, 1 / theirs, "the other one, passes/CPU-s", target)


def growth(name: str, lengths: tuple[int, int], found: list[float], unit: str) -> Figure:
    """How much more a gene costs in a long sequence than in a short one: 1 is linear."""
    per_gene = [amount / length for amount, length in zip(found, lengths, strict=True)]
    return Figure(
        name=f"{name} scan, {unit} a gene at {lengths[1]:,} over {lengths[0]:,} genes",
        value=per_gene[1] / per_gene[0],
        unit="x",
        target=1.3,
        better="lower",
        ours=found[1],
        theirs=found[0],
        theirs_is=f"ours, {lengths[0]:,} genes, {unit}",
    )


if __name__ == "__main__":
    raise SystemExit(main("scan", ABOUT, measure))
