"""`train-sae` of crosscoders and transcoders from the command line, and what it refuses of them."""

import json
from pathlib import Path

import pytest

from engine.models import sae
from engine.models.sae.crosscoder import load_crosscoder
from jobs.train_sae import main

COMMON = ["--steps", "3", "--batch-tokens", "64", "--width", "32", "--k", "4", "--workers", "0"]
HOOKS = "resid_post_0,resid_post_1"


def test_a_crosscoder_of_two_hooks(
    two_hooks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--arch", "crosscoder", "--cache", two_hooks, "--hook", HOOKS, "--output", str(tmp_path)]
    assert main([*COMMON, *flags]) == 0
    assert [source.name for source in load_crosscoder(tmp_path).sources] == HOOKS.split(",")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["counts_out"] == {"steps": 3, "tokens": 192, "features": 32}
    assert len(record["facts"]["autoencoder"]["reference_fvu_of_sources"]) == 2
    assert main([*COMMON, *flags]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_a_crosscoder_of_two_models(two_models: tuple[str, str], tmp_path: Path) -> None:
    flags = ["--arch", "crosscoder", "--cache", ",".join(two_models), "--output", str(tmp_path)]
    assert main([*COMMON, *flags]) == 0
    assert [source.d_in for source in load_crosscoder(tmp_path).sources] == [20, 12]


def test_a_crosscoder_straight_from_cells(cells: str, encoder_directory: Path, tmp_path: Path) -> None:
    source = ["--cells", cells, "--model", str(encoder_directory), "--hook", HOOKS, "--tokens-per-cell", "8"]
    assert main([*COMMON, "--arch", "crosscoder", *source, "--output", str(tmp_path)]) == 0
    assert [source.d_in for source in load_crosscoder(tmp_path).sources] == [16, 16]


def test_a_transcoder(two_hooks: str, tmp_path: Path) -> None:
    hooks = ["--hook", "resid_post_0", "--target-hook", "resid_post_1"]
    flags = ["--arch", "skip_transcoder", "--cache", two_hooks, *hooks, "--output", str(tmp_path)]
    assert main([*COMMON, *flags]) == 0
    config = sae.load(tmp_path).config
    assert (config.d_in, config.d_out, config.skip) == (16, 16, True)
    assert config.metadata["hook_name_out"] == "resid_post_1"


CROSSCODER, TRANSCODER = ["--arch", "crosscoder"], ["--arch", "transcoder"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--cache", "HOOKS", "--hook", "resid_post_0", "--target-hook", "x"],
            "belongs to --arch transcoder",
        ),
        ([*CROSSCODER, "--cache", "HOOKS"], "found 0 hooks of one cache; give --hook A,B"),
        ([*CROSSCODER, "--cache", "HOOKS", "--hook", "a,a"], "--hook a"),
        ([*CROSSCODER, "--cache", "HOOKS", "--hook", "resid_post_0,resid_post_0"], "two or more different"),
        (
            [*CROSSCODER, "--cache", "HOOKS", "--hook", HOOKS, "--target-hook", "a"],
            "reconstructs what it reads",
        ),
        ([*CROSSCODER, "--cache", "MODELS", "--hook", "a,b,c"], "3 hooks for 2 caches"),
        ([*CROSSCODER, "--cache", "MODELS", "--token-class", "cell"], "aligned by gene"),
        ([*CROSSCODER, "--cache", "MODELS", "--cells", "c"], "one or the other"),
        ([*CROSSCODER, "--cache", "MODELS", "--dry-run"], "--dry-run: not for --arch crosscoder"),
        ([*CROSSCODER, "--cache", "MODELS", "--feature-parallel", "2"], "--feature-parallel: not for"),
        ([*CROSSCODER, "--cache", "MODELS", "--gene-residual"], "--gene-residual: not for"),
        ([*CROSSCODER, "--cache", "MODELS", "--k", "33"], "--k 33"),
        ([*TRANSCODER, "--cache", "HOOKS", "--hook", "resid_post_0"], "--target-hook OUT"),
        ([*TRANSCODER, "--cache", "MODELS", "--hook", "a", "--target-hook", "b"], "takes one cache, found 2"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    two_hooks: str,
    two_models: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    reason: str,
) -> None:
    given = [{"HOOKS": two_hooks, "MODELS": ",".join(two_models)}.get(flag, flag) for flag in flags]
    assert main([*COMMON, *given, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
