"""Tahoe tokens: order, sampling, the first tokens' values, and what is refused."""

import numpy as np
import pytest
import scipy.sparse

from engine.models.errors import ModelError
from engine.models.tahoe.config import CollatorConfig
from engine.models.tahoe.tokenise import TahoeTokeniser
from engine.models.tokens import Tokens
from tests.models.small_models import GENES, counts

VOCABULARY = {token: i for i, token in enumerate(["<pad>", "<cls>", "<eoc>", *GENES, "<junk0>", "<drug>"])}


def tokeniser(**options: object) -> TahoeTokeniser:
    return TahoeTokeniser(VOCABULARY, CollatorConfig(**options))  # type: ignore[arg-type]


def tokenise(block: scipy.sparse.csr_matrix, own: TahoeTokeniser, **options: object) -> Tokens:
    return own.tokenise(block.indptr, block.indices, block.data, own.match(GENES), **options)  # type: ignore[arg-type]


def test_a_cell_is_cls_then_its_entries_in_column_order() -> None:
    cells = scipy.sparse.csr_matrix(
        (np.array([9.0, 0.0, 3.0]), np.array([5, 0, 2]), np.array([0, 3])), (1, 40)
    )
    tokens = tokenise(cells, tokeniser())
    assert tokens.ids_T.tolist() == [1, 8, 3, 5]
    assert tokens.values_T.tolist() == [-2, 50, 1, 1]  # an explicit zero stays, in bin 1


def test_an_empty_cell_is_just_cls() -> None:
    tokens = tokenise(counts(), tokeniser()).select([2])
    assert (tokens.ids_T.tolist(), tokens.values_T.tolist()) == ([1], [-2])


def test_unknown_genes_are_dropped_and_repeated_ones_kept() -> None:
    own = tokeniser()
    match = own.match([GENES[0], "ENSG99999999999", GENES[0], "<cls>", f"{GENES[1]}.3"])
    assert match.column_to_token.tolist() == [3, -1, 3, -1, -1]
    assert match.duplicates == 1
    tokens = own.tokenise(np.array([0, 5]), np.arange(5), np.array([1, 2, 3, 4, 5], np.uint16), match)
    assert tokens.ids_T.tolist() == [1, 3, 3]


def test_the_first_gene_keeps_its_count_when_two_tokens_are_kept() -> None:
    """The 3B model without its drug token: the second token is not binned, nor counted in the quantiles."""
    cells = scipy.sparse.csr_matrix(np.array([[900.0, 1.0, 2.0] + [0.0] * 37]))
    tokens = tokenise(cells, tokeniser(keep_first_n_tokens=2))
    assert tokens.values_T.tolist() == [-2, 900, 1, 50]


def test_a_drug_token_follows_cls() -> None:
    own = TahoeTokeniser(
        VOCABULARY, CollatorConfig(use_chem_token=True, keep_first_n_tokens=2), {"<pad>": 0, "DMSO": 1}
    )
    tokens = tokenise(counts(), own)
    assert (tokens.ids_T[tokens.offsets[:-1] + 1] == VOCABULARY["<drug>"]).all()
    assert (tokens.values_T[tokens.offsets[:-1] + 1] == -2).all()
    assert own.drug_ids(["DMSO", "unheard of", None]).tolist() == [1, 0, 0]


def test_counts_may_stay_raw_or_become_logs() -> None:
    cells = counts()
    raw = tokenise(cells, tokeniser(do_binning=False))
    np.testing.assert_array_equal(raw.values_T[raw.ids_T > 1], cells.data)
    logs = tokenise(cells, tokeniser(do_binning=False, log_transform=True))
    np.testing.assert_allclose(np.expm1(logs.select([0]).values_T[1:]).sum(), 10_000, rtol=1e-4)


def test_integer_counts_give_the_same_tokens() -> None:
    cells, own = counts(), tokeniser()
    whole = own.tokenise(cells.indptr, cells.indices, cells.data.astype(np.uint16), own.match(GENES))
    np.testing.assert_array_equal(whole.values_T, tokenise(cells, own).values_T)


def test_long_cells_are_sampled_to_the_limit() -> None:
    cells, own = counts(), tokeniser()
    whole, cut = tokenise(cells, own), tokenise(cells, own, max_tokens=9, seed=1)
    np.testing.assert_array_equal(cut.lengths, np.minimum(whole.lengths, 9))
    for cell in range(cut.n_cells):
        ours, all_of_it = cut.select([cell]), whole.select([cell])
        assert ours.ids_T[0] == 1
        pairs = list(zip(all_of_it.ids_T.tolist(), all_of_it.values_T.tolist(), strict=True))
        kept = list(zip(ours.ids_T.tolist(), ours.values_T.tolist(), strict=True))
        assert kept == [pair for pair in pairs if pair in kept]  # same order, binned before sampling


def test_the_sample_depends_on_seed_and_cell_alone() -> None:
    cells, own = counts(), tokeniser()
    whole = tokenise(cells, own, max_tokens=9, seed=1)
    rest = tokenise(cells[5:], own, max_tokens=9, seed=1, first_cell=5)
    np.testing.assert_array_equal(rest.ids_T, whole.select(range(5, 12)).ids_T)
    turned = tokenise(cells[::-1], own, max_tokens=9, seed=1, cells=np.arange(12)[::-1])
    np.testing.assert_array_equal(turned.select(range(11, -1, -1)).ids_T, whole.ids_T)
    assert not np.array_equal(tokenise(cells, own, max_tokens=9, seed=2).ids_T, whole.ids_T)


def test_the_sample_is_uniform() -> None:
    own = tokeniser()
    cells = scipy.sparse.csr_matrix(np.ones((4000, 40), np.float32))
    drawn = np.bincount(tokenise(cells, own, max_tokens=11).ids_T, minlength=45)[3:43]
    assert drawn.sum() == 4000 * 10
    assert np.abs(drawn - 1000).max() < 150  # five standard deviations


def test_without_sampling_cells_are_truncated() -> None:
    tokens = tokenise(counts(), tokeniser(sampling=False), max_tokens=4)
    whole = tokenise(counts(), tokeniser())
    for cell in range(tokens.n_cells):
        np.testing.assert_array_equal(tokens.select([cell]).ids_T, whole.select([cell]).ids_T[:4])


def test_the_models_own_limit_is_the_default() -> None:
    assert tokenise(counts(), tokeniser(max_length=5)).lengths.max() == 5


def test_refusals() -> None:
    with pytest.raises(ModelError, match="max_tokens 1: a cell needs room for its first 2 tokens"):
        tokenise(counts(), tokeniser(keep_first_n_tokens=2), max_tokens=1)
    with pytest.raises(ModelError, match=r"vocab.json: <cls> is missing"):
        TahoeTokeniser({"<pad>": 0}, CollatorConfig())


def test_token_classes() -> None:
    own = tokeniser()
    assert own.token_classes[[0, 1, 2, 3, 43, 44]].tolist() == [2, 1, 2, 0, 2, 2]
    assert own.special_ids == {0, 1, 2, 43, 44}
