"""Contributions of genes to the score of a cell for a text add up, and those of no consequence are none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models import joint
from engine.models.encoder import Encoder
from engine.models.errors import ModelError
from engine.models.joint import CellSide, JointConfig, attribute_text
from engine.models.tokens import Tokens
from tests.models.small_models import small_geneformer, small_tahoe

WIDTH = 8


def side_for(encoder: Encoder) -> CellSide:
    torch.manual_seed(3)
    config = JointConfig(cell_width=encoder.d_model, text_width=12, width=WIDTH, dims=(WIDTH,))
    return CellSide(config).eval().requires_grad_(False)


def cell_of(encoder: Encoder, n_genes: int) -> Tokens:
    """One cell with counts of the first genes of the vocabulary."""
    genes = np.flatnonzero(encoder.tokeniser.token_classes == 0)[:n_genes]
    match = encoder.tokeniser.match([encoder.tokeniser.gene_ids[gene] for gene in genes])
    counts = np.arange(1, n_genes + 1)
    indptr, indices = np.array([0, n_genes]), np.arange(n_genes, dtype=np.int32)
    return encoder.tokeniser.tokenise(indptr, indices, counts, match)


@pytest.mark.parametrize("make", [small_geneformer, small_tahoe])
def test_contributions_add_up_to_the_score(make) -> None:  # type: ignore[no-untyped-def]
    encoder = make().eval().requires_grad_(False)
    side, tokens = side_for(encoder), cell_of(encoder, 6)
    question = torch.nn.functional.normalize(
        torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)), dim=0
    )
    found = attribute_text(encoder, side, tokens, question)
    assert found.score == pytest.approx(float(side.embed(encoder, tokens)[0] @ question), abs=1e-5)
    difference = found.score - found.baseline
    assert abs(difference) > 1e-3
    assert found.contribution_T.sum() == pytest.approx(difference, rel=0.05)
    fine = attribute_text(encoder, side, tokens, question, nodes=64)
    assert fine.contribution_T.sum() == pytest.approx(difference, rel=0.01)
    is_gene = encoder.tokeniser.token_classes[tokens.ids_T] == 0
    assert (found.contribution_T[~is_gene] == 0).all()
    assert np.count_nonzero(found.contribution_T) == is_gene.sum()
    # Of the opposite question, the opposite.
    opposite = attribute_text(encoder, side, tokens, -question)
    assert np.allclose(opposite.contribution_T, -found.contribution_T, atol=1e-6)


def test_one_cell_with_tokens() -> None:
    encoder = small_geneformer().eval()
    side, tokens = side_for(encoder), cell_of(encoder, 4)
    for wrong in (
        tokens.select([0, 0]),
        Tokens(tokens.ids_T[:0], tokens.values_T[:0], np.zeros(2, np.int64)),
    ):
        with pytest.raises(ModelError, match="one cell"):
            attribute_text(encoder, side, wrong, torch.zeros(WIDTH))


def test_a_gene_alone_is_the_baseline(tmp_path: Path) -> None:
    """Its mean is itself: there is nothing that it changes."""
    encoder = small_geneformer().eval()
    found = attribute_text(encoder, side_for(encoder), cell_of(encoder, 1), torch.ones(WIDTH))
    assert found.score == pytest.approx(found.baseline, abs=1e-6)
    assert np.abs(found.contribution_T).max() < 1e-6
    assert joint.TextAttribution is type(found)
