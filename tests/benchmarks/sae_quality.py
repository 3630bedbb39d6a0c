"""What a sparse autoencoder is worth after equal steps: ours and SAELens', on real and on synthetic cells.

Legend: B tokens of a batch, D width, F features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from engine.interpret.comparison import DecoderCosine
from engine.interpret.comparison.matching import partners
from engine.models import sae
from jobs import train_sae
from jobs.anatomy import execute, parse
from jobs.demo_steps import FULL as DEMO
from jobs.demo_steps import SMALL as SMALL_DEMO
from storage.activations import ActivationCache
from tests.benchmarks.encoding.real_cells import few_cells, real_cells
from tests.benchmarks.quality.measured import Quality, quality
from tests.benchmarks.quality.real_activations import RealActivations, real_activations
from tests.benchmarks.quality.saelens_training import train_saelens
from tests.benchmarks.quality.synthetic_cells import GENES, TOKENS_PER_CELL, WIDTH, SyntheticCells
from tests.benchmarks.report import Figure, main

ABOUT = """Real cells: a third of PBMC3k through an encoder trained as the demo trains its own (200 steps),
width 128; autoencoders of 1,024 features, k 32, 400 steps of 2,048 tokens of the same cache, one
thread. Ours is `train-sae` with its defaults; SAELens is `SAETrainer` with its defaults, exported
with `save_inference_model`. Everything is measured with the exported directory on every eighth
cell, held out from both: FVU (sums of squares in float64), share of features that never fire
there, and how far L0 is from k by more than its standard error over the held-out cells, in hundredths
of a feature (TopK fires fewer than k where fewer are positive). Values are differences, ours less
theirs, so that 0 is equal. The encoder's activations lie far from zero, which SAELens does not take
off by default: with nearly all features dead, the few left fire on every token, and so L0 looks right.
A second set of lines gives SAELens tokens that are centred and scaled as ours are, our learning rate
and our window for dead features. Synthetic cells: 256 tokens each, sums of 600 gene and 300 program
directions, width 128, k 16, batches of 8 cells' tokens, a learning rate of 5e-3. Offset: a constant ten times
as long as the spread of the tokens (1,024 features, 200 steps). Shuffle: the same tokens with
cells kept whole, or shuffled over 16, 64 or 256 cells (2,048 features, 300 steps, our objective
alone); found is the share of directions with a decoder row at a cosine above 0.9."""


@dataclass(frozen=True)
class Size:
    """Of one autoencoder's training; batch in tokens."""

    width: int
    k: int
    steps: int
    batch: int = 2048


@dataclass(frozen=True)
class Sizes:
    """Steps of the encoder; trainings on real cells, with an offset, and in different orders."""

    encoder_steps: int
    real: Size
    offset: Size
    shuffle: Size
    held_cells: int


FULL = Sizes(200, Size(1024, 32, 400), Size(1024, 16, 200), Size(2048, 16, 300), 200)
SMALL = Sizes(5, Size(64, 4, 12, 256), Size(64, 16, 3), Size(64, 16, 3), 4)
SYNTHETIC_RATE = 5e-3
GAMMA = 10.0
HELD_CELLS_FROM = 1_000_000
SEED = 0


def held_tokens(acts: RealActivations) -> list[torch.Tensor]:
    """Cell by cell."""
    cache = ActivationCache.open(str(acts.held_out))
    cells = []
    for record in cache.members:
        tokens = cache.read(cache.hooks[0], record.key)
        by_cell_T = torch.from_numpy(np.argsort(tokens.cell, kind="stable"))
        _, tokens_C = np.unique(tokens.cell, return_counts=True)
        cells += torch.split(tokens.acts.float()[by_cell_T], tokens_C.tolist())
    return cells


def batches(cache_path: Path, size: Size) -> Iterator[torch.Tensor]:
    """The tokens of a cache, shuffled as for ours."""
    cache = ActivationCache.open(str(cache_path))
    stream = cache.batches(cache.hooks[0], size.batch, seed=SEED)
    return (tokens.acts.float() for tokens in stream)


def train_ours(arch: str, cache: Path, size: Size, output: Path, **settings: float) -> Path:
    flags = {
        "cache": cache,
        "arch": arch,
        "width": size.width,
        "k": size.k,
        "steps": size.steps,
        "batch-tokens": size.batch,
        "workers": 0,
        "seed": SEED,
        "output": output,
        **settings,
    }
    argv = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    execute("train-sae", parse("train-sae", train_sae.Options, argv), train_sae.run)
    return output


def on_real_cells(scratch: Path, sizes: Sizes, smoke: bool) -> list[Figure]:
    size = sizes.real
    counts, genes = few_cells() if smoke else real_cells("pbmc3k.h5ad")
    demo = SMALL_DEMO if smoke else DEMO
    acts = real_activations(scratch, counts if smoke else counts[::3], genes, demo, sizes.encoder_steps)
    held_out = held_tokens(acts)
    figures = []
    for arch in ("topk", "batchtopk"):
        ours = quality(train_ours(arch, acts.train, size, scratch / f"ours_{arch}"), held_out)
        theirs = quality(_saelens(arch, acts.train, size, scratch / f"saelens_{arch}"), held_out)
        figures += compared(arch, size.k, ours, theirs, "SAELens 6.54, its defaults", 0.0)
        if arch == "topk":
            centred = centred_saelens(acts, size, scratch / "centred", held_out)
            figures += compared(arch, size.k, ours, centred, "SAELens, tokens and settings as ours", None)
    return figures


def centred_saelens(
    acts: RealActivations, size: Size, output: Path, held_out: Sequence[torch.Tensor]
) -> Quality:
    """SAELens on tokens that were centred and scaled for it, at our learning rate and with our window for
    dead features: what is left of the difference is not the recipe."""
    sample = torch.cat(list(islice(batches(acts.train, size), 64)))
    mean_D = sample.mean(0)
    scale = float((sample.shape[1] / (sample - mean_D).square().sum(1).mean()).sqrt())
    stream = ((x_BD - mean_D) * scale for x_BD in batches(acts.train, size))
    settings = {"lr": 2e-4 * (16384 / size.width) ** 0.5, "dead_feature_window": max(size.steps // 50, 1)}
    directory = train_saelens("topk", stream, output, **vars(size), **settings)
    return quality(directory, [(x_BD - mean_D) * scale for x_BD in held_out])


def _saelens(arch: str, cache: Path, size: Size, output: Path, **settings: float) -> Path:
    return train_saelens(arch, batches(cache, size), output, **vars(size), **settings)


def compared(
    arch: str, k: int, ours: Quality, theirs: Quality, theirs_is: str, target: float | None
) -> list[Figure]:
    def figure(name: str, mine: float, other: float, unit: str) -> Figure:
        return Figure(
            name=f"{arch}: {name}",
            value=mine - other,
            unit=unit,
            target=target,
            better="lower",
            ours=mine,
            theirs=other,
            theirs_is=theirs_is,
        )

    return [
        figure("FVU", ours.fvu, theirs.fvu, "of the variance"),
        figure("dead features", 100 * ours.dead, 100 * theirs.dead, "points"),
        figure("L0 off k", round(ours.l0_off(k), 2), round(theirs.l0_off(k), 2), "features"),
    ]


@dataclass(frozen=True)
class Synthetic:
    """Quality on held-out synthetic cells, and the share of directions found."""

    quality: Quality
    genes: float
    programs: float


def judged(directory: Path, source: SyntheticCells, held_cells: int) -> Synthetic:
    decoder_FD = sae.load(directory).W_dec.detach()
    found = partners(DecoderCosine(source.directions, decoder_FD), candidates=1)[0]
    recovered = found.similarity_FC[:, 0] > 0.9
    held_out = [source.cell(HELD_CELLS_FROM + number) for number in range(held_cells)]
    return Synthetic(
        quality(directory, held_out), float(recovered[:GENES].mean()), float(recovered[GENES:].mean())
    )


def train_shuffled(buffer_cells: int | None, sizes: Sizes, output: Path) -> Synthetic:
    """Our objective on tokens in this order, centred and scaled as `train-sae` does; all else alike."""
    source, size = SyntheticCells(), sizes.shuffle
    sample = torch.cat(list(islice(source.stream(size.batch, 256), 32)))
    mean_D = sample.mean(0)
    scale = float((WIDTH / (sample - mean_D).square().sum(1).mean()).sqrt())
    training = sae.TrainingModule(
        sae.create(WIDTH, size.width, size.k), sae.ObjectiveOptions(aux_coefficient=1 / 32)
    )
    steps, window = size.steps, max(size.steps * size.batch // 50, size.batch)
    optimiser = torch.optim.Adam(training.parameters(), lr=SYNTHETIC_RATE, eps=6.25e-10, fused=True)
    ramp = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / (steps // 20 + 1), 5 * (1 - step / steps))
    )
    silent_F = torch.zeros(size.width, dtype=torch.int64)
    for x_BD in islice(source.stream(size.batch, buffer_cells), steps):
        found = training((x_BD - mean_D) * scale, silent_F >= window)
        silent_F = torch.where(found.fired_F, 0, silent_F + len(x_BD))
        optimiser.zero_grad()
        (found.loss / WIDTH).backward()
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimiser.step()
        ramp.step()
    sae.save(sae.fold_input_scaling(training.sae, mean_D, scale), output)
    return judged(output, source, sizes.held_cells)


def train_moved(gamma: float, sizes: Sizes, scratch: Path) -> tuple[Synthetic, Synthetic]:
    """(`train-sae`, SAELens) on a cache of tokens with an offset; learning rate and sizes alike."""
    source, size = SyntheticCells(gamma), sizes.offset
    n_cells = -(-size.steps * size.batch // TOKENS_PER_CELL)
    cache = source.write_cache(scratch / f"moved_{gamma}", n_cells)
    ours = train_ours("topk", cache, size, scratch / f"ours_{gamma}", lr=SYNTHETIC_RATE)
    theirs = _saelens("topk", cache, size, scratch / f"saelens_{gamma}", lr=SYNTHETIC_RATE)
    return judged(ours, source, sizes.held_cells), judged(theirs, source, sizes.held_cells)


def on_synthetic_cells(scratch: Path, sizes: Sizes) -> list[Figure]:
    still, moved = (train_moved(gamma, sizes, scratch) for gamma in (0.0, GAMMA))
    shuffled = {
        buffer: train_shuffled(buffer, sizes, scratch / f"shuffled_{buffer}")
        for buffer in (None, 16, 64, 256)
    }
    return [*offset_figures(still, moved), *shuffle_figures(shuffled)]


def offset_figures(still: tuple[Synthetic, Synthetic], moved: tuple[Synthetic, Synthetic]) -> list[Figure]:
    """How much an offset changes, for (ours, SAELens)."""

    def change(name: str, measure: str, scale: float, target: float | None, unit: str) -> Figure:
        before, after = ([scale * getattr(run.quality, measure) for run in runs] for runs in (still, moved))
        return Figure(
            name=f"offset of {GAMMA:g}: {name} ({before[0]:.3g} to {after[0]:.3g})",
            value=abs(after[0] - before[0]),
            unit=unit,
            target=target,
            better="lower",
            ours=after[0] - before[0],
            theirs=after[1] - before[1],
            theirs_is=f"SAELens, whose b_dec begins at 0 ({before[1]:.3g} to {after[1]:.3g})",
        )

    return [
        change("change of dead features", "dead", 100, 1.0, "points"),
        change("change of FVU", "fvu", 1, None, "of the variance"),
    ]


def shuffle_figures(shuffled: dict[int | None, Synthetic]) -> list[Figure]:
    """Each buffer beside none; the rule of `train-sae` (32 batches' worth of cells) is the last."""
    none = shuffled[None]
    figures = []
    for buffer, run in shuffled.items():
        if buffer is None:
            continue
        last = buffer == 256
        for name, mine, other, better in (
            ("FVU", run.quality.fvu, none.quality.fvu, "lower"),
            ("programs found", run.programs, none.programs, "higher"),
            ("genes found", run.genes, none.genes, "higher"),
        ):
            figures.append(
                Figure(
                    name=f"shuffled over {buffer} cells: {name}",
                    value=mine - other,
                    unit="more" if better == "higher" else "of the variance",
                    target=0.0 if last else None,
                    better=better,  # type: ignore[arg-type]
                    ours=mine,
                    theirs=other,
                    theirs_is="ours, cells whole and in order",
                )
            )
    return figures


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    torch.set_num_threads(1)
    sizes = SMALL if smoke else FULL
    return [*on_real_cells(scratch, sizes, smoke), *on_synthetic_cells(scratch, sizes)]


if __name__ == "__main__":
    raise SystemExit(main("sae_quality", ABOUT, measure))
