"""Activation cache: deterministic native shards, hash-checked reading, shuffled batches, exact resume."""

import json
import pickle
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as load_safetensors

from storage import activations
from storage.activations import ActivationCache, TokenActivations
from storage.commits import Dataset, MemberPlan
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

WIDTH, CELLS, HOOKS = 3, 4, ("resid_post_0", "resid_post_1")
TOKENS = [11, 0, 7, 20]


def shard(number: int, hook: str, dtype: torch.dtype = torch.bfloat16) -> TokenActivations:
    rng = np.random.default_rng([number, HOOKS.index(hook)])
    n = TOKENS[number]
    acts = torch.from_numpy(rng.normal(size=(n, WIDTH)).astype(np.float32)).to(dtype)
    cell = (number * CELLS + rng.integers(0, CELLS, n)).astype(np.uint32)
    gene = rng.integers(0, 4, n).astype(np.uint32)
    return TokenActivations(acts, cell, gene, np.arange(n, dtype=np.uint16), (gene == 0).astype(np.uint8))


def encode(tokens: TokenActivations, hook: str) -> bytes:
    return b"".join(activations.encode_shard(*tokens[:5], {"model": "abc", "hook": hook, "seed": "7"}))


@pytest.fixture
def cache(near_place: Location) -> ActivationCache:
    return write(near_place)


@pytest.fixture
def local_cache(tmp_path: Path) -> ActivationCache:
    return write(Location.of(tmp_path))


def write(place: Location) -> ActivationCache:
    members = [
        MemberPlan(f"{number:06d}", {"start": number * CELLS, "stop": (number + 1) * CELLS})
        for number in range(4)
    ]
    dataset = Dataset.plan(place, kind=activations.KIND, lineage={"hooks": HOOKS}, members=members)
    for number, member in enumerate(members):
        writer = dataset.member(member.key)
        for hook in HOOKS:
            writer.put(activations.shard_name(hook, member.key), encode(shard(number, hook), hook))
        writer.commit({**member.facts, "n_tokens": TOKENS[number]})
    store_genes = pd.DataFrame({"gene_name": ["CD3E", None]}, index=["ENSG1", "ENSG2"])
    genes = activations.gene_table(["<cls>", "ENSG1", "ENSG2", "ENSG3"], frozenset({0}), store_genes)
    activations.finish_activations(dataset, genes)
    return ActivationCache.open(place)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_a_shard_opens_with_safetensors(dtype: torch.dtype, n: int, tmp_path: Path) -> None:
    tokens = TokenActivations(*(column[:n] for column in shard(3, HOOKS[0], dtype)[:5]))
    content = encode(tokens, "resid_post_0")
    stored = load_safetensors(content)
    assert stored["acts"].dtype == dtype
    assert torch.equal(stored["acts"], tokens.acts)
    for name in ("cell", "gene", "pos", "token_class"):
        assert stored[name.removeprefix("token_")].tolist() == getattr(tokens, name).tolist()
    (tmp_path / "shard").write_bytes(content)
    with safe_open(tmp_path / "shard", "pt") as opened:
        assert opened.metadata() == {"model": "abc", "hook": "resid_post_0", "seed": "7"}
    ours, metadata = activations.decode_shard(np.frombuffer(bytearray(content), np.uint8))
    assert torch.equal(ours.tokens().acts, tokens.acts)
    assert metadata["model"] == "abc"


def test_shards_are_deterministic_and_aligned() -> None:
    tokens = shard(0, HOOKS[0])
    one = b"".join(activations.encode_shard(*tokens[:5], {"a": "1", "b": "2"}))
    assert one == b"".join(activations.encode_shard(*tokens[:5], {"b": "2", "a": "1"}))
    assert (8 + int.from_bytes(one[:8], "little")) % 64 == 0
    header = json.loads(one[8 : 8 + int.from_bytes(one[:8], "little")])
    assert header["acts"]["data_offsets"][0] == 0


def test_positions_beyond_16_bits_are_kept() -> None:
    tokens = shard(0, HOOKS[0])._replace(pos=np.arange(70_000, 70_011))
    assert activations.decode_shard(np.frombuffer(bytearray(encode(tokens, "h")), np.uint8))[
        0
    ].pos.tolist() == list(range(70_000, 70_011))


@pytest.mark.parametrize("width", [6, 7])
def test_fp8_keeps_each_value_to_a_sixteenth(width: int) -> None:
    """e4m3 has 3 mantissa bits: half a step is 2^-4 of a value, or 2^-10 / 448 of the largest."""
    n = 1000
    rng = np.random.default_rng(0)
    acts = torch.from_numpy(rng.standard_normal((n, width)) * np.exp(rng.normal(0, 8, (n, 1)))).float()
    acts[3] = 0
    acts[5, 0] = 1e4 * acts[5].abs().max()  # one massive dimension
    codes, scale = activations.quantise(acts)
    column = np.arange(n)
    content = b"".join(activations.encode_shard(codes, column, column, column, column % 3, {}, scale))
    stored = load_safetensors(content)
    assert stored["acts"].dtype == torch.float8_e4m3fn
    shard_in_memory = activations.decode_shard(np.frombuffer(bytearray(content), np.uint8))[0]
    as_stored = shard_in_memory.tokens(decoded=False)
    assert torch.equal(as_stored.acts.view(torch.uint8), stored["acts"].view(torch.uint8))
    assert torch.equal(as_stored.scale, stored["scale"])
    found = shard_in_memory.tokens()
    assert found.scale is None
    assert torch.equal(found.acts, stored["acts"].float() * stored["scale"][:, None])
    assert found.token_class.tolist() == (column % 3).tolist()
    largest = acts.abs().amax(1, keepdim=True)
    assert ((found.acts - acts).abs() <= acts.abs() * 2**-4 * 1.001 + largest * 2**-10 / 448).all()
    assert torch.equal(found.acts[3], torch.zeros(width))


def test_fp8_says_when_a_token_is_no_number() -> None:
    codes, scale = activations.quantise(torch.tensor([[1.0, float("inf")], [1.0, 2.0]]))
    column = np.arange(2)
    content = b"".join(activations.encode_shard(codes, column, column, column, column, {}, scale))
    acts = activations.decode_shard(np.frombuffer(bytearray(content), np.uint8))[0].tokens().acts
    assert acts[0].isnan().all()
    assert acts[1].tolist() == [1.0, 2.0]


def test_a_cache_of_an_older_format_is_refused(near_place: Location) -> None:
    """Before format 2 tokens had no class, and the snapshot did not say its format."""
    older = Dataset.plan(near_place, kind=activations.KIND, lineage={}, members=[])
    older.finish({}, {"n_tokens": 0, "n_cells": 0})
    with pytest.raises(InputError, match=r"of format 1.*make it again"):
        ActivationCache.open(near_place)


def test_columns_that_do_not_fit_are_refused() -> None:
    tokens = shard(0, HOOKS[0])
    with pytest.raises(ValueError, match="with 10, 11, 11, 11"):
        encode(tokens._replace(cell=tokens.cell[:10]), "h")
    with pytest.raises(ValueError, match="float64"):
        encode(tokens._replace(acts=tokens.acts.double()), "h")


def test_the_cache_says_what_it_holds(cache: ActivationCache) -> None:
    assert cache.hooks == HOOKS
    assert (cache.n_tokens, cache.n_cells, cache.d, cache.dtype, cache.seed) == (38, 16, WIDTH, "bf16", 7)
    assert cache.metadata["model"] == "abc"
    assert cache.genes["gene_name"].tolist() == ["<cls>", "CD3E", "ENSG2", "ENSG3"]
    assert cache.genes["class"].tolist() == ["special", "gene", "gene", "gene"]
    assert cache.genes.index.tolist() == [0, 1, 2, 3]


def test_members_read_back(place: Location) -> None:
    again = pickle.loads(pickle.dumps(write(place)))
    for hook in HOOKS:
        for number, record in enumerate(again.members):
            expected, found = shard(number, hook), again.read(hook, record.key)
            assert torch.equal(found.acts, expected.acts)
            np.testing.assert_array_equal(found.cell, expected.cell)
            np.testing.assert_array_equal(found.gene, expected.gene)
            np.testing.assert_array_equal(found.pos, expected.pos)
            np.testing.assert_array_equal(found.token_class, expected.token_class)


def test_batches_stop_reading_with_their_user(cache: ActivationCache) -> None:
    batches = cache.batches("resid_post_0", 5, seed=0)
    next(batches)
    batches.close()
    assert not any(thread.name.startswith("token-pool") for thread in threading.enumerate())


def test_an_unknown_hook_is_refused_with_those_there(cache: ActivationCache) -> None:
    with pytest.raises(InputError, match="resid_post_0, resid_post_1"):
        cache.read("final", "000000")


def test_damaged_shards_are_errors_by_name(cache: ActivationCache) -> None:
    place, name = cache.snapshot.location, "resid_post_1/000002.safetensors"
    content = place.read(name)
    place.put(name, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedDataset, match=name):
        cache.read("resid_post_1", "000002")
    with pytest.raises(DamagedDataset, match=name):
        list(islice(cache.batches("resid_post_1", 10, seed=0), 4))
    place.put(name, content + b"more")
    with pytest.raises(DamagedDataset, match=f"{name}: .* bytes"):
        cache.read("resid_post_1", "000002")
    place.delete(name)
    with pytest.raises(DamagedDataset, match=f"{name}: missing"):
        cache.read("resid_post_1", "000002")
    with pytest.raises(DamagedDataset, match=f"{name}: missing"):
        ActivationCache.open(place)


def rows(batches: list[TokenActivations]) -> list[tuple[float, ...]]:
    return [
        (*row, int(cell), int(gene), int(pos))
        for batch in batches
        for row, cell, gene, pos in zip(
            batch.acts.float().tolist(), batch.cell, batch.gene, batch.pos, strict=True
        )
    ]


def test_a_pass_of_batches_holds_every_token_once(cache: ActivationCache) -> None:
    batches = list(islice(cache.batches("resid_post_0", 19, seed=1, shards_in_buffer=2), 4))
    assert all(len(batch.acts) == 19 for batch in batches)
    everything = [shard(number, "resid_post_0") for number in range(4)]
    assert sorted(rows(batches[:2])) == sorted(rows(everything)) == sorted(rows(batches[2:]))
    assert rows(batches[:2]) != rows(batches[2:])


@pytest.mark.parametrize("batch_tokens", [1, 5, 38, 100])
def test_batches_resume_exactly_on_any_number_of_workers(
    local_cache: ActivationCache, batch_tokens: int
) -> None:
    def batches(size: int, start: int, rank: int, world: int, count: int) -> list[TokenActivations]:
        stream = local_cache.batches(
            HOOKS[1], size, seed=3, start_batch=start, rank=rank, world=world, shards_in_buffer=3
        )
        return list(islice(stream, count))

    whole = batches(batch_tokens, 0, 0, 1, 12)
    assert rows(batches(batch_tokens, 5, 0, 1, 7)) == rows(whole[5:])
    for rank in range(3):
        assert rows(batches(batch_tokens, 1, rank, 3, 3)) == rows(whole[3 + rank :: 3])


def test_an_empty_cache_gives_no_endless_loop(near_place: Location) -> None:
    members = [MemberPlan("000000", {"start": 0, "stop": 1})]
    dataset = Dataset.plan(near_place, kind=activations.KIND, lineage={}, members=members)
    writer = dataset.member("000000")
    writer.put(activations.shard_name("final", "000000"), encode(shard(1, HOOKS[0]), "final"))
    writer.commit({"start": 0, "stop": 1, "n_tokens": 0})
    activations.finish_activations(dataset, activations.gene_table([], frozenset(), pd.DataFrame()))
    with pytest.raises(InputError, match="no tokens"):
        next(ActivationCache.open(near_place).batches("final", 4, seed=0))
    empty = Dataset.plan(near_place / "empty", kind=activations.KIND, lineage={}, members=[])
    with pytest.raises(InputError, match="no cells"):
        activations.finish_activations(empty, pd.DataFrame())
