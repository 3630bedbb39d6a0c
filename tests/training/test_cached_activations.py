"""Tokens of one class of a cache, as if there were no others; and over how many shards they are shuffled."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from engine.training.activation_sources import CachedActivations, TokenBatch
from engine.training.cached_activations import tokens_by_class
from engine.training.recipe import Share
from storage.activations import ActivationCache, encode_shard, finish_activations, gene_table, shard_name
from storage.commits import Dataset, MemberPlan
from storage.errors import InputError
from storage.locations import Location

CPU = torch.device("cpu")
CLASSES = np.array([1, 0, 0, 2, 0], np.uint8)  # <cls>, three genes and another special token between them


@pytest.fixture(scope="module")
def mixed_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five shards of 20 cells of 5 tokens; an activation says its own place in the cache."""
    location = Location.of(tmp_path_factory.mktemp("mixed") / "cache")
    members = [MemberPlan(f"{n:06d}", {"start": n * 20, "stop": n * 20 + 20}) for n in range(5)]
    dataset = Dataset.plan(location, kind="activations", lineage={"hook": "embed"}, members=members)
    for number, member in enumerate(members):
        place = np.arange(100)
        acts = torch.arange(number * 100, number * 100 + 100).float()[:, None].repeat(1, 2)
        columns = (number * 20 + place // 5, place % 5, place % 5, CLASSES[place % 5])
        writer = dataset.member(member.key)
        writer.put(shard_name("embed", member.key), encode_shard(acts, *columns, {"seed": "0"}))
        writer.commit({**member.facts, "n_tokens": 100})
    genes = [f"token{number}" for number in range(5)]
    names = pd.DataFrame({"gene_name": genes}, index=genes)
    finish_activations(dataset, gene_table(genes, frozenset({0, 3}), names))
    return str(location)


def take(
    source: CachedActivations, n: int, start_step: int = 0, rank: int = 0, world: int = 1
) -> list[TokenBatch]:
    share = Share(rank, world, batch=30, accumulation=1, seed=3)
    return list(islice(source.batches(start_step, share, CPU), n))


def test_classes_are_counted(mixed_cache: str) -> None:
    assert tokens_by_class(ActivationCache.open(mixed_cache)).tolist() == [[60, 20, 20]] * 5


@pytest.mark.parametrize(("kept", "genes"), [("gene", {1, 2, 4}), ("cell", {0}), ("special", {3})])
def test_a_pass_gives_every_token_of_the_class_once(mixed_cache: str, kept: str, genes: set[int]) -> None:
    source = CachedActivations.plan(mixed_cache, None, kept_class=kept, shards_in_buffer=2)  # type: ignore[arg-type]
    expected = {place for place in range(500) if place % 5 in genes}
    assert source.n_tokens == len(expected)
    batches = take(source, -(-len(expected) // 30))
    places = torch.cat([batch.x_BD[:, 0] for batch in batches]).int().tolist()[: len(expected)]
    assert sorted(places) == sorted(expected)
    assert places != sorted(places)
    assert all(batch.x_BD.shape == (30, 2) for batch in batches)
    assert {int(gene) for batch in batches for gene in batch.gene_B} == genes


def test_workers_share_out_a_class_and_go_on_anywhere(mixed_cache: str) -> None:
    source = CachedActivations.plan(mixed_cache, None, kept_class="gene")
    whole = torch.cat([batch.x_BD for batch in take(source, 4, start_step=9)])
    parts = [take(source, 4, 9, rank, 2) for rank in range(2)]
    in_order = torch.cat([parts[rank][step].x_BD for step in range(4) for rank in range(2)])
    assert torch.equal(in_order, whole)


def test_all_tokens_are_those_of_the_cache_itself(mixed_cache: str) -> None:
    source = CachedActivations.plan(mixed_cache, None, kept_class="all")
    (batch,) = take(source, 1)
    expected = next(ActivationCache.open(mixed_cache).batches("embed", 30, seed=3))
    assert torch.equal(batch.x_BD, expected.acts)
    assert batch.gene_B.tolist() == expected.gene.tolist()


def test_the_buffer_grows_with_the_batch(mixed_cache: str) -> None:
    small, large = (CachedActivations.plan(mixed_cache, None, kept_class="cell", batch=n) for n in (2, 3))
    assert (small.shards_in_buffer, large.shards_in_buffer) == (
        4,
        5,
    )  # 20 of a shard for 32 batches
    assert small.shuffled_tokens(2) == 80


def test_a_class_that_is_not_there_is_refused(cache: str) -> None:
    with pytest.raises(InputError, match=r"no tokens of class cell, only gene; see --token-class"):
        CachedActivations.plan(cache, None, kept_class="cell")
