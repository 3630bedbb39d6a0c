import numpy as np

from engine.models import Tokens
from engine.streaming.products.activations import keep_tokens

CLS = 1


def cells(*ids_per_cell):
    lengths = [len(ids) for ids in ids_per_cell]
    ids = np.concatenate([np.array(ids, np.int32) for ids in ids_per_cell])
    return Tokens(ids, np.zeros(len(ids), np.float32), np.concatenate([[0], np.cumsum(lengths)]))


def keep(tokens, first_cell=100, tokens_per_cell=None, seed=0):
    return keep_tokens(
        tokens, first_cell, dropped_ids=frozenset({CLS}), tokens_per_cell=tokens_per_cell, seed=seed
    )


def triples(kept):
    return sorted(zip(kept.cell_N.tolist(), kept.pos_N.tolist(), kept.gene_N.tolist(), strict=True))


def test_every_gene_token_is_stored_once_and_no_special_token():
    tokens = cells([CLS, 7, 8], [CLS], [], [CLS, 9])
    assert triples(keep(tokens)) == [(100, 1, 7), (100, 2, 8), (103, 1, 9)]


def test_rows_point_back_to_the_tokens():
    tokens = cells([CLS, *range(10, 60)], [CLS, *range(60, 90)])
    kept = keep(tokens)
    stored = np.flatnonzero(kept.row_T >= 0)
    np.testing.assert_array_equal(kept.gene_N[kept.row_T[stored]], tokens.ids_T[stored])
    assert sorted(kept.row_T[stored].tolist()) == list(range(len(kept)))
    assert (np.diff(kept.row_T[stored]) < 0).any(), "stored tokens are shuffled"


def test_a_sample_depends_on_seed_and_cell_only():
    many = cells(*([CLS, *range(10, 110)] for _ in range(6)))
    alone = cells([CLS, *range(10, 110)])
    sample = keep(many, tokens_per_cell=16)
    assert np.bincount(sample.cell_N - 100).tolist() == [16] * 6
    third = [triple for triple in triples(sample) if triple[0] == 103]
    assert third == triples(keep(alone, first_cell=103, tokens_per_cell=16))
    assert third != [triple for triple in triples(keep(many, tokens_per_cell=16, seed=1)) if triple[0] == 103]


def test_a_cell_with_fewer_tokens_keeps_all():
    assert len(keep(cells([CLS, 5, 6]), tokens_per_cell=64)) == 2
