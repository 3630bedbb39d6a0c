"""The sbatch script, run by bash with stand-ins for SLURM and Ray; and following a job in the queue."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.site import Site, SlurmSite
from cluster.slurm import queue
from cluster.slurm.script import render
from cluster.submission import Machine, Submission
from storage.errors import InputError

# What the script calls, reduced to what it relies on.
STAND_INS = {
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" >> "$RECORD/requeued"; else echo node1; fi',
    # The first step only asks for an address.
    "srun": 'while [ "$1" != bash ]; do shift; done; SLURM_PROCID=0 "$@"; code=$?\n'
    'case "$*" in *getent*) exit $code;; esac; exit "${SRUN_ENDS_WITH:-$code}"',
    "pgrep": '[ -e "$RECORD/leftover" ]',
    "ray": 'if [ "$1" = stop ]; then rm "$RECORD/leftover"; exit; fi\n'
    'while [ "$1" != -- ]; do echo "$1" >> "$RECORD/ray"; shift; done; shift\n'
    '[ -e "$RECORD/broken" ] || "$@"',
    "python": 'printf "%s\\n" "$@" > "$RECORD/python"; sleep "${NAP:-0}"; exit "${ENDS_WITH:-0}"',
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the stand-ins in `bin`; the script is submitted from it."""
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    return tmp_path


def start(machine: Path, submission: Submission, **variables: str) -> subprocess.Popen[str]:
    script = machine / "script"
    script.write_text(render(submission, Site(slurm=SlurmSite(activate=None))))
    environment = {
        "PATH": f"{machine / 'bin'}:{os.environ['PATH']}",
        "RECORD": str(machine),
        "SLURM_SUBMIT_DIR": str(machine),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": submission.name,
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "4",
        **variables,
    }
    return subprocess.Popen(
        ["bash", script],
        cwd=machine,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def submission(*flags: str, **changes: object) -> Submission:
    fields: dict[str, object] = {
        "name": "cache",
        "commands": (("cache", "--output", "out put", *flags),),
        "machine": Machine(cpus=4, gpus=1, memory_gib=8),
        "retries": 2,
    }
    return Submission(**{**fields, **changes})  # type: ignore[arg-type]


def requeued(machine: Path) -> bool:
    return (machine / "requeued").exists()


def test_a_job_that_ends_well(machine: Path):
    run = start(machine, submission())
    assert run.communicate()[0] == ""
    assert run.returncode == 0
    assert (machine / "python").read_text().splitlines() == ["-m", "jobs.cache", "--output", "out put"]
    assert {"--num-cpus=4", "--num-gpus=1", "--min-nodes"} <= set((machine / "ray").read_text().splitlines())
    assert not requeued(machine)
    assert not list(machine.glob(".*.done"))


@pytest.mark.parametrize(
    ("ends_with", "restarts", "again"), [("7", "0", True), ("7", "2", False), ("2", "0", False)]
)
def test_a_job_that_fails_is_queued_again_to_resume(
    machine: Path, ends_with: str, restarts: str, again: bool
):
    run = start(machine, submission(), ENDS_WITH=ends_with, SLURM_RESTART_COUNT=restarts)
    run.communicate()
    assert run.returncode == int(ends_with)
    assert requeued(machine) == again


def test_ray_that_never_ran_the_job_is_a_failure(machine: Path):
    # `ray symmetric-run` ends with 0 where `ray start` failed.
    (machine / "broken").touch()
    run = start(machine, submission(retries=0))
    run.communicate()
    assert run.returncode == 1


def test_what_nodes_do_after_a_good_job_does_not_count(machine: Path):
    # `srun --wait` ends those that do not notice that the first has ended.
    run = start(machine, submission(), SRUN_ENDS_WITH="137")
    run.communicate()
    assert run.returncode == 0
    assert not requeued(machine)


def test_the_ray_that_a_preempted_job_left_is_ended_first(machine: Path):
    (machine / "leftover").touch()
    run = start(machine, submission())
    run.communicate()
    assert run.returncode == 0
    assert not (machine / "leftover").exists()


def test_near_the_time_limit_it_is_queued_again_while_the_job_goes_on(machine: Path):
    run = start(machine, submission(time_limit_seconds=3600), NAP="2")
    while not (machine / "python").exists():
        time.sleep(0.02)
    run.send_signal(signal.SIGUSR1)
    said = run.communicate()[0]
    assert "the time limit is near; queued again" in said
    assert requeued(machine)
    assert run.returncode == 0


def test_a_sweep_is_an_array(machine: Path):
    commands = tuple(("train-sae", "--seed", str(seed)) for seed in range(3))
    run = start(machine, submission(commands=commands), SLURM_ARRAY_TASK_ID="2")
    run.communicate()
    assert (machine / "python").read_text().splitlines() == ["-m", "jobs.train_sae", "--seed", "2"]
    assert "#SBATCH --array=0-2\n" in (machine / "script").read_text()


@pytest.mark.parametrize("changes", [{"commands": ()}, {"serving": {"index": "i"}}, {"reader_nodes": 1}])
def test_what_slurm_cannot_do(changes: dict[str, object]):
    with pytest.raises(InputError):
        render(submission(**changes), Site())


def test_following(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
):
    log = tmp_path / "log"
    turns = iter([("PENDING", b""), ("RUNNING", b"one\n"), ("PENDING", b""), ("FAILED", b"two\n")])

    def ask(*words: str) -> str:
        assert words == ("scontrol", "show", "job", "--oneliner", "77")
        state, new = next(turns)
        if new:
            with log.open("ab") as stream:
                stream.write(new)
        return f"JobId=77 JobName=a b JobState={state} Reason=None ExitCode=7:0 StdOut={log} Power="

    monkeypatch.setattr(queue, "ask", ask)
    assert queue.follow("77", poll_seconds=0) == 7
    out, err = capfdbinary.readouterr()
    assert out == b"one\ntwo\n"
    assert err.count(b"PENDING") == 2


@pytest.mark.parametrize(
    ("state", "exit_code", "means"),
    [("COMPLETED", "0:0", 0), ("FAILED", "7:0", 7), ("FAILED", "0:9", 1), ("TIMEOUT", "0:0", 1)],
)
def test_exit_codes(state: str, exit_code: str, means: int):
    assert queue.exit_code({"JobState": state, "ExitCode": exit_code}) == means
