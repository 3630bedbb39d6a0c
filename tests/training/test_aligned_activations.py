"""Batches of several places hold the same gene of the same cell in each, in an order that can be resumed."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from engine.training.activation_sources import CachedActivations, StreamedActivations, TokenBatch
from engine.training.aligned_activations import AlignedSource, SeveralCaches, SeveralHooks
from engine.training.recipe import Share
from storage.activations import ActivationCache
from storage.activations.aligned import AlignedCaches
from storage.errors import DamagedDataset, InputError
from tests.training.aligned_inputs import labels, write_cache

CPU = torch.device("cpu")


def take(source: AlignedSource, n: int, start: int = 0, rank: int = 0, world: int = 1) -> list[TokenBatch]:
    share = Share(rank, world, batch=60, accumulation=1, seed=3)
    return list(islice(source.batches(start, share, CPU), n))


def test_tokens_of_two_models_are_the_same_gene_of_the_same_cell(two_models: tuple[str, str]) -> None:
    source = SeveralCaches.plan(two_models, [None, None], blocks_in_buffer=2)
    opened = [ActivationCache.open(path) for path in two_models]
    held = []
    for cache, hook in zip(opened, ("resid_post_3", "resid_post_5"), strict=True):
        read = [cache.read(hook, member.key).acts for member in cache.members]
        held.append(set(labels(torch.cat(read)).tolist()))
    expected = held[0] & held[1]
    assert source.n_tokens == len(expected) > 1000
    assert [place.width for place in source.places] == [20, 12]
    seen = []
    for batch in take(source, -(-source.n_tokens // 60)):
        one_BD, other_BD = batch.x_BD.split([20, 12], dim=1)
        assert torch.equal(labels(one_BD), labels(other_BD))
        assert torch.equal(labels(one_BD) % 100, batch.gene_B)  # the first cache's ids are the numbers
        seen += labels(one_BD).tolist()
    assert sorted(seen[: source.n_tokens]) == sorted(expected)  # each once a pass
    assert seen[:60] != sorted(seen[:60])


def test_workers_share_out_the_stream_and_go_on_anywhere(two_models: tuple[str, str]) -> None:
    source = SeveralCaches.plan(two_models, [None, None], blocks_in_buffer=1)
    whole = torch.cat([batch.x_BD for batch in take(source, 45)])  # more than a pass
    resumed = torch.cat([batch.x_BD for batch in take(source, 4, start=41)])
    assert torch.equal(resumed, whole[41 * 60 :])
    parts = [take(source, 3, 7, rank, 2) for rank in range(2)]
    in_order = torch.cat([parts[rank][step].x_BD for step in range(3) for rank in range(2)])
    assert torch.equal(in_order, whole[7 * 60 : 10 * 60])


def test_members_of_the_finer_cache_are_read_by_block(two_models: tuple[str, str]) -> None:
    aligned = AlignedCaches(
        [ActivationCache.open(path) for path in two_models], ["resid_post_3", "resid_post_5"]
    )
    assert aligned.blocks == [(0, 50), (50, 100), (100, 120)]
    for block, (start, stop) in enumerate(aligned.blocks):
        tokens = aligned.read(block)
        assert len(tokens.cell) == aligned.count()[block]
        assert tokens.cell.min() == start
        assert tokens.cell.max() == stop - 1


def test_hooks_of_a_cache_give_the_same_tokens(two_hooks: str) -> None:
    hooks = ("resid_post_0", "resid_post_1")
    source = SeveralHooks(tuple(CachedActivations.plan(two_hooks, hook) for hook in hooks))
    for batch in take(source, 30):
        one_BD, other_BD = batch.x_BD.split(16, dim=1)
        assert torch.equal(labels(one_BD), labels(other_BD))
        assert not torch.equal(one_BD, other_BD)
    assert source.places == (("resid_post_0", 16), ("resid_post_1", 16))


def test_hooks_of_an_encoder_come_from_one_pass(cells: str, encoder_directory: Path) -> None:
    planned = [
        StreamedActivations.plan(cells, str(encoder_directory), hook, tokens_per_cell=8)
        for hook in ("resid_post_0", "resid_post_1")
    ]
    (together,) = take(SeveralHooks(tuple(planned)), 1)
    share = Share(0, 1, batch=60, accumulation=1, seed=3)
    alone = [next(part.batches(0, share, CPU)) for part in planned]
    assert torch.equal(together.x_BD, torch.cat([batch.x_BD for batch in alone], dim=1))
    assert torch.equal(together.gene_B, alone[1].gene_B)


def test_what_cannot_be_aligned_is_refused(
    two_models: tuple[str, str], two_hooks: str, tmp_path: Path
) -> None:
    elsewhere = {"model": "c", "hooks": {"embed": 4}, "cells_per_member": 60, "seed": 0}
    foreign = write_cache(tmp_path / "foreign", genes=["ENSG0"], store="another", **elsewhere)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"different cells .*foreign of store another"):
        SeveralCaches.plan((two_models[0], foreign), [None, None])
    strange = write_cache(tmp_path / "strange", genes=["ENSG77"], **elsewhere)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no gene id is in all vocabularies"):
        SeveralCaches.plan((two_models[0], strange), [None, None])
    with pytest.raises(InputError, match="two or more different hooks"):
        SeveralHooks((CachedActivations.plan(two_hooks, "resid_post_0"),) * 2)


def test_hooks_whose_tokens_differ_are_not_trained_on(two_hooks: str, two_models: tuple[str, str]) -> None:
    parts = CachedActivations.plan(two_hooks, "resid_post_0"), CachedActivations.plan(two_models[0], None)
    with pytest.raises(DamagedDataset, match="not in the same order; make the cache again"):
        take(SeveralHooks(parts), 1)
