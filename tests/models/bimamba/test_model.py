"""The perturbation model: what reaches what, order of genes, checkpoints, objective, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.models import bimamba
from engine.models.bimamba.tokenise import gene_loci
from engine.models.errors import ModelError
from tests.models.bimamba.small_models import GENES, POSITIONS, basal, small_config, small_model

LAST = len(GENES) - 1


@pytest.mark.parametrize(
    "options", [{}, {"residual": False, "n_layers": 1, "tie": "none"}, {"block": "mamba1"}]
)
def test_the_condition_reaches_every_gene(options: dict[str, Any]) -> None:
    """Not only those next to the condition's token: along 1,000 genes in one layer it would be forgotten."""
    config = small_config(n_genes=1000, n_targets=1, **options)
    model = bimamba.create(config, [f"G{i}" for i in range(1000)], targets=["T"])
    torch.nn.init.normal_(model.head.output.weight)
    conditions = bimamba.Conditions.of([[1000]])
    prediction = model(torch.ones(1, 1000), conditions)
    for gene in (0, 500, 999):
        (gradient,) = torch.autograd.grad(
            prediction.delta_BG[0, gene], model.condition.target.weight, retain_graph=True
        )
        assert gradient.abs().max() > 1e-6


@torch.no_grad()
def test_the_order_of_columns_does_not_matter() -> None:
    """Genes are read along the genome, whatever order they are given in."""
    config = small_config(n_targets=0)
    positions = {
        "gene": GENES,
        "chromosome": [1 + i % 22 for i in range(70)],
        "start": [i * 1000 for i in range(70)],
    }
    back = torch.randperm(70, generator=torch.Generator().manual_seed(2))
    here = bimamba.create(config, GENES, positions=positions)
    there = bimamba.create(config, [GENES[i] for i in back], positions=positions)
    weights = here.state_dict()
    rows = (
        "gene_tokens.identity.weight",
        "gene_tokens.chromosome_G",
        "gene_tokens.locus_G",
        "gene_tokens.pathways_GP",
    )
    for name in (*rows, "head.mean_response_G"):
        weights[name] = weights[name][back]
    there.load_state_dict(weights | {"order_G": there.order_G})
    torch.nn.init.ones_(here.head.output.weight)
    torch.nn.init.ones_(there.head.output.weight)
    found = there(basal(1)[:, back], bimamba.Conditions.of([[back.tolist().index(3)]]))
    expected = here(basal(1), bimamba.Conditions.of([[3]]))
    torch.testing.assert_close(found.mean_BG, expected.mean_BG[:, back], rtol=1e-4, atol=1e-5)
    assert not torch.equal(here.order_G, torch.arange(70))


def test_genes_lie_along_the_genome() -> None:
    loci = gene_loci(GENES, POSITIONS)
    assert loci.order(len(GENES))[:3].tolist() == [7, 5, 3]  # 2:7M, 2:70M, X
    assert loci.chromosome_G[[3, 5, 7, 0]].tolist() == [22, 1, 1, 24]
    assert loci.locus_G[5] == pytest.approx(70e6 / 242_193_529)
    assert loci.locus_G[0] == 0.5
    with pytest.raises(ModelError, match="G3 have two rows"):
        gene_loci(GENES, {"gene": ["G3", "G3"], "chromosome": [1, 2], "start": [1, 2]})
    with pytest.raises(ModelError, match="no column start"):
        gene_loci(GENES, {"gene": [], "chromosome": []})
    with pytest.raises(ModelError, match="number of bases"):
        gene_loci(GENES, {"gene": ["G3"], "chromosome": [1], "start": [-1]})


@torch.no_grad()
def test_conditions_are_told_apart() -> None:
    model = small_model(n_contexts=2, drug_dim=3)
    drugs_BP = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]])
    dose_B = torch.tensor([0.0, 1, 4, 1])
    kinds = [
        bimamba.Conditions.of([[3], [4], [3, 4], [70]], context_B=torch.zeros(4, dtype=torch.int64)),
        bimamba.Conditions.of([[3], [4], [3, 4], [70]], context_B=torch.ones(4, dtype=torch.int64)),
        bimamba.Conditions.of([[3], [], [], []], drugs_BP, dose_B, torch.zeros(4, dtype=torch.int64)),
    ]
    found = torch.cat([model(basal(1), conditions).delta_BG for conditions in kinds])
    torch.testing.assert_close(found[0], found[8])  # a drug without a dose is none
    apart = torch.cdist(found[:8], found[:8]).add(torch.eye(8)), torch.cdist(found[9:], found[:9])
    assert min(part.min() for part in apart) > 1e-3
    assert torch.cdist(found[9:], found[9:]).add(torch.eye(3)).min() > 1e-3
    turned = bimamba.Conditions.of([[4, 3]], context_B=torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(model(basal(1), turned).delta_BG[0], found[2], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_basal_state_is_an_input() -> None:
    conditions = bimamba.Conditions.of([[3], [3]])
    for reads, model in ((True, small_model()), (False, small_model(basal=False))):
        delta_BG = model(basal(2), conditions).delta_BG
        assert (not torch.allclose(delta_BG[0], delta_BG[1], atol=1e-4)) == reads


@pytest.mark.parametrize(
    ("targets", "context", "message"),
    [
        ([[72]], 0, "genes 0 to 71"),
        ([[-2]], 0, "genes 0 to 71"),
        ([[1]], 2, "must be 0 to 1"),
        ([[1]], None, "give context_B"),
    ],
)
def test_conditions_of_another_model_are_refused(targets: Any, context: int | None, message: str) -> None:
    context_B = None if context is None else torch.tensor([context])
    with pytest.raises(ModelError, match=message):
        bimamba.Conditions.of(targets, context_B=context_B).require_fit(small_config(n_contexts=2))


def test_unknown_targets_are_refused_not_taken_for_the_control() -> None:
    model = small_model()
    assert model.target_ids(["G3", "T1"]) == [3, 71]
    with pytest.raises(ModelError, match="not known to the model: NOPE"):
        model.target_ids(["G3", "NOPE"])


@torch.no_grad()
def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model = small_model(head="probabilistic", contexts=("a", "b"), n_contexts=2, tie="none", pathway_dim=0)
    bimamba.save(model, tmp_path)
    again = bimamba.load(tmp_path)
    conditions = bimamba.Conditions.of([[3], [71]], context_B=torch.tensor([0, 1]))
    assert torch.equal(again(basal(2), conditions).mean_BG, model(basal(2), conditions).mean_BG)
    assert (again.config, again.genes, again.targets) == (model.config, tuple(GENES), ("T0", "T1"))
    names = json.loads((tmp_path / "genes.json").read_text())
    (tmp_path / "genes.json").write_text(json.dumps(names | {"order": names["order"][::-1]}))
    with pytest.raises(ModelError, match="two models"):
        bimamba.load(tmp_path)
    (tmp_path / "genes.json").write_text(json.dumps(names | {"genes": names["genes"][1:]}))
    with pytest.raises(ModelError, match="69 genes"):
        bimamba.load(tmp_path)


def test_the_same_seed_gives_the_same_model() -> None:
    one, same, other = (bimamba.create(small_config(n_targets=0), GENES, seed=seed) for seed in (4, 4, 5))
    weights = [
        torch.cat([part.flatten().double() for part in model.state_dict().values()])
        for model in (one, same, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(ModelError, match="occur twice"):
        bimamba.create(small_config(n_targets=0), [*GENES[1:], "G1"])
    with pytest.raises(ModelError, match=r"expected \(70, 3\)"):
        bimamba.create(small_config(n_targets=0, pathway_dim=3), GENES)


def test_targets_known_by_features_alone() -> None:
    """A target never seen has no identity, it is its features. Training drops identities at random."""
    model = bimamba.create(small_config(identity_dropout=1.0), GENES, targets=["T0", "T1"])
    torch.nn.init.normal_(model.head.output.weight)
    conditions = bimamba.Conditions.of([[3]])
    with torch.no_grad():
        bare = model(basal(1), conditions, with_identity=False).delta_BG
        named = model(basal(1), conditions).delta_BG
        dropped = model.train()(basal(1), conditions).delta_BG
        further = model.eval()(basal(1), bimamba.Conditions.of([[70]])).delta_BG
        torch.testing.assert_close(
            model(basal(1), bimamba.Conditions.of([[70]]), with_identity=False).delta_BG, further
        )
    assert torch.equal(dropped, bare)
    assert not torch.equal(named, bare)


def batch_of(model: bimamba.PerturbationModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    counts_CG = torch.poisson(torch.full((5, len(GENES)), 2.0), generator=generator)
    expression_CG = (1e4 * counts_CG / counts_CG.sum(1, keepdim=True)).log1p()
    cells = (
        {"counts_CG": counts_CG} if model.config.head == "probabilistic" else {"expression_CG": expression_CG}
    )
    targets_BK = torch.tensor([[3, -1], [4, 5]])
    return {
        "basal_BG": basal(2),
        "targets_BK": targets_BK,
        "condition_C": torch.tensor([0, 0, 0, 1, 1]),
        **cells,
    }


@pytest.mark.parametrize("head", ["linear", "probabilistic"])
def test_cells_of_a_condition_share_its_forward(head: str) -> None:
    """The same loss and gradients as a condition repeated for every cell."""
    training = bimamba.TrainingModule(small_model(head=head))
    batch = batch_of(training.model)
    shared = training(batch)
    shared.loss.backward()
    gradients = [parameter.grad for parameter in training.parameters()]
    training.zero_grad()
    at = batch.pop("condition_C")
    repeated = training({**batch, "basal_BG": batch["basal_BG"][at], "targets_BK": batch["targets_BK"][at]})
    repeated.loss.backward()
    torch.testing.assert_close(repeated.loss, shared.loss)
    for parameter, gradient in zip(training.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=2e-3, atol=1e-5)
    for name, value in shared.metrics.items():
        torch.testing.assert_close(repeated.metrics[name], value)


@pytest.mark.parametrize("head", ["linear", "probabilistic"])
def test_an_untrained_model_has_the_control_s_loss_and_learns(head: str) -> None:
    fresh = bimamba.create(small_config(head=head), GENES, targets=["T0", "T1"])
    training = bimamba.TrainingModule(fresh).train()
    batch, name = batch_of(fresh), {"linear": "mse", "probabilistic": "nll"}[head]
    first = training(batch)
    torch.testing.assert_close(first.metrics[name], first.metrics[f"{name}_control"])
    optimiser = torch.optim.AdamW(training.parameters(), 2e-2)
    for _ in range(10):
        optimiser.zero_grad()
        found = training(batch)
        found.loss.backward()
        optimiser.step()
    assert found.loss < 0.95 * first.loss


def test_computing_layers_again_changes_nothing() -> None:
    training = bimamba.TrainingModule(small_model()).train()
    found = []
    for again in (False, True):
        training.model.checkpoint_layers = again
        training.zero_grad()
        training(batch_of(training.model)).loss.backward()
        found.append(
            [parameter.grad.clone() for parameter in training.parameters() if parameter.grad is not None]
        )
    assert len(found[0]) == len(list(training.parameters()))
    for kept, computed in zip(*found, strict=True):
        torch.testing.assert_close(kept, computed, rtol=0, atol=0)


@torch.no_grad()
def test_bf16_is_near_float32() -> None:
    model, conditions = small_model(), bimamba.Conditions.of([[3], [4, 5]])
    expected = model(basal(2), conditions).delta_BG
    with torch.autocast("cpu", torch.bfloat16):
        found = model(basal(2), conditions)
    assert found.mean_BG.dtype == torch.float32
    assert (found.delta_BG - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_original_s_layout() -> None:
    config = bimamba.original(64, prediction_head="probabilistic", gene_identity_dim=189, pathway_dim=50)
    assert (config.feature_dim, config.d_model, config.n_layers, config.head) == (
        271,
        512,
        1,
        "probabilistic",
    )
    small = replace(config, d_model=64, d_state=8, pathway_dim=0)
    model = bimamba.create(small, GENES[:64])
    assert model.layers[0].residual is False
    assert "mamba_bwd.in_proj.weight" in model.layers[0].mixer.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "poisson"}, "head is 'poisson'"),
        ({"headdim": 5}, "headdim 5 does not divide"),
        ({"ngroups": 3}, "does not divide the 4 heads"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"contexts": ("a",)}, "1 context names"),
        ({"identity_dropout": 1.5}, "a share"),
        ({"head": "probabilistic", "basal_floor": 0.0}, "basal_floor is 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        small_config(**options)
