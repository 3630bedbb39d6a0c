"""An evaluation that was interrupted goes on at the stage it was in, and comes to the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.evaluation import stages
from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.evaluation.options import EvaluationOptions
from engine.interpret.evaluation.run import METRICS, SUMMARY, evaluate
from storage.commits import Dataset
from storage.locations import Location
from tests.interpret.inputs import Place

pytestmark = pytest.mark.usefixtures("ray_cluster")

OPTIONS = EvaluationOptions(baselines=("pca", "neurons"))


def test_an_interrupted_evaluation_goes_on(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = EvaluationInputs.open(str(place.sae), str(place.cache))
    whole = evaluate(inputs, OPTIONS, Location.of(tmp_path / "whole"))
    output = Location.of(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "look", None)
        with pytest.raises(TypeError):
            evaluate(inputs, OPTIONS, output)
    assert [member.key for member in Dataset.open(output).pending()] == ["tokens"]
    assert not output.exists(METRICS)
    # The baselines must not be made again.
    monkeypatch.setattr(stages, "_build_baselines", None)
    resumed = evaluate(inputs, OPTIONS, output)
    assert resumed.metrics == whole.metrics
    for name in ("features.parquet", "reconstruction.parquet", SUMMARY):
        assert output.read(name) == whole.snapshot.read(name)
    again = evaluate(inputs, OPTIONS, output)
    assert not again.did_work
    assert again.metrics == whole.metrics
