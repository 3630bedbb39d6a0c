"""The `syncytium` command."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import JOBS, main

REPOSITORY = Path(__file__).resolve().parents[2]


def test_usage_lists_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in JOBS)


def test_unknown_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embedd"]) == 2
    assert "no job 'embedd'" in capsys.readouterr().err


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_the_same_anatomy(name: str) -> None:
    module = importlib.import_module("jobs." + name.replace("-", "_"))
    assert callable(module.run)
    assert callable(module.main)
    assert module.Options.__dataclass_fields__.keys() >= {
        "output",
        "config",
        "address",
        "seed",
        "overwrite",
        "json",
    }


def test_a_reader_that_has_seen_enough_sees_no_traceback() -> None:
    command = [
        sys.executable,
        "-c",
        "from jobs.__main__ import main; raise SystemExit(main(['serve', '--help']))",
    ]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.close()
        said = job.stderr.read()
        assert (job.wait(), said) == (141, "")


def test_a_job_runs_from_a_plain_checkout() -> None:
    # What `ray job submit --working-dir .` does: the checkout is the working directory, nothing is installed.
    command = [sys.executable, "-m", "jobs.embed", "--help"]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert "--model" in finished.stdout
