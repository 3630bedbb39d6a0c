"""Tahoe-x1 against the official code's outputs (shared/golden/tahoe), within the tolerances of its READMEs.

Case A is a 70M-style model, case B a 3B-style one, with and without its drug token.
Legend: C cells, S padded length, L layers, D width.
"""

from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from engine import models
from engine.models import tahoe
from engine.models.layers.pooling import gene_sums
from engine.models.tahoe.binning import bin_values, log_values
from engine.models.tahoe.objective import TrainingModule
from tests.parity.golden import assert_close, packed_tokens, padded, tokenised

HIDDEN, FINAL, UNIT = 5e-5, 2e-5, 1e-6
CASES = [("A", False), ("B", False), ("B", True)]


class Case:
    """One golden case: its model, and its files with the `_chem` suffix where the drug token is on."""

    def __init__(self, shared: Path, name: str, use_chem: bool) -> None:
        self.directory, self.use_chem = shared / "golden" / "tahoe" / name, use_chem
        suffix = "_chem" if use_chem else ""
        self.encoder = tahoe.load(self.directory / "model", use_chem=use_chem)
        self.batch, self.expected, self.masked = (
            np.load(self.directory / f"{kind}{suffix}.npz") for kind in ("batch", "expected", "masked")
        )
        self.valid_CS = self.batch["b0_gene"] != self.encoder.tokeniser.pad_id
        self.tokens = packed_tokens(self.batch["b0_gene"], self.batch["b0_expr"], self.valid_CS)
        self.drugs = {"drug_C": torch.as_tensor(self.batch["b0_drug_ids"]).long()} if use_chem else {}

    @torch.no_grad()
    def run(self, hooks: tuple[str, ...] = (), predictions: bool = False) -> models.EncoderOutput:
        return self.encoder(self.tokens, hooks, predictions, **self.drugs)


@pytest.fixture(params=CASES, ids=["A", "B", "B-chem"])
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    return Case(shared, *request.param)


def test_residual_stream(case: Case) -> None:
    n_layers = case.encoder.n_layers
    cells, at = case.expected["b0_hidden_cells"], case.expected["b0_hidden_tokens"]
    valid = case.valid_CS[cells][:, at]
    hooks = ("embed", *(f"resid_post_{i}" for i in range(n_layers)))
    states = case.run(hooks).hooks
    for layer, hook in enumerate(hooks):
        found = padded(states[hook], case.valid_CS)[cells][:, at]
        assert_close(found[valid], case.expected["b0_hidden"][layer][valid], HIDDEN)


def test_residual_stream_before_a_block_is_the_one_after_the_last(case: Case) -> None:
    states = case.run(case.encoder.hook_names).hooks
    assert set(states) == set(case.encoder.hook_names)
    assert torch.equal(states["resid_pre_0"], states["embed"])
    for layer in range(1, case.encoder.n_layers):
        assert torch.equal(states[f"resid_pre_{layer}"], states[f"resid_post_{layer - 1}"])


def test_attention_and_feed_forward_outputs(case: Case) -> None:
    cell, at = int(case.expected["b0_hidden_cells"][0]), case.expected["b0_hidden_tokens"]
    valid = case.valid_CS[cell][at]
    for name in ("attn_out", "mlp_out"):
        hooks = tuple(f"{name}_{i}" for i in range(case.encoder.n_layers))
        states = case.run(hooks).hooks
        for layer, hook in enumerate(hooks):
            found = padded(states[hook], case.valid_CS)[cell][at]
            assert_close(found[valid], case.expected[f"b0_{name}"][layer, 0][valid], HIDDEN)


def test_final_state_and_cell_embedding(case: Case) -> None:
    cells, at = case.expected["b0_hidden_cells"], case.expected["b0_hidden_tokens"]
    valid = case.valid_CS[cells][:, at]
    final_CSD = padded(case.run(("final",)).hooks["final"], case.valid_CS)
    assert_close(final_CSD[cells][:, at][valid], case.expected["b0_final"][valid], FINAL)
    raw_CD = case.expected["cell_emb_raw"][case.batch["b0_cells"]]
    assert_close(final_CSD[:, 0], raw_CD, FINAL)


def test_predictions(case: Case) -> None:
    predictions = case.run(predictions=True).predictions
    for name, golden in (("expression", "b0_expr_preds"), ("mvc", "b0_mvc_output")):
        found = padded(predictions[name], case.valid_CS)
        assert_close(found[case.valid_CS], case.expected[golden][case.valid_CS], FINAL)


def test_masked_predictions_and_loss(case: Case) -> None:
    masked = case.masked
    valid_CS = masked["gene"] != case.encoder.tokeniser.pad_id
    tokens = packed_tokens(masked["gene"], masked["expr"], valid_CS)
    batch = {
        "ids_T": tokens.ids_T,
        "values_T": tokens.values_T,
        "offsets": torch.as_tensor(tokens.layout.offsets),
        "generative_T": torch.as_tensor(masked["gen_mask"][valid_CS]),
        "targets_T": torch.as_tensor(masked["expr_target"][valid_CS]),
    }
    drugs = {"drug_C": torch.as_tensor(masked["drug_ids"]).long()} if case.use_chem else {}
    with torch.no_grad():
        out = case.encoder(tokens, ("final",), True, generative_T=batch["generative_T"], **drugs)
        loss = TrainingModule(case.encoder)(batch | drugs).loss
    assert_close(padded(out.hooks["final"], valid_CS)[:, 0], masked["cell_emb_raw"], FINAL)
    for name, golden in (("expression", "expr_preds"), ("mvc", "mvc_output")):
        assert_close(padded(out.predictions[name], valid_CS)[valid_CS], masked[golden][valid_CS], FINAL)
    assert loss.item() == pytest.approx(float(masked["loss"]), rel=1e-5)


@pytest.mark.parametrize("name", ["A", "B"])
def test_from_counts_to_embeddings(shared: Path, name: str) -> None:
    """The public path: load, tokenise, embed. Tokens are equal, embeddings within 1e-6."""
    case = Case(shared, name, use_chem=False)
    encoder = models.load(case.directory / "model")
    tokens = tokenised(case.directory / "input.h5ad", encoder.tokeniser)
    np.testing.assert_array_equal(tokens.ids_T, case.batch["b0_gene"][case.valid_CS])
    np.testing.assert_array_equal(tokens.values_T, case.batch["b0_expr"][case.valid_CS])
    assert_close(encoder.embed(tokens), case.expected["cell_emb"], UNIT)
    with torch.no_grad():
        final_TD = encoder(tokens).hooks["final"]
    sum_VD, count_V = gene_sums(
        final_TD, torch.as_tensor(tokens.ids_T).long(), len(encoder.tokeniser.vocabulary)
    )
    assert_close(sum_VD / count_V[:, None], case.expected["gene_emb_mean"], FINAL)


def test_drug_tokens(shared: Path) -> None:
    """With the drug token on, <drug> follows <cls>, and drugs are found by name.

    The original drops a random gene of the longest cell then; we drop none, so cells are compared as sets.
    """
    case = Case(shared, "B", use_chem=True)
    obs = anndata.read_h5ad(case.directory / "input.h5ad").obs
    tokeniser = case.encoder.tokeniser
    np.testing.assert_array_equal(tokeniser.drug_ids(list(obs["drug"])), case.batch["b0_drug_ids"])
    tokens = tokenised(case.directory / "input.h5ad", tokeniser)
    lengths = case.valid_CS.sum(1)
    for cell in range(tokens.n_cells):
        ours = tokens.select([cell])
        n = int(lengths[cell])
        pairs = set(
            zip(
                case.batch["b0_gene"][cell, :n].tolist(),
                case.batch["b0_expr"][cell, :n].tolist(),
                strict=True,
            )
        )
        assert pairs <= set(zip(ours.ids_T.tolist(), ours.values_T.tolist(), strict=True))
        assert len(ours.ids_T) - n == (cell == int(np.argmax(tokens.lengths)))
        assert ours.ids_T[1] == tokeniser.vocabulary["<drug>"]


@pytest.mark.parametrize("right", [False, True])
def test_binning(shared: Path, right: bool) -> None:
    """All golden cells in one block, bit for bit."""
    golden = np.load(shared / "golden" / "tahoe" / "binning.npz")
    numbers = sorted(int(key[1:]) for key in golden if key.startswith("x"))
    cells = [golden[f"x{i}"] for i in numbers]
    expected = np.concatenate([golden[f"{'right' if right else 'left'}{i}"] for i in numbers])
    found = bin_values(np.concatenate(cells), np.array(list(map(len, cells))), right=right)
    np.testing.assert_array_equal(found, expected)


def test_log_transform(shared: Path) -> None:
    golden = np.load(shared / "golden" / "tahoe" / "binning.npz")
    numbers = sorted(int(key[1:]) for key in golden if key.startswith("x"))
    cells = [golden[f"x{i}"] for i in numbers]
    found = log_values(np.concatenate(cells), np.array(list(map(len, cells))), 10_000.0)
    np.testing.assert_allclose(found, np.concatenate([golden[f"log{i}"] for i in numbers]), rtol=2e-6)


@pytest.mark.parametrize("name", ["A", "B"])
def test_best_model_holds_the_same_model(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "golden" / "tahoe" / name / "model"
    for file in ("best-model.pt", "model_config.yml", "collator_config.yml", "vocab.json"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    expected = tahoe.load(source).state_dict()
    found = tahoe.load(tmp_path).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(("name", "use_chem"), CASES)
def test_saved_again_it_is_the_same_model(shared: Path, tmp_path: Path, name: str, use_chem: bool) -> None:
    case = Case(shared, name, use_chem)
    models.save(case.encoder, tmp_path)
    again = tahoe.load(tmp_path, use_chem=use_chem)
    assert again.config == case.encoder.config
    assert again.tokeniser.vocabulary == case.encoder.tokeniser.vocabulary
    with torch.no_grad():
        expected = case.run(predictions=True).predictions["mvc"]
        assert torch.equal(again(case.tokens, (), True, **case.drugs).predictions["mvc"], expected)


def test_bfloat16_stays_close(shared: Path) -> None:
    """The spec measured cosine 0.99998 between bf16 autocast and fp32 of the original."""
    case = Case(shared, "A", use_chem=False)
    encoder = models.load(case.directory / "model", precision="bf16")
    states = encoder(case.tokens, encoder.hook_names).hooks
    assert states["resid_post_0"].dtype == torch.float32
    found = encoder.embed(case.tokens)
    cosine = (found * torch.as_tensor(case.expected["cell_emb"])).sum(1)
    assert cosine.min() > 0.9998
