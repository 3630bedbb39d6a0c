"""Perturbed tokens are the tokens of perturbed counts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from engine.interpret.perturbing import Perturbation, TokenEditor
from engine.models import Tokens
from tests.models.small_models import GENES, counts, small_geneformer, small_tahoe

LIMIT = 9


def tokens_of(encoder, cells: scipy.sparse.csr_matrix, max_tokens: int) -> Tokens:  # type: ignore[no-untyped-def]
    match = encoder.tokeniser.match(GENES)
    found: Tokens = encoder.tokeniser.tokenise(
        cells.indptr, cells.indices, cells.data, match, max_tokens=max_tokens
    )
    return found


@pytest.mark.parametrize("special_tokens", [True, False])
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("columns", [(0,), (0, 7), (3, 11, 30)])
def test_ranks_are_those_of_the_changed_counts(
    special_tokens: bool, kind: str, columns: tuple[int, ...]
) -> None:
    """Zero counts, or counts beyond all others; cells shorter and longer than what the model sees."""
    encoder = small_geneformer(special_tokens=special_tokens)
    genes = tuple(encoder.tokeniser.vocabulary[GENES[column]] for column in columns)
    perturbation = Perturbation(kind, genes)  # type: ignore[arg-type]
    editor = TokenEditor.of(encoder.tokeniser, LIMIT)
    cells = counts(12)
    whole = tokens_of(encoder, cells, editor.tokens_to_read((perturbation,)))
    changed = cells.toarray()
    for place, column in enumerate(columns):
        changed[:, column] = 0 if kind == "delete" else 1e6 * 2.0**-place * (1 + column % 7)
    expected = tokens_of(encoder, scipy.sparse.csr_matrix(changed), LIMIT)
    unchanged = tokens_of(encoder, cells, LIMIT)
    full = 0
    for cell in np.flatnonzero(whole.lengths):
        one = whole.select([cell])
        assert editor.unperturbed(one).ids_T.tolist() == unchanged.select([cell]).ids_T.tolist()
        if editor.concerns(one, perturbation):
            found = editor.perturbed(one, perturbation)
            assert found.ids_T.tolist() == expected.select([cell]).ids_T.tolist()
            full += found.n_tokens == LIMIT
    assert full >= 2


def test_values_of_other_genes_stay() -> None:
    encoder = small_tahoe()
    vocabulary = encoder.tokeniser.vocabulary
    editor = TokenEditor.of(encoder.tokeniser, 64)
    cell = tokens_of(encoder, counts(3), 64).select([0])
    gene = vocabulary[GENES[0]]
    missing = next(vocabulary[name] for name in GENES if vocabulary[name] not in cell.ids_T)
    gone = editor.perturbed(cell, Perturbation("delete", (gene,)))
    others_T = cell.ids_T != gene
    assert gone.ids_T.tolist() == cell.ids_T[others_T].tolist()
    assert gone.values_T.tolist() == cell.values_T[others_T].tolist()
    more = editor.perturbed(cell, Perturbation("overexpress", (gene, missing)))
    value = dict(zip(more.ids_T.tolist(), more.values_T.tolist(), strict=True))
    assert value[gene] == value[missing] == encoder.tokeniser.config.num_bins - 1
    assert more.ids_T[0] == vocabulary["<cls>"]
    assert sorted(value) == sorted({*cell.ids_T.tolist(), missing})


def test_nothing_to_delete() -> None:
    encoder = small_geneformer()
    cells = scipy.sparse.csr_matrix(np.eye(1, len(GENES), dtype=np.float32))
    editor = TokenEditor.of(encoder.tokeniser, LIMIT)
    cell = tokens_of(encoder, cells, LIMIT)
    vocabulary = encoder.tokeniser.vocabulary
    assert not editor.concerns(cell, Perturbation("delete", (vocabulary[GENES[1]],)))
    assert not editor.concerns(cell, Perturbation("delete", (vocabulary[GENES[0]],)))  # its only gene
    assert editor.concerns(cell, Perturbation("overexpress", (vocabulary[GENES[1]],)))
