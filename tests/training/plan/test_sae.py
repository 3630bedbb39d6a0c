"""Plans: sums that can be checked by hand, refusals, and memory as it is measured."""

import gc

import pytest
import torch

from engine.models import sae
from engine.training.options import TrainingOptions
from engine.training.plan import H200, Hardware, of_sae
from engine.training.sharding import join_workers
from storage.errors import InputError
from tests.training.memory import LEAST, MOST, step_bytes


def training(**changes: object) -> TrainingOptions:
    return TrainingOptions(**{"steps": 1000, "batch": 32_768, "workers": 8, **changes})  # type: ignore[arg-type]


def largest(**changes: object) -> dict[str, object]:
    return {"d_in": 2560, "width": 655_360, "k": 64, "training": training(**changes)}


def test_the_largest_configuration_is_what_the_arithmetic_says() -> None:
    plan = of_sae(**largest(workers=1, batch=4096))  # type: ignore[arg-type]
    with torch.device("meta"):
        whole = sae.SAE(sae.SAEConfig("topk", 2560, 655_360, k=64))
    assert plan.parameters == plan.parameters_per_gpu == sum(w.numel() for w in whole.parameters())
    states = sum(plan.memory[term] for term in ("weights", "gradients", "Adam moments"))
    assert states == 16 * plan.parameters  # 53.7 GB
    assert plan.fits
    assert plan.traffic == ()
    assert plan.compute["encoder product"] == pytest.approx(4096 * 2 * 2560 * 655_360 / 780e12)


def test_sharing_features_cuts_memory_and_traffic() -> None:
    alone = of_sae(**largest(workers=1, batch=4096))  # type: ignore[arg-type]
    eight = of_sae(**largest(feature_parallel=8))  # type: ignore[arg-type]
    assert eight.parameters_per_gpu == pytest.approx(alone.parameters / 8, rel=1e-4)
    assert eight.memory["weights"] == pytest.approx(alone.memory["weights"] / 8, rel=1e-4)
    zero = {stage: of_sae(**largest(zero=stage)) for stage in range(4)}  # type: ignore[arg-type]
    sent = {stage: sum(transfer.bytes for transfer in plan.traffic) for stage, plan in zero.items()}
    assert sent[0] == sent[1] == sent[2] == pytest.approx(2 * 7 / 8 * 4 * alone.parameters, rel=1e-6)
    assert sent[3] == pytest.approx(1.5 * sent[1], rel=1e-6)
    assert sum(transfer.bytes for transfer in eight.traffic) < 0.1 * sent[1]
    assert zero[1].memory["Adam moments"] == pytest.approx(alone.memory["Adam moments"] / 8, rel=1e-6)
    assert zero[3].memory["weights"] == pytest.approx(alone.memory["weights"] / 8, rel=1e-6)


def test_other_nodes_are_reached_over_the_network() -> None:
    plan = of_sae(**largest(workers=64, feature_parallel=8, zero=1, batch=262_144))  # type: ignore[arg-type]
    links = {transfer.name: (transfer.link, transfer.bytes / transfer.seconds) for transfer in plan.traffic}
    assert links["all-reduce of reconstructions"] == ("node", pytest.approx(370e9))
    assert links["reduce-scatter of gradients"] == ("network", pytest.approx(45e9))


def test_hours_follow_from_tokens_and_the_slower_rate() -> None:
    sizes = largest(feature_parallel=8)
    free = of_sae(**sizes, tokens=10**9)  # type: ignore[arg-type]
    assert free.tokens_per_second == pytest.approx(32_768 / free.step_seconds)
    assert free.hours == pytest.approx(10**9 / free.tokens_per_second / 3600)
    fed = of_sae(**sizes, tokens=10**9, source_tokens_per_second=70_000)  # type: ignore[arg-type]
    assert fed.tokens_per_second == 70_000
    assert of_sae(**sizes).tokens == 32_768_000  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused_with_the_largest_terms() -> None:
    widest = {"d_in": 2560, "width": 1_048_576, "k": 128}
    unshared = of_sae(**widest, training=training(workers=1), hardware=Hardware(memory_bytes=80e9))  # type: ignore[arg-type]
    assert not unshared.fits
    with pytest.raises(
        InputError, match=r"needs .* GB on each GPU \(Adam moments 42.96 GB.*feature-parallel"
    ):
        unshared.require_fits()
    assert "DOES NOT FIT" in unshared.text()
    shared = of_sae(**widest, training=training(feature_parallel=8))  # type: ignore[arg-type]
    shared.require_fits()
    assert "2560 x 1,048,576" in shared.text()
    assert "780 TFLOP/s" in shared.text()
    assert shared.as_json()["memory"] == shared.memory
    assert shared.as_json()["hardware"]["name"] == H200.name


def test_features_that_cannot_be_cut_evenly_are_refused() -> None:
    with pytest.raises(InputError, match="--width 100: cannot be cut evenly by --feature-parallel 8"):
        of_sae(d_in=8, width=100, k=4, training=training(feature_parallel=8))
    with pytest.raises(InputError, match="--arch mlp"):
        of_sae(d_in=8, width=100, k=4, training=training(), architecture="mlp")


@pytest.mark.parametrize(
    ("architecture", "zero"), [("topk", 0), ("topk", 1), ("topk", 2), ("topk", 3), ("jumprelu", 0)]
)
def test_memory_is_what_a_step_allocates(architecture: str, zero: int) -> None:
    d, width, k, batch = 64, 4096, 16, 256
    options = training(workers=0, batch=batch, zero=zero)
    config = sae.SAEConfig(
        architecture,
        d,
        width,
        k=k if architecture == "topk" else None,
        rescale_acts_by_decoder_norm=architecture == "topk",
    )
    measured = step_bytes(config, options, join_workers(0, 1, 1))
    gc.collect()
    plan = of_sae(
        d_in=d,
        width=width,
        k=k,
        training=options,
        architecture=architecture,
        hardware=Hardware(device="cpu"),
    )
    assert LEAST * measured <= plan.memory_bytes <= MOST * measured
