"""Several processes that share features and batches give what one process gives, ZeRO or not."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn

from engine.models import sae
from engine.models.sae.parallelise import ALONE, FeatureShard, best_of_all, best_of_group
from engine.training.checkpoint import Checkpoints, Committed
from engine.training.fragments import MOMENTS
from engine.training.loop import train
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.output import begin
from engine.training.plan import Hardware, of_sae
from engine.training.recipe import Batch, Share
from engine.training.recipes.sae.module import SparseTraining
from engine.training.sharding import join_workers
from engine.training.stored_state import StoredState
from storage.errors import DamagedDataset
from storage.locations import Location
from tests.training.memory import LEAST, MOST, step_bytes
from tests.training.processes import start_processes

WORLD, STEPS, BATCH, D, F = 4, 8, 48, 16, 64
# What memory is measured of: feature_parallel and ZeRO stage.
WIDE, MEASURED = sae.SAEConfig("topk", 64, 4096, k=16, rescale_acts_by_decoder_norm=True), ((2, 1), (4, 0))


@dataclass(frozen=True)
class FixedRecipe:
    """Trains on the same sparse sums of directions whoever asks; features are dead after a silent batch."""

    architecture: str = "topk"
    path: str = "sparse"
    aux_relative: bool = False
    actors: int = 0

    def lineage(self) -> dict[str, Any]:
        return {"architecture": self.architecture, "path": self.path, "aux_relative": self.aux_relative}

    def build(self, seed: int, shard: FeatureShard = ALONE) -> nn.Module:
        chooses = "topk" in self.architecture
        config = sae.SAEConfig(
            self.architecture, D, F, k=4 if chooses else None, rescale_acts_by_decoder_norm=chooses
        )
        options = sae.ObjectiveOptions(
            path=self.path,  # type: ignore[arg-type]
            aux_relative=self.aux_relative,
            matryoshka_widths=(10, 24),
            sparsity_coefficient=0.05,
            sparsity_mode="quadratic",
            target_l0=4,
            bandwidth=0.5,
            pre_act_coefficient=1e-3,
        )
        objective = sae.objective(config, options, seed=seed, shard=shard)
        module = SparseTraining(objective, dead_after_tokens=BATCH)
        # In the first step only the first process has dead features.
        module.silent_tokens[torch.arange(*shard.range(F)) < 10] = BATCH
        return module

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        assert isinstance(module, SparseTraining)
        module.mean.fill_(0.25)

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1)
        directions = torch.nn.functional.normalize(torch.randn(20, D, generator=generator), dim=1)
        codes = torch.rand(STEPS * BATCH, 20, generator=generator) ** 6
        x_TD = codes @ directions * 4 + 0.25
        for number, (start, stop) in enumerate(share.ranges(start_step)):
            none_B = torch.zeros(stop - start, dtype=torch.int64)
            yield {"x_BD": x_TD[start:stop], "gene_B": none_B, "step": torch.tensor(start_step + number)}

    def tokens(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        module = self.build(0)
        module.load_state_dict(dict(state))
        assert isinstance(module, SparseTraining)
        sae.save(module.objective.sae, directory)


class Case(NamedTuple):
    """One training by all processes; `stop`: end it after the checkpoint of that step, as if killed."""

    output: Path
    recipe: FixedRecipe
    feature_parallel: int
    zero: int
    stop: int | None = None


class Killed(Exception):
    """Raised on every worker at once."""


def options(workers: int, feature_parallel: int, zero: int) -> TrainingOptions:
    return TrainingOptions(
        steps=STEPS,
        batch=BATCH,
        learning_rate=3e-3,
        clip=0.05,
        workers=workers,
        feature_parallel=feature_parallel,
        zero=zero,  # type: ignore[arg-type]
    )


def train_case(case: Case, worker: Any) -> None:
    def kill(metrics: dict[str, float], committed: Committed) -> None:
        if committed.step == case.stop:
            raise Killed

    chosen = options(worker.world, case.feature_parallel, case.zero)
    chosen = replace(chosen, checkpoint_every=case.stop or STEPS)
    if worker.leads:
        begin(Location.of(case.output), case.recipe, chosen, overwrite=False)
    dist.barrier()
    try:
        train(case.recipe, chosen, Location.of(case.output), worker, lambda *_: None, kill)
    except Killed:
        assert case.stop is not None


def wide_options(feature_parallel: int, zero: int) -> TrainingOptions:
    """Of a run whose memory is measured: 256 tokens to each group of workers."""
    chosen = options(WORLD, feature_parallel, zero)
    return replace(chosen, batch=256 * chosen.data_parallel)


def kept_of_ties(rank: int) -> tuple[list[int], int]:
    """Of equal scores: how many this process keeps of each token's 5 where 7 win, and of rank + 1 where 4."""
    shard = FeatureShard(rank, WORLD, dist.group.WORLD)
    of_tokens = best_of_group(torch.zeros(3, 5), 7, shard).sum(1).tolist()
    return of_tokens, int(best_of_all(torch.zeros(rank + 1), 4).sum())


def run_rank(rank: int, rendezvous: str, cases: list[Case]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    worker = join_workers(rank, WORLD, 1)
    for case in cases:
        train_case(case, worker)
    sizes = [step_bytes(WIDE, wide_options(n, zero), worker) for n, zero in MEASURED]
    Path(f"{rendezvous}-bytes-{rank}").write_text(json.dumps(sizes))
    Path(f"{rendezvous}-ties-{rank}").write_text(json.dumps(kept_of_ties(rank)))
    dist.destroy_process_group()


RECIPES = {
    "topk": FixedRecipe(),
    "topk dense": FixedRecipe(path="dense"),
    "topk relative": FixedRecipe(aux_relative=True),
    "batchtopk": FixedRecipe("batchtopk"),
    "matryoshka": FixedRecipe("matryoshka_batchtopk"),
    "jumprelu": FixedRecipe("jumprelu"),
    "gated": FixedRecipe("gated"),
    "standard": FixedRecipe("standard"),
}
# What one recipe shows of ZeRO, groups and thresholds, others need not show again.
MATRIX = [("batchtopk", n, zero) for n in (1, 2, 4) for zero in (0, 1, 2)]
MATRIX += [("topk", 2, 0), ("topk", 4, 1), ("topk", 1, 2), ("topk", 4, 2), ("topk", 2, 3), ("topk", 4, 3)]
MATRIX += [("topk dense", 4, 0)]
MATRIX += [(name, 2, 1) for name in RECIPES if name not in ("topk", "batchtopk")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, trained by the same four processes one after the other; and each recipe by this one."""
    folder = tmp_path_factory.mktemp("feature-parallel")
    worker = join_workers(0, 1, 1)
    for name, recipe in RECIPES.items():
        train_case(Case(folder / name, recipe, 1, 0), worker)
    cases = [Case(folder / f"{name}-{n}-{zero}", RECIPES[name], n, zero) for name, n, zero in MATRIX]
    moved = folder / "moved"
    cases += [
        Case(moved, RECIPES["batchtopk"], 4, 1, stop=4),
        Case(moved, RECIPES["batchtopk"], 2, 3),
    ]
    start_processes(run_rank, (str(folder / "rendezvous"), cases), WORLD)
    return folder


def final_checkpoint(output: Path) -> tuple[Checkpoints, Committed]:
    checkpoints = Checkpoints(Location.of(output), 2)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == STEPS
    return checkpoints, newest


def final_state(output: Path) -> StoredState:
    checkpoints, newest = final_checkpoint(output)
    return checkpoints.stored(newest)


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = final_state(one), final_state(other)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        if tensor.is_floating_point():
            # Biases that begin at 0 are small: theirs is the rounding of larger numbers.
            assert distance(ours[name], tensor) < (1e-6 if tensor.ndim > 1 else 3e-6), name
        else:
            assert torch.equal(ours[name], tensor), name  # dead counters
    for name in ("W_enc_FD", "W_dec", "b_dec"):
        weight = f"objective.sae.{name}"
        for kind in MOMENTS:
            moments = [state.read(kind, weight, 0, state[weight].numel()) for state in (ours, theirs)]
            assert distance(*moments) < 1e-5, (kind, name)
    curves = [read_metrics(Location.of(output)) for output in (one, other)]
    for column, tolerance in (
        ("loss", 1e-6),
        ("gradient_norm", 1e-5),
        ("dead_fraction", 1e-6),
        ("l0", 1e-6),
        ("tokens", 0),
    ):
        mine, reference = ([row[column] for row in curve.to_pylist()] for curve in curves if curve)
        assert mine == pytest.approx(reference, rel=tolerance), column


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    if torch.equal(found, expected):
        return 0.0
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


@pytest.mark.parametrize(("name", "n", "zero"), MATRIX)
def test_processes_that_share_features_equal_one(folder: Path, name: str, n: int, zero: int) -> None:
    assert_same(folder / f"{name}-{n}-{zero}", folder / name)


def test_the_reference_has_dead_features_and_is_clipped(folder: Path) -> None:
    for name in RECIPES:
        curve = read_metrics(Location.of(folder / name))
        assert curve is not None
        rows = curve.to_pylist()
        assert all(row["gradient_norm"] > 0.05 for row in rows), name
        if name not in ("jumprelu", "gated", "standard"):
            assert 0 < max(row["dead_fraction"] for row in rows) < 1, name
            assert max(row["aux"] for row in rows) > 0, name


def test_a_checkpoint_of_four_is_finished_by_two_and_exported_by_one(folder: Path, tmp_path: Path) -> None:
    assert_same(folder / "moved", folder / "batchtopk")
    for output in ("moved", "batchtopk"):
        (tmp_path / output).mkdir()
        RECIPES["batchtopk"].export(final_state(folder / output), tmp_path / output, options(1, 1, 0))
    moved, reference, published = (
        sae.load(path) for path in (tmp_path / "moved", tmp_path / "batchtopk", folder / "moved")
    )
    x_BD = torch.randn(200, D, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(moved(x_BD), reference(x_BD), rtol=1e-5, atol=1e-5)
        assert torch.equal(moved(x_BD), published(x_BD))


def test_any_rows_are_read_from_the_pieces_of_four(folder: Path) -> None:
    checkpoints, newest = final_checkpoint(folder / "topk-4-1")
    assert sorted(newest.files) == [f"worker_{rank:05d}.safetensors" for rank in range(WORLD)]
    stored, weight = checkpoints.stored(newest), "objective.sae.W_dec"
    assert torch.equal(stored.rows(weight, 10, 30), stored[weight][10:30])
    fewer = replace(newest, files={file: n for file, n in newest.files.items() if file[7:12] != "00001"})
    with pytest.raises(DamagedDataset, match=r"elements from 256 of weight objective\.sae\.W_dec"):
        checkpoints.stored(fewer)[weight]


def test_the_plan_is_what_four_processes_allocate(folder: Path) -> None:
    for rank in range(WORLD):
        sizes = json.loads((folder / f"rendezvous-bytes-{rank}").read_text())
        for (n, zero), measured in zip(MEASURED, sizes, strict=True):
            planned = of_sae(
                d_in=64, width=4096, k=16, training=wide_options(n, zero), hardware=Hardware(device="cpu")
            )
            assert LEAST * measured <= planned.memory_bytes <= MOST * measured, (n, zero)


def test_exactly_k_win_where_scores_are_equal(folder: Path) -> None:
    kept = [json.loads((folder / f"rendezvous-ties-{rank}").read_text()) for rank in range(WORLD)]
    assert kept == [[[5, 5, 5], 1], [[2, 2, 2], 2], [[0, 0, 0], 1], [[0, 0, 0], 0]]
