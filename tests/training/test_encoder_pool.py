"""The pool of encoders on Ray: the same stream as in one process, whoever is killed, in flat memory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.activation_sources import WINDOW_STEPS, StreamedActivations
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.recipe import Batch, Share
from engine.training.room import Room
from engine.training.run import run_training
from storage.locations import Location
from tests.conftest import REPOSITORY
from tests.training.ray_processes import object_store_bytes, private_bytes, titled
from tests.training.tiny import TinyLoss

CPU = torch.device("cpu")
ENCODERS = "EncodeChunks"


def streamed(cells: str, encoder_directory: Path, actors: int | None = None) -> StreamedActivations:
    return StreamedActivations.plan(
        cells, str(encoder_directory), "resid_post_0", tokens_per_cell=16, actors=actors
    )


def test_actors_that_only_hand_on_do_not_import_pytorch() -> None:
    """Workers wait for one after the other to start."""
    modules = "engine.training.board", "engine.training.chunk_feed", "engine.streaming.sink"
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_a_pool_that_loses_an_encoder_makes_what_one_process_makes(
    ray_cluster: None, cells: str, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.training.encoder_pool.LEG_CHUNKS", 12)  # of the 18 that are looked at
    source, batches = streamed(cells, encoder_directory), []
    room = Room(1, 0, actors=2, actor_cpus=0.5)
    alone, pooled = (
        source.batches(3, Share(0, 1, batch=256, accumulation=1, seed=2, room=room), CPU)
        for room in (None, room)
    )
    for number, batch in enumerate(islice(pooled, 40)):
        batches.append(batch)
        if number == 2:
            encoders = titled(ENCODERS)
            assert len(encoders) == 2
            os.kill(encoders[0], signal.SIGKILL)
    pooled.close()
    assert all(
        torch.equal(one.x_BD, other.x_BD) and torch.equal(one.gene_B, other.gene_B)
        for one, other in zip(alone, batches, strict=False)
    )


class Witness(nn.Module):
    """Has one weight; its metric says which tokens it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> TinyLoss:
        x_BD = batch["x_BD"]
        return TinyLoss(self.weight.square().sum(), {"seen": fingerprint(x_BD)})


def fingerprint(x_BD: torch.Tensor) -> torch.Tensor:
    """Depends on every number and on its place."""
    return (x_BD * torch.linspace(1, 2, x_BD.numel()).reshape(x_BD.shape)).sum()


@dataclass(frozen=True)
class WitnessRecipe:
    """Streams tokens past a `Witness`; the second worker kills itself once, at the seventh step."""

    source: StreamedActivations
    kill_once: str

    @property
    def actors(self) -> int | None:
        return self.source.actors

    def lineage(self) -> dict[str, Any]:
        return self.source.lineage()

    def build(self, seed: int, shard: FeatureShard = ALONE) -> nn.Module:
        return Witness()

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Nothing depends on the tokens."""

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        with closing(self.source.batches(start_step, share, device)) as stream:
            for step, batch in enumerate(stream, start=start_step):
                if share.rank == 1 and step == 6 and not Path(self.kill_once).exists():
                    Path(self.kill_once).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield {"x_BD": batch.x_BD}

    def tokens(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        (directory / "config.json").write_text(json.dumps({"weight": float(state["weight"])}))


@pytest.mark.slow
def test_a_killed_training_worker_goes_on_with_the_same_tokens(
    ray_cluster: None, cells: str, encoder_directory: Path, tmp_path: Path
) -> None:
    # One encoder is enough, since it is a training worker that is lost.
    source = streamed(cells, encoder_directory, actors=1)
    options = TrainingOptions(steps=9, batch=256, workers=2, checkpoint_every=4)
    recipe = WitnessRecipe(source, str(tmp_path / "killed"))
    run_training(recipe, options, Location.of(tmp_path / "out"))
    assert (tmp_path / "killed").exists()
    table = read_metrics(Location.of(tmp_path / "out"))
    assert table is not None
    shares = [Share(rank, 2, batch=256, accumulation=1, seed=0) for rank in range(2)]
    expected = [
        float(sum(fingerprint(batch.x_BD) for batch in step)) / 2
        for step in islice(zip(*(source.batches(0, share, CPU) for share in shares), strict=True), 9)
    ]
    assert table["seen"].to_pylist() == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def wide_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer is enough to make many bytes of activations quickly."""
    from engine import models
    from engine.models import tahoe
    from tests.training.inputs import gene_ids

    directory = tmp_path_factory.mktemp("wide")
    encoder = tahoe.create(gene_ids(), n_layers=1, d_model=512, n_heads=2, max_tokens=64)
    models.save(encoder, directory)
    return directory


@pytest.mark.slow
def test_memory_stays_flat_over_twenty_buffers(ray_cluster: None, cells: str, wide_encoder: Path) -> None:
    # All cells are as long, since oneDNN keeps a kernel of every shape it has met, up to some number of them.
    source = StreamedActivations.plan(cells, str(wide_encoder), "resid_post_0", max_tokens=24)
    share = Share(0, 1, batch=128, accumulation=1, seed=2, room=Room(1, 0, actors=1, actor_cpus=0.5))
    buffer_bytes = WINDOW_STEPS * share.batch * source.width * 4
    limit = 2 * (1 + 1) * source.chunks(2).most_bytes  # two chunks in flight for each actor and worker
    before = object_store_bytes()
    stream, stores, encoders, trainers = source.batches(0, share, CPU), [], [], []
    n_batches = 0
    for n_batches, _ in enumerate(stream):
        if n_batches == WINDOW_STEPS:
            time.sleep(3)  # a worker that is busy elsewhere: encoders have to wait for it
        if n_batches % 16 == 0:
            stores.append(object_store_bytes() - before)
            encoders.append(sum(map(private_bytes, titled(ENCODERS))))
            trainers.append(private_bytes(os.getpid()))
        if n_batches * share.batch * source.width * 4 > 21 * buffer_bytes:
            break
    stream.close()
    # Ray Data stops starting chunks at the limit; those in the making and those being read come on top.
    assert max(stores) <= 3 * limit < n_batches * share.batch * source.width * 4 / 4
    early = len(trainers) // 4
    for sizes in (encoders, trainers):
        # The allocator still grows a little; all that has been made is 21 buffers.
        assert max(sizes[early:]) < max(sizes[:early]) + 6 * buffer_bytes
