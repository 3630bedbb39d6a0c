"""Variants of the architecture that the goldens do not cover, against a plain restatement of the formulas."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.tahoe.config import ChemicalConfig, TahoeConfig
from engine.models.tahoe.model import Block, TahoeEncoder
from engine.models.tahoe.tokenise import TahoeTokeniser
from tests.models.small_models import GENES, perturbed, small_tahoe, tokens_of

VOCABULARY = {token: i for i, token in enumerate(["<pad>", "<cls>", "<eoc>", *GENES, "<drug>"])}
CONFIG = TahoeConfig(vocab_size=len(VOCABULARY), d_model=16, n_layers=2, n_heads=2, mvc_scaled=True)


def build(**options: object) -> TahoeEncoder:
    config = dataclasses.replace(CONFIG, **options)  # type: ignore[arg-type]
    return perturbed(TahoeEncoder(config, TahoeTokeniser(VOCABULARY, config.collator)))


def plain_attention(block: Block, x_TD: Tensor) -> Tensor:
    q, k, v = block.attention.qkv(x_TD).view(-1, 3, 2, 8).unbind(1)
    weights = (torch.einsum("inh,jnh->nij", q, k) / 8**0.5).softmax(-1)
    return block.attention.out(torch.einsum("nij,jnh->inh", weights, v).flatten(1))


@torch.no_grad()
@pytest.mark.parametrize("use_glu", [False, True])
@pytest.mark.parametrize("norm_scheme", ["pre", "post"])
def test_blocks(use_glu: bool, norm_scheme: str) -> None:
    encoder = build(use_glu=use_glu, norm_scheme=norm_scheme, transformer_activation="relu")
    states = encoder(tokens_of(encoder).select([1]), ("resid_pre_1", "resid_post_1", "final")).hooks
    block, x_TD = encoder.blocks[1], states["resid_pre_1"]

    def feed_forward(x: Tensor) -> Tensor:
        h = F.relu(block.ffn.gate(x)) * block.ffn.up(x) if use_glu else F.relu(block.ffn.up(x))
        return block.ffn.down(h)

    if norm_scheme == "pre":
        x_TD = x_TD + plain_attention(block, block.norm1(x_TD))
        x_TD = x_TD + feed_forward(block.norm2(x_TD))
        final_TD = encoder.final_norm(x_TD)
    else:
        x_TD = block.norm1(x_TD + plain_attention(block, x_TD))
        x_TD = final_TD = block.norm2(x_TD + feed_forward(x_TD))
    torch.testing.assert_close(states["resid_post_1"], x_TD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states["final"], final_TD, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_values_are_clamped_from_above_only() -> None:
    values = build(value_max=10.0).values
    assert torch.equal(values(torch.tensor([11.0])), values(torch.tensor([10.0])))
    assert not torch.equal(values(torch.tensor([-2.0])), values(torch.tensor([0.0])))


@torch.no_grad()
def test_the_model_does_not_see_a_generative_tokens_value() -> None:
    encoder = build()
    tokens = tokens_of(encoder).to_torch()
    generative_T = tokens.layout.position_T % 2 == 1
    expected = encoder(tokens, generative_T=generative_T).hooks["final"]
    shown = dataclasses.replace(tokens, values_T=tokens.values_T.where(~generative_T, torch.tensor(7.0)))
    assert torch.equal(encoder(shown, generative_T=generative_T).hooks["final"], expected)
    assert not torch.equal(encoder(shown).hooks["final"], expected)


@torch.no_grad()
def test_isolated_generative_tokens_do_not_change_the_others() -> None:
    """The mask of the 70M and 1.3B training: a cell reads the same with and without tokens to predict."""
    encoder = build(isolate_generative=True)
    tokens = tokens_of(encoder).to_torch()
    generative_T = tokens.layout.position_T % 3 == 2
    found = encoder(tokens, generative_T=generative_T).hooks["final"]
    shown = tokens_of(encoder)
    keep = ~generative_T.numpy()
    offsets = torch.cat([torch.zeros(1), torch.as_tensor(keep).double().cumsum(0)])[
        torch.as_tensor(shown.offsets)
    ]
    alone = type(shown)(shown.ids_T[keep], shown.values_T[keep], offsets.long().numpy())
    torch.testing.assert_close(found[~generative_T], encoder(alone).hooks["final"], rtol=1e-4, atol=1e-5)
    full = build()
    full.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(tokens).hooks["final"], full(tokens).hooks["final"])


def test_drug_ids_need_a_drug_token() -> None:
    encoder = small_tahoe()
    with pytest.raises(ModelError, match="loaded without its drug token"):
        encoder(tokens_of(encoder), drug_C=torch.zeros(12, dtype=torch.long))


@torch.no_grad()
def test_a_drug_token_without_drug_ids_is_the_unknown_drug() -> None:
    collator = dataclasses.replace(CONFIG.collator, use_chem_token=True, keep_first_n_tokens=2)
    encoder = build(chemical=ChemicalConfig(n_drugs=4, n_bits=8), collator=collator)
    tokens = tokens_of(encoder)
    unknown = torch.zeros(tokens.n_cells, dtype=torch.long)
    assert torch.equal(encoder(tokens).hooks["final"], encoder(tokens, drug_C=unknown).hooks["final"])
    assert not torch.equal(encoder(tokens).hooks["final"], encoder(tokens, drug_C=unknown + 2).hooks["final"])


def test_a_model_without_cell_head_predicts_expression_alone() -> None:
    encoder = build(mvc=False)
    assert set(encoder(tokens_of(encoder), (), True).predictions) == {"expression"}
