"""Handing a script to SLURM, and following what becomes of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cluster.programs import ask

# A job that is preempted or whose node dies goes back to PENDING; these are the ends.
_ENDS = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "NODE_FAIL"}
_POLL_SECONDS = 2.0


def hand_in(script: str) -> str:
    """The id of the job."""
    return ask("sbatch", "--parsable", stdin=script).strip().partition(";")[0]


def facts(job_id: str) -> dict[str, str]:
    """What `scontrol show job` says of one job: JobState, ExitCode, StdOut, Restarts, ..."""
    words = ask("scontrol", "show", "job", "--oneliner", job_id).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def follow(job_id: str, poll_seconds: float = _POLL_SECONDS) -> int:
    """Copies the job's log to stdout until it ends; its exit code, 1 where SLURM ended it."""
    shown, state = 0, ""
    while True:
        now = facts(job_id)
        if now["JobState"] != state:
            state = now["JobState"]
            print(f"submit: job {job_id} is {state}", file=sys.stderr, flush=True)
        shown += _copy(Path(now["StdOut"]), shown)
        if state in _ENDS:
            return exit_code(now)
        time.sleep(poll_seconds)


def exit_code(ended: dict[str, str]) -> int:
    """Of a job that ended: SLURM writes `code:signal`."""
    code, _, signal = ended["ExitCode"].partition(":")
    if ended["JobState"] != "COMPLETED" and int(code) == 0:
        return 1
    return 1 if int(signal or 0) else int(code)


def _copy(log: Path, shown: int) -> int:
    """Prints what came after the first `shown` bytes; how many bytes that were."""
    if not log.exists():
        return 0
    with log.open("rb") as stream:
        stream.seek(shown)
        new = stream.read()
    sys.stdout.buffer.write(new)
    sys.stdout.flush()
    return len(new)
