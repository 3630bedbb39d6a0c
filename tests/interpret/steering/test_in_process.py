"""`steer` against forward passes of one edit at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine.interpret.steering import EffectTables, parse_edits, steer
from engine.models import sae
from engine.models.encoder import Encoder
from engine.models.interventions import FeatureEdit, Reading, delta, reconstruct
from engine.models.tahoe import TahoeEncoder
from storage.errors import InputError
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of

HOOK, TARGETS = "resid_post_0", (10, 12, 15)
EDITS = (FeatureEdit(38, "add", 2.0), FeatureEdit(47, "ablate"))


@pytest.fixture(params=["tahoe", "geneformer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return small_tahoe() if request.param == "tahoe" else small_geneformer()


def autoencoder() -> sae.SAE:
    return sae.create(16, 64, 8, seed=1)


def run(encoder: Encoder, **options) -> EffectTables:  # type: ignore[no-untyped-def]
    defaults = {"hook": HOOK, "targets": TARGETS, "unit": "absolute", "replicates": 20, "batch_tokens": 500}
    return steer(encoder, tokens_of(encoder), autoencoder(), "38:+2,47:ablate", **(defaults | options))


def predicted(encoder: Encoder, interventions) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    output = encoder(tokens_of(encoder), ("final",), predictions=True, interventions=interventions)
    if "expression" in output.predictions:
        return output.predictions
    own_T1 = output.predictions["logits"].gather(1, encoder.packed(tokens_of(encoder)).ids_T[:, None])
    rank_T = (output.predictions["logits"] > own_T1).sum(1).float()
    return {"logit": own_T1.squeeze(1), "rank": rank_T}


@torch.no_grad()
@pytest.mark.parametrize("mode", ["delta", "reconstruction"])
def test_effects_are_those_of_the_edits_alone(encoder: Encoder, mode: str) -> None:
    reading = Reading.of(encoder, autoencoder())
    before, edited = {}, {HOOK: delta(reading, EDITS)}
    if mode == "reconstruction":
        before = {HOOK: reconstruct(reading)}
        edited = {HOOK: reconstruct(reading, edits=EDITS)}
    tables = run(encoder, mode=mode, controls=())
    variant = len(tables.variants) - 1
    cells = tables.cells[tables.cells["variant"] == variant].set_index("cell")
    e_CD, edited_CD = (
        encoder.embed(tokens_of(encoder), interventions=before),
        encoder.embed(tokens_of(encoder), interventions=edited),
    )
    np.testing.assert_allclose(cells["cosine"], F.cosine_similarity(e_CD, edited_CD), atol=2e-5)
    np.testing.assert_allclose(cells["shift"], (edited_CD - e_CD).norm(dim=1), atol=2e-5)
    packed = encoder.packed(tokens_of(encoder))
    gene_T, ids_T, cell_T = encoder.is_gene(packed.ids_T), packed.ids_T, packed.layout.cell_T
    target_T = torch.isin(ids_T, torch.tensor(TARGETS))
    after, unedited = predicted(encoder, edited), predicted(encoder, before)
    for name in after:
        change_T = after[name] - unedited[name]
        for cell in (0, 5):
            here_T = (cell_T == cell) & gene_T
            on = change_T[here_T & target_T].mean()
            off = change_T[here_T & ~target_T].norm()
            np.testing.assert_allclose(cells[f"on_target_{name}"][cell], on, rtol=1e-3, atol=2e-5)
            np.testing.assert_allclose(cells[f"off_target_{name}"][cell], off, rtol=1e-3, atol=2e-5)
        genes = tables.genes[tables.genes["variant"] == variant].set_index("gene")
        for gene in (10, 20):
            change = change_T[ids_T == gene]
            assert genes["n_cells"][gene] == len(change)
            np.testing.assert_allclose(genes[f"change_{name}"][gene], change.mean(), rtol=1e-3, atol=2e-5)
            error = change.std() / len(change) ** 0.5
            width = genes[f"high_{name}"][gene] - genes[f"low_{name}"][gene]
            np.testing.assert_allclose(width, 2 * 1.959964 * error, rtol=2e-3, atol=1e-5)
            assert genes["is_target"][gene] == (gene in TARGETS)


def test_an_edit_that_changes_nothing_has_no_effect(encoder: Encoder) -> None:
    tables = steer(encoder, tokens_of(encoder), autoencoder(), "38:*1", hook=HOOK, controls=(), replicates=20)
    values = tables.summary.set_index("metric")["mean"]
    assert values["cosine"] == pytest.approx(1, abs=1e-6)
    assert values["edited_tokens"] == 0
    assert (tables.genes.filter(like="change_") == 0).all(axis=None)


def test_batches_do_not_change_effects(encoder: Encoder) -> None:
    one, many = run(encoder, batch_tokens=100_000), run(encoder, batch_tokens=1)
    np.testing.assert_allclose(
        one.cells.drop(columns=["variant", "cell"]), many.cells.drop(columns=["variant", "cell"]), atol=1e-3
    )


def test_doses_controls_and_labels() -> None:
    encoder = small_tahoe()
    labels = ["a", "b", None] * 4
    tables = run(encoder, doses=(0.5, 1.0), labels=labels)
    kinds = ["base", *(["edit", "wrong_sign", "random_feature", "noise"] * 2)]
    assert tables.variants["kind"].tolist() == kinds
    means = tables.summary.pivot(index="variant", columns="metric", values="mean")
    assert means["moved"][1] == pytest.approx(means["moved"][4])  # the noise is as strong
    assert means["moved"][1] < means["moved"][5]
    np.testing.assert_allclose(means["towards_a"], -means["towards_b"], atol=1e-6)
    controls = tables.summary[tables.summary["variant"] == 2].set_index("metric")
    assert controls["difference"]["cosine"] == pytest.approx(means["cosine"][1] - means["cosine"][2])
    assert tables.summary[tables.summary["variant"] == 1]["difference"].isna().all()


@torch.no_grad()
def test_hidden_targets_are_hidden_in_every_version(encoder: Encoder) -> None:
    reading = Reading.of(encoder, autoencoder())
    tables = run(encoder, controls=(), hide_targets=True)
    packed = encoder.packed(tokens_of(encoder))
    hidden_T = torch.isin(packed.ids_T, torch.tensor(TARGETS))
    if isinstance(encoder, TahoeEncoder):
        name, flags, seen = "expression", {"generative_T": hidden_T}, packed
    else:
        name, flags = "logit", {}
        seen = replace(packed, ids_T=packed.ids_T.masked_fill(hidden_T, encoder.tokeniser.mask_id))
    found = [
        encoder(seen, (), predictions=True, interventions=interventions, **flags).predictions
        for interventions in ({}, {HOOK: delta(reading, EDITS)})
    ]
    if name == "logit":
        own_T1 = packed.ids_T[:, None]
        found = [{name: y["logits"].gather(1, own_T1).squeeze(1)} for y in found]
    change_T = found[1][name] - found[0][name]
    genes = tables.genes.set_index("gene")
    for gene in (*TARGETS, 20):
        expected = change_T[packed.ids_T == gene].mean()
        np.testing.assert_allclose(genes[f"change_{name}"][gene], expected, rtol=1e-3, atol=2e-5)
    assert not np.allclose(genes[f"base_{name}"], run(encoder, controls=()).genes[f"base_{name}"], atol=1e-3)


def test_edits_on_some_hooks_of_some_models() -> None:
    for encoder in (small_tahoe(), small_geneformer(special_tokens=False)):
        for hook in ("embed", "attn_out_0", "mlp_out_1", "resid_pre_1", "final"):
            tables = steer(
                encoder,
                tokens_of(encoder),
                autoencoder(),
                parse_edits("5:+3"),
                hook=hook,
                unit="absolute",
                layer=-1,
                pool="mean",  # behind the last attention an edit of genes reaches no cell token
                controls=(),
                replicates=5,
            )
            assert tables.summary.set_index("metric")["mean"]["shift"] > 1e-4


def test_edits_that_do_not_fit() -> None:
    encoder = small_tahoe()
    with pytest.raises(InputError, match="cannot read '5:up'"):
        steer(encoder, tokens_of(encoder), autoencoder(), "5:up", hook=HOOK)
