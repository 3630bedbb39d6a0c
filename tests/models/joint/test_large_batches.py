"""Gradient-cached batches and gathered negatives have the gradient of the full batch."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.joint.heads import ResidualHead
from engine.models.joint.large_batches import features_in_chunks, gather_rows
from engine.models.joint.losses import contrastive_loss, same_caption
from tests.training.processes import start_processes

CAPTIONS = torch.tensor([0, 0, 1, 2, 3, 3, 4, 5])
WORLD = 2


class Towers(nn.Module):
    """Two towers with dropout and heads with BatchNorm, for 8 pairs; `ran` counts runs of a tower."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.texts, self.cells = (
            nn.Sequential(nn.Linear(6, 10), nn.Dropout(0.3), nn.Tanh(), nn.Linear(10, 10)) for _ in range(2)
        )
        self.text_head, self.cell_head = ResidualHead(10, 8), ResidualHead(10, 8)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.inputs = torch.randn(2, 8, 6, generator=generator)
        self.ran = 0

    def features(self, tower: nn.Module, x_BD: Tensor) -> Tensor:
        self.ran += 1
        f_BD: Tensor = tower(x_BD)
        return f_BD

    def loss(self, features: tuple[Tensor, Tensor], kind: str = "infonce") -> Tensor:
        texts, cells = (F.normalize(head(f), dim=1) for head, f in zip(
            (self.text_head, self.cell_head), features, strict=True))  # fmt: skip
        return contrastive_loss(
            texts,
            cells,
            same_caption(CAPTIONS),
            kind=kind,
            scale=self.scale,
            bias=-5.0,
            dims=(4, 8),  # type: ignore[arg-type]
        )

    def gradients(self) -> list[Tensor]:
        return [part.grad for part in self.parameters() if part.grad is not None]


def test_chunks_have_the_gradient_of_the_full_batch_dropout_and_batchnorm_included() -> None:
    for kind in ("infonce", "siglip"):
        whole, chunked = Towers(), Towers()
        pairs = list(zip((whole.texts, whole.cells), whole.inputs, strict=True))
        torch.manual_seed(9)
        # The same random numbers in the same order: the full batch too runs piece by piece, but keeps it all.
        full = [torch.cat([whole.features(t, part) for part in x.split(3)]) for t, x in pairs]
        whole.loss((full[0], full[1]), kind).backward()
        pairs = list(zip((chunked.texts, chunked.cells), chunked.inputs, strict=True))
        torch.manual_seed(9)
        found = [features_in_chunks(partial(chunked.features, t), x.split(3)) for t, x in pairs]
        loss = chunked.loss((found[0], found[1]), kind)
        torch.manual_seed(123)  # the backward pass must bring its own random numbers back
        loss.backward()
        assert chunked.ran == 2 * whole.ran  # nothing was kept: each chunk ran again
        assert len(chunked.gradients()) == len(whole.gradients()) > 10
        for ours, expected in zip(chunked.gradients(), whole.gradients(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)


def embeddings_and_weights() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 8, 5, generator=generator), torch.randn(2, 5, 4, generator=generator)


def gathered_loss(x_2BD: Tensor, weights: Tensor, captions: Tensor) -> Tensor:
    torch.manual_seed(0)
    head = ResidualHead(4, 6)  # behind the gathering: its BatchNorm sees all rows
    texts, cells = (F.normalize(head(gather_rows(x @ w)), dim=1) for x, w in zip(x_2BD, weights, strict=True))
    positive = same_caption(gather_rows(captions))
    return contrastive_loss(texts, cells, positive, kind="infonce", scale=10.0)


def run_rank(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "rendezvous"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    x_2BD, weights = embeddings_and_weights()
    weights.requires_grad_()
    own = slice(4 * rank, 4 * rank + 4)
    loss = gathered_loss(x_2BD[:, own], weights, CAPTIONS[own])
    loss.backward()
    assert weights.grad is not None
    dist.all_reduce(weights.grad)  # what DDP does: the mean over ranks
    torch.save((loss.detach(), weights.grad / WORLD), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_have_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    x_2BD, weights = embeddings_and_weights()
    weights.requires_grad_()
    loss = gathered_loss(x_2BD, weights, CAPTIONS)
    loss.backward()
    start_processes(run_rank, (tmp_path,), WORLD)
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found[0], loss.detach())
        torch.testing.assert_close(found[1], weights.grad)
