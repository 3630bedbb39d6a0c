"""`train-sae` from the command line, in this process: from a cache, from cells, and what it refuses."""

import json
from pathlib import Path

import pytest

from engine.models import sae
from jobs.train_sae import main

COMMON = ["--steps", "3", "--batch-tokens", "64", "--width", "32", "--k", "4", "--workers", "0"]


def test_from_a_cache(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMON, "--cache", cache, "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["counts_out"] == {"steps": 3, "tokens": 192, "features": 32}
    assert record["facts"]["final"]["l0"] <= 4
    autoencoder = sae.load(tmp_path)
    assert (autoencoder.d_in, autoencoder.d_sae, autoencoder.config.k) == (24, 32, 4)
    assert main([*COMMON, "--cache", cache, "--output", str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["batchtopk", "jumprelu", "matryoshka", "gated", "standard"])
def test_every_architecture(cache: str, tmp_path: Path, arch: str) -> None:
    flags = ["--arch", arch, "--anneal", "0.5", "--cache", cache, "--output", str(tmp_path)]
    assert main([*COMMON, *flags]) == 0
    written = "jumprelu" if arch in ("batchtopk", "matryoshka") else arch
    assert sae.load(tmp_path).config.architecture == written


def test_straight_from_cells(cells: str, encoder_directory: Path, tmp_path: Path) -> None:
    source = ["--cells", cells, "--model", str(encoder_directory), "--hook", "resid_post_0"]
    assert main([*COMMON, *source, "--tokens-per-cell", "8", "--output", str(tmp_path)]) == 0
    assert sae.load(tmp_path).config.metadata["hook_name"] == "resid_post_0"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--cache", "CACHE", "--matryoshka-widths", "8"], "belongs to --arch matryoshka"),
        (["--cache", "CACHE", "--arch", "matryoshka", "--matryoshka-widths", "8,4"], "ascending"),
        (["--cache", "CACHE", "--anneal", "2"], "--anneal 2"),
        (["--cache", "CACHE", "--cells", "somewhere"], "one or the other"),
        (["--cache", "CACHE", "--hook", "resid_post_9"], "resid_post_9"),
        (["--cache", "CACHE", "--k", "33"], "--k 33"),
        (["--cache", "CACHE", "--tokens-per-cell", "9"], "--tokens-per-cell"),
        (["--cells", "somewhere"], "--model DIR and --hook"),
        ([], "--cache CACHE"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    given = [cache if flag == "CACHE" else flag for flag in flags]
    assert main([*COMMON, *given, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
