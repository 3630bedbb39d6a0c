"""Rank value encoding: order, ties, aliases, repeated genes, empty cells, crops."""

import numpy as np
import pytest
import scipy.sparse

from engine.models.errors import ModelError
from engine.models.geneformer.tokenise import GeneformerTokeniser
from engine.models.tokens import Tokens

GENES = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "ENSGR0000000004", "ENSG00000000005"]
MEDIANS = dict(zip(GENES, [1.0, 2.0, 2.0, 4.0, 0.5], strict=True))
ALIASES = {"TSPAN6": GENES[0], GENES[0]: GENES[0], "ENSG00000000099": GENES[1]}


def tokeniser(*, v2: bool, max_tokens: int = 100) -> GeneformerTokeniser:
    specials = ["<pad>", "<mask>", "<cls>", "<eos>"] if v2 else ["<pad>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *GENES])}
    return GeneformerTokeniser(vocabulary, MEDIANS, ALIASES, max_tokens)


def tokenise(
    own: GeneformerTokeniser, rows: list[list[float]], genes: list[str] = GENES, **options: int
) -> Tokens:
    block = scipy.sparse.csr_matrix(np.array(rows))
    return own.tokenise(block.indptr, block.indices, block.data, own.match(genes), **options)


def genes_of(own: GeneformerTokeniser, tokens: Tokens) -> list[str]:
    return [own.gene_ids[token] for token in tokens.ids_T]


def test_genes_rank_by_count_over_median() -> None:
    own = tokeniser(v2=False)
    tokens = tokenise(own, [[3, 4, 8, 4, 1]])  # values 3, 2, 4, 1, 2
    assert genes_of(own, tokens) == [GENES[2], GENES[0], GENES[1], GENES[4], GENES[3]]
    assert tokens.values_T.tolist() == [0] * 5


def test_ties_go_by_token_id_whatever_the_order_of_columns() -> None:
    own = tokeniser(v2=False)
    expected = [GENES[4], GENES[0], GENES[1], GENES[2], GENES[3]]  # values 6, 3, 3, 3, 0.5
    assert genes_of(own, tokenise(own, [[3, 6, 6, 2, 3]])) == expected
    assert genes_of(own, tokenise(own, [[3, 2, 6, 6, 3]], GENES[::-1])) == expected


def test_v2_adds_cls_and_eos_inside_the_limit() -> None:
    own = tokeniser(v2=True, max_tokens=4)
    tokens = tokenise(own, [[3, 4, 8, 4, 1], [0, 0, 0, 0, 5]])
    assert genes_of(own, tokens.select([0])) == ["<cls>", GENES[2], GENES[0], "<eos>"]
    assert genes_of(own, tokens.select([1])) == ["<cls>", GENES[4], "<eos>"]
    assert tokenise(own, [[3, 4, 8, 4, 1]], max_tokens=100).n_tokens == 7


def test_v1_is_cropped_to_the_limit() -> None:
    own = tokeniser(v2=False, max_tokens=2)
    assert genes_of(own, tokenise(own, [[3, 4, 8, 4, 1]])) == [GENES[2], GENES[0]]


@pytest.mark.parametrize("v2", [False, True])
def test_empty_cells_have_no_token_and_are_listed(v2: bool) -> None:
    tokens = tokenise(tokeniser(v2=v2), [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert tokens.empty_cells.tolist() == [0, 2]
    assert tokens.lengths.tolist() == [0, 3 if v2 else 1, 0]


def test_explicit_zeros_are_no_genes() -> None:
    own = tokeniser(v2=False)
    match = own.match(GENES)
    tokens = own.tokenise(np.array([0, 2]), np.array([0, 1]), np.array([0, 3]), match)
    assert genes_of(own, tokens) == [GENES[1]]


def test_ids_match_in_any_case_with_version_or_alias() -> None:
    own = tokeniser(v2=True)
    ids = ["ensg00000000001", "ENSG00000000002.15", "Tspan6", "ENSG00000000099.3", "<cls>", "ENSG99"]
    assert own.match(ids).column_to_token.tolist() == [4, 5, 4, 5, -1, -1]


def test_genes_without_a_median_cannot_be_ranked() -> None:
    own = GeneformerTokeniser({"<pad>": 0, "<mask>": 1, "A": 2, "B": 3}, {"A": 1.0, "B": float("nan")}, {}, 9)
    assert own.match(["A", "B"]).column_to_token.tolist() == [2, -1]


def test_columns_of_one_gene_are_summed() -> None:
    own = tokeniser(v2=False)
    columns = ["TSPAN6", GENES[2], GENES[0], "unknown"]
    match = own.match(columns)
    assert (match.n_matched, match.duplicates) == (3, 1)
    tokens = tokenise(own, [[2, 5, 1, 9], [0, 4, 1, 0]], columns)  # first cell: 3 against 2.5
    assert genes_of(own, tokens.select([0])) == [GENES[0], GENES[2]]
    assert genes_of(own, tokens.select([1])) == [GENES[2], GENES[0]]


def test_summing_gives_what_summed_counts_give() -> None:
    random = np.random.default_rng(0)
    own = tokeniser(v2=True)
    rows = random.poisson(1.5, (30, 10))
    twice = tokenise(own, rows.tolist(), GENES * 2)
    once = tokenise(own, (rows[:, :5] + rows[:, 5:]).tolist())
    np.testing.assert_array_equal(twice.ids_T, once.ids_T)
    np.testing.assert_array_equal(twice.offsets, once.offsets)


@pytest.mark.parametrize("scale", [1.0, 50.0, 0.3])
def test_a_block_equals_sorting_every_cell(scale: float) -> None:
    """Small counts, counts beyond the table of common ones, and fractions."""
    random = np.random.default_rng(0)
    own = tokeniser(v2=False)
    counts = np.round(random.gamma(0.5, 4, (200, 5)) * scale, 0 if scale >= 1 else 1)
    tokens = tokenise(own, counts.tolist())
    medians = np.array(list(MEDIANS.values()))
    for cell, row in enumerate(counts):
        expressed = np.flatnonzero(row)
        order = np.lexsort((expressed, -row[expressed] / medians[expressed]))
        assert tokens.select([cell]).ids_T.tolist() == (expressed[order] + 2).tolist()


def test_refusals() -> None:
    with pytest.raises(ModelError, match="no room for a gene beside 2 special tokens"):
        tokenise(tokeniser(v2=True), [[1, 0, 0, 0, 0]], max_tokens=2)
    with pytest.raises(ModelError, match="<mask> is missing"):
        GeneformerTokeniser({"<pad>": 0}, {}, {}, 9)


def test_token_classes() -> None:
    own = tokeniser(v2=True)
    assert own.token_classes.tolist() == [2, 2, 1, 2, 0, 0, 0, 0, 0]
    assert own.special_ids == {0, 1, 2, 3}
