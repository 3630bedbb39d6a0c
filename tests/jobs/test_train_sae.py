"""`train-sae` from the command line, in this process: from a cache, from cells, and what it refuses."""

import json
from pathlib import Path

import pyarrow.parquet as pq
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


SWEEP = """
- {arch: [topk, gated], width: [16, 32], seed: 3}
- {name: nested, arch: matryoshka, width: 32, k: 2, lr: 0.01}
"""


def test_a_sweep_of_a_file(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    flags = [*COMMON, "--cache", cache, "--sweep", str(tmp_path / "sweep.yaml")]
    output = tmp_path / "out"
    assert main([*flags, "--output", str(output)]) == 0
    rows = {row["name"]: row for row in pq.read_table(output / "sweep.parquet").to_pylist()}
    names = ["topk-w16-k4-seed3", "topk-w32-k4-seed3", "gated-w16-seed3", "gated-w32-seed3", "nested"]
    assert list(rows) == names
    assert [sae.load(output / name).d_sae for name in names] == [16, 32, 16, 32, 32]
    assert (rows["nested"]["learning_rate"], rows["nested"]["init_seed"]) == (0.01, 0)
    record = json.loads((output / "run.json").read_text())
    assert record["counts_out"]["autoencoders"] == 5
    assert main([*flags, "--output", str(output)]) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("k: 3", "expected a list"),
        ("- {wdith: 3}", "no such key: wdith"),
        ("- {k: yes}", "k is True; expected int"),
        ("- {name: a, k: [1, 2]}", "names are for single"),
        ("- {k: 2}\n- {k: 2}", "two autoencoders are called topk-w32-k2"),
        ("- {k: 40}", "--k 40"),
        ("- {k: []}", "empty list"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    flags = ["--cache", cache, "--sweep", str(tmp_path / "sweep.yaml"), "--output", str(tmp_path / "out")]
    assert main([*COMMON, *flags]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--steps", "100", "--width", "1048576", "--k", "64", "--d-in", "2560", "--workers", "8"]
    assert main([*flags, "--feature-parallel", "8", "--dry-run", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "memory per GPU" in shown
    record = json.loads(shown.splitlines()[-1])
    assert record["facts"]["dry_run"]["plan"]["parameters"] > 5e9
    assert main([*flags, "--dry-run", "--gpu-memory", "80"]) == 2
    assert "a GPU of 80 GB has 80.00 GB" in capsys.readouterr().err


def test_few_cells_in_the_shuffle_are_said(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--cache", cache, "--steps", "1", "--width", "32", "--k", "4", "--workers", "0"]
    assert main([*flags, "--batch-tokens", "2000", "--output", str(tmp_path / "few")]) == 0
    assert "only 3.0 batches' worth of cells" in capsys.readouterr().err
    assert main([*flags, "--batch-tokens", "600", "--output", str(tmp_path / "many")]) == 0
    assert "batches' worth" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--cache", "CACHE", "--matryoshka-widths", "8"], "belongs to --arch matryoshka"),
        (["--cache", "CACHE", "--arch", "matryoshka", "--matryoshka-widths", "8,4"], "ascending"),
        (["--cache", "CACHE", "--anneal", "2"], "--anneal 2"),
        (["--cache", "CACHE", "--width", "0"], "--width 0"),
        (["--cache", "CACHE", "--token-class", "cell"], "no tokens of class cell"),
        (["--cache", "CACHE", "--outlier-norm", "0.5"], "--outlier-norm 0.5"),
        (["--cache", "CACHE", "--d-in", "8"], "belong to --dry-run"),
        (["--cells", "a", "--model", "b", "--hook", "c", "--token-class", "cell"], "belong to --cache"),
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
