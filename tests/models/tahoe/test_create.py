"""Fresh models: sizes, presets, vocabulary, initialisation."""

import pytest
import torch

from engine.models import tahoe
from engine.models.errors import ModelError
from tests.models.small_models import GENES


def test_vocabulary_is_specials_sorted_genes_and_junk() -> None:
    encoder = tahoe.create([*reversed(GENES), GENES[0]], d_model=16)
    assert encoder.tokeniser.gene_ids[:4] == ["<pad>", "<cls>", "<eoc>", GENES[0]]
    assert len(encoder.tokeniser.vocabulary) == encoder.config.vocab_size == 64
    assert encoder.tokeniser.gene_ids[-1] == "<junk20>"


def test_sizes_and_presets() -> None:
    small = tahoe.create(GENES, n_layers=1, d_model=32, n_heads=4, expansion=2, max_tokens=77)
    assert (small.n_layers, small.d_model, small.config.d_ffn, small.tokeniser.max_tokens) == (1, 32, 64, 77)
    # Trained on 77 tokens of a cell; read, as the original reads every size, on up to 2,048.
    assert small.max_tokens == 2048
    preset = tahoe.PRESETS["70m"]
    assert (preset["d_model"], preset["n_layers"], preset["n_heads"]) == (512, 12, 8)
    with pytest.raises(ModelError, match="preset '7b' is not known"):
        tahoe.create(GENES, preset="7b")
    with pytest.raises(ModelError, match="at least one gene"):
        tahoe.create([])


def test_70m_has_the_published_number_of_parameters() -> None:
    """37,829,632 in blocks and final norm; see the spec's check against Tahoe's own log."""
    encoder = tahoe.create(GENES, preset="70m")
    in_blocks = sum(p.numel() for p in [*encoder.blocks.parameters(), *encoder.final_norm.parameters()])
    assert in_blocks == 37_829_632
    rest = (encoder.flag, encoder.values, encoder.expression_head, encoder.cell_head)
    assert [sum(p.numel() for p in part.parameters()) for part in rest] == [1_024, 264_704, 263_169, 524_800]


def test_initialisation_follows_the_seed() -> None:
    first, again, other = (tahoe.create(GENES, d_model=16, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["genes.table.weight"], other["genes.table.weight"])
    assert not first["genes.table.weight"][0].any()
    assert not first["blocks.0.attention.qkv.bias"].any()
