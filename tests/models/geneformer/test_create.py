"""Fresh models: sizes, presets, vocabulary, initialisation."""

import pytest
import torch

from engine.models import geneformer
from engine.models.errors import ModelError

MEDIANS = {"B": 2.0, "A": 1.0, "C": 0.0}


def test_vocabulary_is_specials_and_sorted_genes_with_a_median() -> None:
    v2 = geneformer.create(["B", "A", "C", "D", "A"], MEDIANS, d_model=16)
    assert v2.tokeniser.gene_ids == ["<pad>", "<mask>", "<cls>", "<eos>", "A", "B"]
    assert v2.tokeniser.has_specials
    v1 = geneformer.create(["B", "A"], MEDIANS, d_model=16, special_tokens=False)
    assert v1.tokeniser.gene_ids == ["<pad>", "<mask>", "A", "B"]


def test_sizes_and_presets() -> None:
    small = geneformer.create(["A"], MEDIANS, n_layers=1, d_model=32, n_heads=4, ffn=48, max_tokens=77)
    assert (small.n_layers, small.d_model, small.config.d_ffn, small.max_tokens) == (1, 32, 48, 77)
    preset = geneformer.create(["A"], MEDIANS, preset="V1-10M", n_layers=1)
    assert (preset.n_layers, preset.d_model, preset.max_tokens) == (1, 256, 2048)
    assert not preset.tokeniser.has_specials
    with pytest.raises(ModelError, match="preset 'V3' is not known"):
        geneformer.create(["A"], MEDIANS, preset="V3")
    with pytest.raises(ModelError, match="none of the genes has a positive median"):
        geneformer.create(["C", "D"], MEDIANS)


def test_v1_10m_has_the_published_number_of_parameters() -> None:
    """10.3 million with the official vocabulary of 25,426; the head's table is the input's."""
    encoder = geneformer.create(["A"], MEDIANS, preset="V1-10M")
    missing_rows = 25_426 - encoder.config.vocab_size
    n_parameters = sum(p.numel() for p in encoder.parameters()) + missing_rows * (256 + 1)
    assert n_parameters == pytest.approx(10.3e6, rel=0.01)


def test_initialisation_follows_the_seed() -> None:
    first, again, other = (
        geneformer.create(["A"], MEDIANS, d_model=16, seed=s).state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embeddings.words.weight"], other["embeddings.words.weight"])
    assert not first["embeddings.words.weight"][0].any()
    assert first["blocks.0.ffn.up.weight"].std().item() == pytest.approx(0.02, rel=0.1)
