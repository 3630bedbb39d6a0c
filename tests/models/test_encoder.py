"""What all encoders share: hooks, layers, pools, early exit, loading by what a directory holds."""

from pathlib import Path

import pytest
import torch

from engine import models
from engine.models.encoder import Encoder, HookRecorder, encoder_hook_names, layer_hook
from engine.models.errors import ModelError
from engine.models.layers.precision import set_precision
from engine.models.tokens import PackedTokens, Tokens
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of


@pytest.fixture(params=["tahoe", "geneformer", "geneformer V1"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "tahoe":
        return small_tahoe()
    return small_geneformer(special_tokens=request.param == "geneformer")


def test_hook_names() -> None:
    assert encoder_hook_names(1) == (
        "embed",
        "resid_pre_0",
        "attn_out_0",
        "mlp_out_0",
        "resid_post_0",
        "final",
    )


@pytest.mark.parametrize(
    ("hooks", "n_blocks"),
    [
        ((), 0),
        (("embed",), 0),
        (("resid_pre_0",), 0),
        (("resid_pre_2",), 2),
        (("attn_out_1",), 2),
        (("final",), 3),
    ],
)
def test_only_the_blocks_needed_run(hooks: tuple[str, ...], n_blocks: int) -> None:
    assert HookRecorder(hooks, 3).n_blocks == n_blocks


def test_unknown_hooks_are_named() -> None:
    with pytest.raises(ModelError, match="hook resid_post_3 does not exist"):
        HookRecorder(("resid_post_3",), 3)


@pytest.mark.parametrize(
    ("layer", "hook"), [(0, "resid_post_0"), (-2, "resid_post_1"), (2, "final"), (-1, "final")]
)
def test_layers_are_blocks(layer: int, hook: str) -> None:
    assert layer_hook(layer, 3) == hook


def test_layers_that_do_not_exist() -> None:
    with pytest.raises(ModelError, match="layer 3 does not exist"):
        layer_hook(3, 3)


@torch.no_grad()
def test_each_hook_alone_equals_all_hooks_together(encoder: Encoder) -> None:
    tokens = tokens_of(encoder)
    together = encoder(tokens, encoder.hook_names).hooks
    for name in encoder.hook_names:
        alone = encoder(tokens, (name,)).hooks
        assert list(alone) == [name]
        assert torch.equal(alone[name], together[name])


@torch.no_grad()
@pytest.mark.parametrize("every", [1, 3, 1000])
def test_kept_rows_are_those_of_the_full_pass(encoder: Encoder, every: int) -> None:
    tokens = tokens_of(encoder)
    rows_T = torch.arange(0, tokens.n_tokens, every)
    full = encoder(tokens, encoder.hook_names).hooks
    kept = encoder(tokens, encoder.hook_names, rows_T=rows_T).hooks
    for name in encoder.hook_names:
        alone = encoder(tokens, (name,), rows_T=rows_T).hooks[name]
        for found in (kept[name], alone):
            torch.testing.assert_close(found, full[name][rows_T], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_only_kept_rows_pass_the_last_block(encoder: Encoder) -> None:
    seen = []
    for block in encoder.blocks:
        block.ffn.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    tokens = tokens_of(encoder)
    encoder(tokens, ("resid_post_1",), rows_T=torch.tensor([0, 5]))
    assert seen == [tokens.n_tokens, 2]


@torch.no_grad()
def test_no_rows(encoder: Encoder) -> None:
    states = encoder(tokens_of(encoder), ("embed", "final"), rows_T=torch.empty(0, dtype=torch.int64)).hooks
    assert [state.shape for state in states.values()] == [(0, 16), (0, 16)]


def test_predictions_are_of_all_rows(encoder: Encoder) -> None:
    with pytest.raises(ModelError, match="predictions are of all tokens"):
        encoder(tokens_of(encoder), predictions=True, rows_T=torch.tensor([0]))


@torch.no_grad()
def test_a_cell_does_not_depend_on_its_neighbours(encoder: Encoder) -> None:
    tokens = tokens_of(encoder)
    together = encoder.embed(tokens)
    for cell in range(tokens.n_cells):
        alone = encoder.embed(tokens.select([cell]))[0]
        torch.testing.assert_close(alone, together[cell], rtol=1e-5, atol=1e-6, equal_nan=True)


@torch.no_grad()
def test_neighbours_of_the_same_lengths_change_no_bit(encoder: Encoder) -> None:
    tokens = tokens_of(encoder)
    expected = encoder.embed(tokens)
    other = Tokens(tokens.ids_T.copy(), tokens.values_T, tokens.offsets)
    start, stop = tokens.offsets[4:6]
    other.ids_T[start + 1 : stop - 1] = tokens.ids_T[start + 1 : stop - 1][::-1].copy()
    found = encoder.embed(other)
    changed = (found != expected).any(dim=1) & ~expected.isnan().any(dim=1)
    assert changed.tolist() == [cell == 4 for cell in range(12)]


def test_embeddings_in_the_models_own_convention() -> None:
    tahoe, geneformer = small_tahoe(), small_geneformer()
    e_CD = tahoe.embed(tokens_of(tahoe))
    torch.testing.assert_close(e_CD.norm(dim=1), torch.ones(12))
    assert not e_CD.isnan().any()  # an empty cell is just <cls>
    e_CD = geneformer.embed(tokens_of(geneformer))
    assert e_CD.isnan().all(1).tolist() == [cell == 2 for cell in range(12)]  # an empty cell has no token


def test_mean_pool_leaves_special_tokens_out() -> None:
    encoder = small_geneformer()
    tokens = tokens_of(encoder)
    with torch.no_grad():
        x_TD = encoder(tokens, ("resid_post_1",)).hooks["resid_post_1"]
    start, stop = tokens.offsets[:2]
    torch.testing.assert_close(encoder.embed(tokens)[0], x_TD[start + 1 : stop - 1].mean(0))


def test_pools_that_do_not_exist() -> None:
    encoder = small_geneformer(special_tokens=False)
    with pytest.raises(ModelError, match="no <cls> token; use mean"):
        encoder.embed(tokens_of(encoder), pool="cls")
    with pytest.raises(ModelError, match="pool 'max' is not known"):
        encoder.embed(tokens_of(encoder), pool="max")


def test_no_cells(encoder: Encoder) -> None:
    assert encoder.embed(tokens_of(encoder).select([])).shape == (0, 16)


def test_token_classes(encoder: Encoder) -> None:
    tokeniser = encoder.tokeniser
    assert len(tokeniser.gene_ids) == len(tokeniser.token_classes)
    assert all(tokeniser.gene_ids[token] == gene for gene, token in tokeniser.vocabulary.items())
    genes = [
        gene for gene, kind in zip(tokeniser.gene_ids, tokeniser.token_classes, strict=True) if kind == 0
    ]
    assert len(genes) == 40
    assert tokeniser.pad_id in tokeniser.special_ids


def test_save_and_load(encoder: Encoder, tmp_path: Path) -> None:
    models.save(encoder, tmp_path)
    again = models.load(tmp_path)
    assert type(again) is type(encoder)
    assert not again.training
    tokens = tokens_of(encoder)
    assert torch.equal(again.embed(tokens).nan_to_num(), encoder.embed(tokens).nan_to_num())


def test_bfloat16_weights_beside_a_float32_residual_stream(encoder: Encoder, tmp_path: Path) -> None:
    models.save(encoder, tmp_path)
    half = models.load(tmp_path, precision="bf16")
    dtypes = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert dtypes["blocks.0.ffn.up.weight"] == torch.bfloat16
    assert dtypes["blocks.0.norm1.weight"] == torch.float32
    states = half(tokens_of(encoder), ("resid_post_0", "final")).hooks
    assert {state.dtype for state in states.values()} == {torch.float32}
    with pytest.raises(ModelError, match="expected fp32 or bf16"):
        set_precision(half, "fp8")


def test_directories_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model directory"):
        models.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="not an encoder directory"):
        models.load(tmp_path)
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(ModelError, match="sparse autoencoder"):
        models.load(tmp_path)


def test_damaged_weights_are_named(encoder: Encoder, tmp_path: Path) -> None:
    models.save(encoder, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model.safetensors: damaged"):
        models.load(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"neither model.safetensors nor"):
        models.load(tmp_path)


def hooks_of(encoder: Encoder) -> tuple[str, ...]:
    return tuple(name for name in encoder.hook_names if name != "final")


@torch.no_grad()
def test_an_intervention_replaces_what_follows_and_what_is_recorded(encoder: Encoder) -> None:
    tokens = tokens_of(encoder)
    before = encoder(tokens, encoder.hook_names).hooks
    for name in hooks_of(encoder):
        seen = []

        def double(x_TD: torch.Tensor, told: PackedTokens, seen: list[int] = seen) -> torch.Tensor:
            seen.append(told.n_tokens)
            return 2 * x_TD

        after = encoder(tokens, encoder.hook_names, interventions={name: double}).hooks
        at = encoder.hook_names.index(name)
        assert seen == [tokens.n_tokens]
        assert all(torch.equal(after[earlier], before[earlier]) for earlier in encoder.hook_names[:at])
        assert torch.equal(after[name], 2 * before[name])
        assert not torch.equal(after["final"], before["final"])


@torch.no_grad()
def test_an_intervention_that_changes_nothing_changes_no_bit(encoder: Encoder) -> None:
    tokens = tokens_of(encoder)
    unchanged = dict.fromkeys(encoder.hook_names, lambda x_TD, _: x_TD)
    with_hooks = encoder(tokens, encoder.hook_names, predictions=True, interventions=unchanged)
    without = encoder(tokens, encoder.hook_names, predictions=True)
    for found, expected in ((with_hooks.hooks, without.hooks), (with_hooks.predictions, without.predictions)):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@torch.no_grad()
def test_kept_rows_under_an_intervention_are_those_of_the_full_pass(encoder: Encoder) -> None:
    tokens = tokens_of(encoder)
    rows_T = torch.arange(0, tokens.n_tokens, 3)
    for name in encoder.hook_names:
        # Every row depends on all rows, the worst that an intervention may do.
        mixing = {name: lambda x_TD, _: x_TD + x_TD.square().mean(0)}
        for wanted in (name, "final"):
            full = encoder(tokens, (wanted,), interventions=mixing).hooks[wanted]
            kept = encoder(tokens, (wanted,), rows_T=rows_T, interventions=mixing).hooks[wanted]
            torch.testing.assert_close(kept, full[rows_T], rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_embeddings_under_an_intervention(pool: str) -> None:
    encoder = small_tahoe()
    tokens = tokens_of(encoder)
    double = {"resid_post_0": lambda x_TD, _: 2 * x_TD + 1}
    x_TD = encoder(tokens, interventions=double).hooks["final"]
    expected = encoder.pooled(x_TD, encoder.packed(tokens), pool)
    found = encoder.embed(tokens, pool=pool, interventions=double)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert not torch.allclose(encoder.embed(tokens, pool=pool), expected, equal_nan=True)


def test_gradients_pass_through_interventions(encoder: Encoder) -> None:
    added_D = torch.zeros(encoder.d_model, requires_grad=True)
    out = encoder(tokens_of(encoder), interventions={"resid_pre_1": lambda x_TD, _: x_TD + added_D})
    out.hooks["final"][:, 0].sum().backward()
    assert added_D.grad is not None
    assert added_D.grad.abs().sum() > 0


def test_interventions_that_do_not_fit(encoder: Encoder) -> None:
    tokens = tokens_of(encoder)
    with pytest.raises(ModelError, match="hook resid_post_9 does not exist"):
        encoder(tokens, interventions={"resid_post_9": lambda x_TD, _: x_TD})
    with pytest.raises(ModelError, match=r"intervention at embed returned .* expected torch.float32"):
        encoder(tokens, interventions={"embed": lambda x_TD, _: x_TD[:1]})
