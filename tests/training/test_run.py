"""A training run in this process: finishing, resuming, refusing; nothing half-written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.training.loop import Progress
from engine.training.metrics import read_metrics
from engine.training.options import TrainingOptions
from engine.training.run import run_training
from storage.errors import DamagedDataset, InputError, LineageMismatch
from storage.locations import Location
from tests.training.tiny import TinyRecipe


def options(**changes: Any) -> TrainingOptions:
    given = {"steps": 12, "batch": 8, "workers": 0, "checkpoint_every": 4, "weight_decay": 0.1, **changes}
    return TrainingOptions(**given)


class Interruption(Exception):
    """Stands in for anything that ends the driver between two steps."""


def interrupt_at(step: int) -> Progress:
    def progress(done: int, total: int, unit: str) -> None:
        if done == step:
            raise Interruption

    return progress


def curve(output: Path) -> list[dict[str, float]]:
    table = read_metrics(Location.of(output))
    assert table is not None
    return table.select(["step", "loss", "learning_rate", "gradient_norm", "tokens", "active"]).to_pylist()


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert curve(one) == curve(other)
    for name, weight in weights(one).items():
        assert torch.equal(weight, weights(other)[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "out"
    report = run_training(TinyRecipe(), options(), Location.of(output))
    assert report.did_work
    assert (report.first_step, report.steps) == (0, 12)
    assert report.peak_memory_bytes > 1 << 20
    return output


def test_a_run_learns_and_leaves_model_curve_and_checkpoints(uninterrupted: Path) -> None:
    rows = curve(uninterrupted)
    assert [row["step"] for row in rows] == list(range(12))
    assert all(row["tokens"] == 8 and row["gradient_norm"] > 0 for row in rows)
    assert weights(uninterrupted)["passes"] == 12
    assert weights(uninterrupted)["offset"].eq(0.25).all()  # set by prepare()
    kept = sorted(path.name for path in (uninterrupted / "checkpoints").glob("step_*"))
    assert kept == ["step_00000008", "step_00000012"]
    assert list((uninterrupted / "tensorboard").glob("events*"))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_resume_equals_the_uninterrupted_run(tmp_path: Path, zero: int) -> None:
    linear = torch.nn.functional.linear
    whole, output = tmp_path / "whole", tmp_path / "out"
    run_training(TinyRecipe(), options(zero=zero), Location.of(whole))
    with pytest.raises(Interruption):
        run_training(TinyRecipe(), options(zero=zero), Location.of(output), progress=interrupt_at(7))
    assert not (output / "model.safetensors").exists()
    report = run_training(TinyRecipe(), options(zero=zero), Location.of(output))
    assert report.first_step == 4
    assert_same_run(whole, output)
    assert torch.nn.functional.linear is linear


def test_other_micro_batches_take_the_same_examples(uninterrupted: Path, tmp_path: Path) -> None:
    recipe = TinyRecipe(dropout=0.0)
    run_training(recipe, options(accumulation=1), Location.of(tmp_path / "whole"))
    run_training(recipe, options(accumulation=4), Location.of(tmp_path / "parts"))
    # The counter in the loss counts passes, so only the first step is comparable.
    whole, parts = curve(tmp_path / "whole")[0], curve(tmp_path / "parts")[0]
    assert parts["loss"] == pytest.approx(whole["loss"], rel=5e-3)
    assert parts["tokens"] == whole["tokens"] == 8


def test_a_finished_run_is_left_alone(uninterrupted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()}
    assert not run_training(TinyRecipe(), options(), Location.of(uninterrupted)).did_work
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()} == before


def test_other_options_are_refused_with_both_shown(uninterrupted: Path) -> None:
    with pytest.raises(LineageMismatch, match=r"\* training\.learning_rate +0\.001 +0\.5"):
        run_training(TinyRecipe(), options(learning_rate=0.5), Location.of(uninterrupted))
    with pytest.raises(LineageMismatch, match=r"\* hidden +40 +64"):
        run_training(TinyRecipe(hidden=64), options(), Location.of(uninterrupted))


def test_where_and_how_often_may_change(uninterrupted: Path) -> None:
    assert not run_training(
        TinyRecipe(), options(keep=5, checkpoint_every=3), Location.of(uninterrupted)
    ).did_work


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    run_training(TinyRecipe(), options(steps=2), Location.of(tmp_path))
    report = run_training(TinyRecipe(), options(steps=3), Location.of(tmp_path), overwrite=True)
    assert (report.did_work, report.first_step, len(curve(tmp_path))) == (True, 0, 3)


def test_foreign_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.docx"):
        run_training(TinyRecipe(), options(), Location.of(tmp_path), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_an_uncommitted_checkpoint_is_not_used(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        run_training(TinyRecipe(), options(), Location.of(tmp_path), progress=interrupt_at(11))
    (tmp_path / "checkpoints/step_00000008/committed.json").unlink()  # as if killed before the commit
    report = run_training(TinyRecipe(), options(), Location.of(tmp_path))
    assert report.first_step == 4
    assert_same_run(uninterrupted, tmp_path)


def test_a_cut_checkpoint_is_named_when_there_is_no_other(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        run_training(TinyRecipe(), options(keep=1), Location.of(tmp_path), progress=interrupt_at(7))
    cut = tmp_path / "checkpoints/step_00000004/worker_00000.safetensors"
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(DamagedDataset, match="step_00000004/worker_00000"):
        run_training(TinyRecipe(), options(keep=1), Location.of(tmp_path))


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        run_training(TinyRecipe(), options(keep=1), Location.of(tmp_path), progress=interrupt_at(7))
    (tmp_path / "checkpoints/step_00000004/committed.json").write_text('{"step": 4, "world": 1, "files": {}}')
    with pytest.raises(InputError, match="was written by another version"):
        run_training(TinyRecipe(), options(keep=1), Location.of(tmp_path))


def test_a_run_that_ended_before_publishing_only_publishes(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr("engine.training.output.publish", fail)
        with pytest.raises(Interruption):
            run_training(TinyRecipe(), options(), Location.of(tmp_path))
    assert not (tmp_path / "training.json").exists()
    report = run_training(TinyRecipe(), options(), Location.of(tmp_path))
    assert (report.did_work, report.first_step) == (True, 12)
    assert_same_run(uninterrupted, tmp_path)


def test_bf16_trains_close_to_fp32(uninterrupted: Path, tmp_path: Path) -> None:
    run_training(TinyRecipe(), options(precision="bf16"), Location.of(tmp_path))
    assert curve(tmp_path)[-1]["loss"] == pytest.approx(curve(uninterrupted)[-1]["loss"], rel=0.02)
    assert weights(tmp_path)["encode.weight"].dtype == torch.float32


def test_an_object_store_holds_everything_a_resume_needs(uninterrupted: Path) -> None:
    output = Location.of("memory://training-test")
    with pytest.raises(Interruption):
        run_training(TinyRecipe(), options(), output, progress=interrupt_at(7))
    report = run_training(TinyRecipe(), options(), output)
    assert report.first_step == 4
    assert output.read("model.safetensors") == (uninterrupted / "model.safetensors").read_bytes()
    assert not run_training(TinyRecipe(), options(), output).did_work
    with pytest.raises(InputError, match="other processes"):
        run_training(TinyRecipe(), options(workers=2), output)
    output.delete_all()
