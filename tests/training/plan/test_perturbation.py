import pytest

from engine.models import bimamba
from engine.training.options import TrainingOptions
from engine.training.plan import H200, of_perturbation
from storage.errors import InputError

SMALL = bimamba.PerturbationConfig(n_genes=300, d_model=32, n_layers=2, d_state=16, headdim=16)


def _options(**more: object) -> TrainingOptions:
    return TrainingOptions(**{"steps": 10, "batch": 8, "workers": 4, **more})  # type: ignore[arg-type]


def test_zero_shares_out_what_its_stage_says() -> None:
    plans = {zero: of_perturbation(SMALL, training=_options(zero=zero)) for zero in range(4)}
    n = plans[0].parameters
    assert n == bimamba.parameter_count(SMALL)
    assert plans[0].memory["Adam moments"] == 8 * n
    assert plans[1].memory["Adam moments"] == pytest.approx(2 * n, abs=8)
    assert plans[1].memory["gradients"] == 4 * n
    assert plans[2].memory["gradients"] == pytest.approx(n, abs=4)
    assert plans[3].memory["weights"] == pytest.approx(n, abs=4)


def test_members_multiply_and_checkpointing_keeps_one_layer() -> None:
    kept = of_perturbation(SMALL, training=_options())
    again = of_perturbation(SMALL, training=_options(), checkpoint_layers=True)
    three = of_perturbation(SMALL, training=_options(), members=3)
    assert again.memory["activations of layers"] == kept.memory["activations of layers"] // 2
    assert again.compute["products"] > kept.compute["products"]
    assert three.parameters == 3 * kept.parameters
    assert three.memory["activations of layers"] == 3 * kept.memory["activations of layers"]


def test_what_does_not_fit_is_refused_with_what_to_do() -> None:
    large = bimamba.PerturbationConfig(n_genes=18_080, d_model=2560, n_layers=51)
    plan = of_perturbation(large, training=_options(workers=8), hardware=H200.with_memory(80e9))
    with pytest.raises(InputError, match="--checkpoint-layers"):
        plan.require_fits()
