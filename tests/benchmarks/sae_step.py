"""One training step of a TopK autoencoder: ours, SAELens' trainer, and plain dense PyTorch.

Legend: B tokens of a batch, D width, F features, K active features.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from torch import Tensor, nn

from engine.models import sae
from tests.benchmarks.report import Figure, main

ABOUT = """Tokens per CPU-second of one training step (forward, backward, clipping of the gradient at norm 1,
Adam with the same settings) on one thread: TopK, width 512, 16,384 features, 64 active, 4,096 tokens, fp32.
Ours is the sparse step with fused Adam; SAELens is `SAETrainer.step` as installed, and again with its
optimiser made fused; dense PyTorch is the plain formula with fused Adam; the limit is the encoder's matrix
product alone. Same weights and activations (sums of 2 % of 4,096 directions, and noise), best of several
interleaved steps. The gradient's error is the largest difference from dense autograd in any weight, divided
by the largest gradient of that weight."""


class Size(NamedTuple):
    width: int
    features: int
    k: int
    tokens: int


FULL, SMALL = Size(512, 16_384, 64, 4_096), Size(64, 4_096, 16, 512)
LEARNING_RATE, CLIP = 3e-4, 1.0

Step = Callable[[], object]


def activations(size: Size) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    directions = nn.functional.normalize(torch.randn(4_096, size.width, generator=generator), dim=1)
    fires = torch.rand(size.tokens, 4_096, generator=generator) < 0.02
    x_BD = (torch.rand(size.tokens, 4_096, generator=generator) * fires) @ directions
    x_BD = x_BD + 0.05 * torch.randn(x_BD.shape, generator=generator)
    x_BD = x_BD - x_BD.mean(0)
    return x_BD * (size.width**0.5 / x_BD.square().sum(1).mean().sqrt())


def our_step(size: Size, x_BD: Tensor, dead_F: Tensor) -> Step:
    training = sae.TrainingModule(sae.create(size.width, size.features, size.k)).to(x_BD.device)
    optimiser = torch.optim.Adam(training.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> None:
        training(x_BD, dead_F).loss.backward()
        nn.utils.clip_grad_norm_(training.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()

    return step


def saelens_step(size: Size, x_BD: Tensor, dead_F: Tensor, *, fused: bool) -> Step:
    device = str(x_BD.device)
    config = TopKTrainingSAEConfig(d_in=size.width, d_sae=size.features, k=size.k, device=device)
    theirs = TopKTrainingSAE(config)
    theirs.load_state_dict(sae.create(size.width, size.features, size.k).state_dict())
    settings = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=size.tokens,
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE,
        device=device,
    )
    trainer = SAETrainer(settings, theirs, iter([]))
    if fused:
        trainer.optimizer = torch.optim.Adam(theirs.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> None:
        trainer.n_forward_passes_since_fired[dead_F] = 10**6
        trainer.step(x_BD)
        trainer.n_training_steps += 1

    return step


def dense_step(size: Size, x_BD: Tensor) -> Step:
    """The formula as one would write it: scatter the k values, multiply by the whole decoder."""
    model = sae.create(size.width, size.features, size.k)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> None:
        h_BF = (x_BD - model.b_dec) @ model.W_enc + model.b_enc
        value_BK, index_BK = h_BF.topk(size.k, dim=-1, sorted=False)
        a_BF = torch.zeros_like(h_BF).scatter(-1, index_BK, value_BK.relu())
        (a_BF @ model.W_dec + model.b_dec - x_BD).pow(2).sum(-1).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()

    return step


def encoder_product(size: Size, x_BD: Tensor) -> Step:
    """The encoder's product alone, written to one buffer of 1,024 tokens."""
    W_enc = sae.create(size.width, size.features, size.k).W_enc.detach()
    rows = min(1_024, size.tokens)
    room = torch.empty(rows, size.features)

    def step() -> None:
        for start in range(0, size.tokens, rows):
            torch.mm(x_BD[start : start + rows], W_enc, out=room)

    return step


def rates(steps: dict[str, Step], tokens: int, repeats: int) -> dict[str, float]:
    """Tokens per CPU-second of each, best of `repeats` taken in turn."""
    best = dict.fromkeys(steps, 0.0)
    for _ in range(repeats):
        for name, step in steps.items():
            started = time.process_time()
            step()
            best[name] = max(best[name], tokens / (time.process_time() - started))
    return best


def gradient_error(size: Size, x_BD: Tensor, dead_F: Tensor) -> float:
    """Largest difference of any weight's gradient from dense autograd, relative to its largest entry."""
    gradients = []
    for path in ("sparse", "dense"):
        options = sae.ObjectiveOptions(path=path)  # type: ignore[arg-type]
        training = sae.TrainingModule(sae.create(size.width, size.features, size.k), options)
        training(x_BD, dead_F).loss.backward()
        gradients.append([weight.grad for weight in training.parameters()])
    return max(
        float((ours - dense).abs().max() / dense.abs().max()) for ours, dense in zip(*gradients, strict=True)
    )


def compared(name: str, found: dict[str, float], theirs: str, about: str, target: float | None) -> Figure:
    return Figure.ratio(name, found["ours"], found[theirs], f"{about}, tokens/CPU-s", target)


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    torch.set_num_threads(1)
    size = SMALL if smoke else FULL
    x_BD = activations(size)
    nobody = torch.zeros(size.features, dtype=torch.bool)
    tenth = torch.arange(size.features) % 10 == 0
    steps = {
        "ours": our_step(size, x_BD, nobody),
        "saelens": saelens_step(size, x_BD, nobody, fused=False),
        "saelens fused": saelens_step(size, x_BD, nobody, fused=True),
        "dense": dense_step(size, x_BD),
        "limit": encoder_product(size, x_BD),
    }
    found = rates(steps, size.tokens, 2 if smoke else 5)
    steps = {"ours": our_step(size, x_BD, tenth), "saelens": saelens_step(size, x_BD, tenth, fused=False)}
    found_dead = rates(steps, size.tokens, 2 if smoke else 3)
    error = gradient_error(size, x_BD, tenth)
    return [
        compared("train step vs SAELens", found, "saelens", "SAELens 6.54 SAETrainer.step", 4.0),
        compared(
            "train step vs SAELens, fused Adam on both", found, "saelens fused", "same, fused Adam", 4.0
        ),
        compared("share of the encoder product's rate", found, "limit", "encoder product alone", 0.6),
        compared("train step vs dense PyTorch", found, "dense", "dense PyTorch, fused Adam", None),
        compared(
            "train step with a tenth dead (AuxK) vs SAELens",
            found_dead,
            "saelens",
            "SAELens, same dead",
            None,
        ),
        Figure.error(
            "gradient error vs dense autograd, a tenth dead",
            error,
            "relative",
            1e-5,
            "dense autograd of the same loss",
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main("sae_step", ABOUT, measure))
