from itertools import islice

import numpy as np
import pytest

from engine import models
from engine.streaming.stream import token_activations
from storage.cells import CellStore
from storage.errors import InputError

BATCH = 256


@pytest.fixture(scope="module")
def encoder(tahoe_model):
    return models.load(tahoe_model)


@pytest.fixture(scope="module")
def store(small_store):
    return CellStore.open(str(small_store))


def batches(store, encoder, n, **more):
    chosen = {"tokens_per_cell": 16, "max_tokens": 512, "n_cells": 120, "seed": 3}
    chosen |= {"member_tokens": 256, "members_per_pool": 2}
    return list(islice(token_activations(store, encoder, "final", BATCH, **(chosen | more)), n))


def triples(found):
    return [
        triple
        for batch in found
        for triple in zip(batch.cell.tolist(), batch.pos.tolist(), batch.gene.tolist(), strict=True)
    ]


def test_batches_hold_the_activations_of_the_tokens_they_name(store, encoder):
    (batch,) = batches(store, encoder, 1)
    block = store.read(0, 120)
    match = encoder.tokeniser.match(list(store.genes.index))
    tokens = encoder.tokeniser.tokenise(
        block.indptr, block.indices, block.counts, match, max_tokens=512, seed=3
    )
    rows = tokens.offsets[batch.cell] + batch.pos
    np.testing.assert_array_equal(tokens.ids_T[rows], batch.gene)
    x_TD = encoder(tokens).hooks["final"].detach().numpy()
    np.testing.assert_allclose(batch.acts.numpy(), x_TD[rows], atol=5e-5)


def test_no_token_comes_twice_in_a_pass_and_batches_are_shuffled(store, encoder):
    found = batches(store, encoder, 6)
    seen = triples(found)
    assert len(set(seen)) == len(seen) == 6 * BATCH
    assert len(np.unique(found[0].cell)) > 20
    assert (np.diff(found[0].cell.astype(int)) < 0).mean() > 0.3


def test_a_later_start_continues_exactly(store, encoder):
    # 119 cells of 16 tokens are seven batches at most: this reaches into the second and third pass.
    whole = batches(store, encoder, 16)
    for start in (1, 6, 11):
        for resumed, expected in zip(
            batches(store, encoder, 3, start_batch=start), whole[start:], strict=False
        ):
            assert triples([resumed]) == triples([expected])
            np.testing.assert_array_equal(resumed.acts.numpy(), expected.acts.numpy())


def test_ranks_see_disjoint_cells_in_a_pass(store, encoder):
    first, second = (triples(batches(store, encoder, 2, rank=rank, world=2)) for rank in (0, 1))
    assert not {triple[0] for triple in first} & {triple[0] for triple in second}


def test_too_few_cells_for_a_batch_are_refused(store, encoder):
    with pytest.raises(InputError, match="fewer tokens than a batch"):
        batches(store, encoder, 1, n_cells=8)
    with pytest.raises(InputError, match="cannot be shared"):
        batches(store, encoder, 1, rank=30, world=50)
