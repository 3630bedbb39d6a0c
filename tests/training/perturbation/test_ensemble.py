import numpy as np
import torch

from engine.models import bimamba
from engine.training.recipes.perturbation.ensemble import Ensemble, left_out


def test_every_target_is_unseen_by_one_member_and_a_combination_by_that_of_each_target() -> None:
    out_PM = left_out([("A",), ("B",), ("C",), ("A", "B"), ()], 3)
    assert out_PM.tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True, True, False],
        [False, False, False],
    ]
    assert not left_out([("A",)], 1).any()


def test_a_member_learns_nothing_from_what_is_left_out_for_it() -> None:
    config = bimamba.PerturbationConfig(
        n_genes=6, d_model=8, n_layers=1, d_state=4, headdim=8, condition_dim=8
    )
    genes = [f"G{number}" for number in range(6)]
    models = [bimamba.create(config, genes, seed=seed).train() for seed in (0, 1)]
    for model in models:
        torch.nn.init.normal_(model.head.output.weight)
    ensemble = Ensemble(models)
    rng = torch.Generator().manual_seed(0)
    batch = {
        "basal_BG": torch.rand(3, 6, generator=rng),
        "targets_BK": torch.tensor([[0], [1], [2]]),
        "condition_C": torch.tensor([0, 0, 1, 2, 2]),
        "expression_CG": torch.rand(5, 6, generator=rng),
        "left_out_BM": torch.tensor([[True, False], [False, False], [False, False]]),
    }

    def gradients(changed: dict[str, torch.Tensor]) -> list[np.ndarray]:
        ensemble.zero_grad()
        ensemble({**batch, **changed}).loss.backward()
        return [model.head.output.weight.grad.numpy().copy() for model in models]  # type: ignore[union-attr]

    other = batch["expression_CG"].clone()
    other[:2] += 1  # cells of the condition that the first member does not see
    before, after = gradients({}), gradients({"expression_CG": other})
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.allclose(before[1], after[1])
    nothing = gradients({"left_out_BM": torch.tensor([[True, False]] * 3)})
    assert (nothing[0] == 0).all()
    assert (nothing[1] != 0).any()
