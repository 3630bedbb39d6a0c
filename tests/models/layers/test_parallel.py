"""Tensor parallelism: two processes that share an encoder compute what one computes alone."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn import functional as F

from engine import models
from engine.models import TensorShard
from engine.models.encoder import Encoder
from engine.models.layers.parallel import COLUMNS, QKV_COLUMNS, ROWS, worlds
from engine.models.layers.precision import Linear
from engine.models.tahoe.config import TahoeConfig
from engine.models.tahoe.model import TahoeEncoder
from tests.models.small_models import perturbed, small_geneformer, small_tahoe, tokens_of

WORLD = 2


def tahoe_with_glu() -> Encoder:
    plain = small_tahoe()
    config = TahoeConfig(plain.config.vocab_size, 16, 2, 2, use_glu=True, norm_scheme="post")
    return perturbed(TahoeEncoder(config, plain.tokeniser))


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "tahoe": small_tahoe,
    "tahoe with GLU and post-norm": tahoe_with_glu,
    "geneformer": small_geneformer,
}


def states_of(encoder: Encoder) -> dict[str, torch.Tensor]:
    """All hook states, the heads' predictions and both pools of embeddings."""
    tokens = tokens_of(encoder)
    with torch.no_grad():
        output = encoder(tokens, encoder.hook_names, predictions=True)
        pools = {pool: encoder.embed(tokens, pool=pool) for pool in ("cls", "mean")}
    return {**output.hooks, **output.predictions, **pools}


def run_rank(rank: int, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Join the other rank, load this one's share of each encoder in `folder` and run it."""
    store = dist.FileStore(str(folder / "rendezvous"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    shard = TensorShard(rank, WORLD)
    states = {name: states_of(models.load(folder / name, shard=shard)) for name in ENCODERS}
    dist.destroy_process_group()
    return states


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, dict[str, dict[str, torch.Tensor]]]]:
    """The saved encoders, and what rank 0 of two gets from them; each rank is a process of its own, since
    other tests may have given this one a process group.
    """
    folder = tmp_path_factory.mktemp("shared")
    for name, create in ENCODERS.items():
        models.save(create(), folder / name)
    with multiprocessing.get_context("spawn").Pool(WORLD) as ranks:
        states, _ = ranks.starmap(run_rank, [(rank, folder) for rank in range(WORLD)], chunksize=1)
        yield folder, states


@pytest.mark.parametrize("name", ENCODERS)
def test_two_processes_equal_one_at_every_hook(
    runs: tuple[Path, dict[str, dict[str, torch.Tensor]]], name: str
) -> None:
    folder, found = runs
    expected = states_of(models.load(folder / name))
    assert found[name].keys() == expected.keys()
    for state, x_TD in expected.items():
        torch.testing.assert_close(found[name][state], x_TD, rtol=1e-5, atol=1e-5, equal_nan=True, msg=state)


def test_columns_and_rows_of_a_linear_layer_add_up_to_it() -> None:
    torch.manual_seed(0)
    up, down = Linear(6, 8), Linear(8, 6)
    x = torch.randn(5, 6)
    parts = []
    for rank in range(2):
        shard = TensorShard(rank, 2)
        first, second = COLUMNS.layer(up, shard), ROWS.layer(down, shard)
        assert first.weight.shape == (4, 6)
        assert second.weight.shape == (6, 4)
        h = F.linear(x, *(tensor[COLUMNS.pieces(tensor.shape, shard)[0]] for tensor in (up.weight, up.bias)))
        parts.append(F.linear(h, down.weight[ROWS.pieces(down.weight.shape, shard)[0]]))
        assert ROWS.pieces(down.bias.shape, shard) == [()]
    torch.testing.assert_close(sum(parts) + down.bias, down(up(x)))


def test_a_rank_takes_its_heads_of_query_key_and_value() -> None:
    assert QKV_COLUMNS.pieces((24, 8), TensorShard(1, 2)) == [
        (slice(4, 8),),
        (slice(12, 16),),
        (slice(20, 24),),
    ]


def test_numbers_of_devices_that_work() -> None:
    assert worlds(20, 10240) == (1, 2, 4, 5, 10, 20)
    assert worlds(4, 6) == (1, 2)
