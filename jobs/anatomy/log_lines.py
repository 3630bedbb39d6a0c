"""What a job says on stderr: text for people, or with `--log json` an object a line for machines."""

import io
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

# Set by the dashboard's job supervisor for the driver of `ray job submit`, and so on KubeRay.
_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def job_id() -> str:
    """Of this run, as who started it calls it: SYNCYTIUM_JOB_ID, the id of `ray job submit`, SLURM's (an
    array's with its task); else a random one.
    """
    if given := os.environ.get("SYNCYTIUM_JOB_ID"):
        return given
    submitted = json.loads(os.environ.get(_RAY_JOB, "{}")).get("metadata", {}).get("job_submission_id")
    if submitted:
        return str(submitted)
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID") or uuid.uuid4().hex[:12]


class JsonLines(io.TextIOBase):
    """Stands where stderr was: every line that anybody prints becomes an object with the job's own fields."""

    def __init__(self, below: TextIO, fields: dict[str, Any]) -> None:
        self._below, self._fields, self._begun = below, fields, ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, whole):
            self.emit(line, "warning" if "warning: " in line else "info")
        return len(text)

    def emit(self, message: str, level: str, **more: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "level": level, **self._fields, "message": message, **more}
        self._below.write(json.dumps(entry, default=str) + "\n")
        self._below.flush()

    def flush(self) -> None:
        self._below.flush()


def say(message: str, level: str = "info", **more: Any) -> None:
    """One message on stderr; `more` are fields of its own where lines are objects, and else left out."""
    if isinstance(sys.stderr, JsonLines):
        sys.stderr.emit(message, level, **more)
    else:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def log_lines(how: str, **fields: Any) -> Iterator[None]:
    """While the body runs, `how` = "json" makes objects with these fields of all that goes to stderr."""
    if how != "json":
        yield
        return
    below = sys.stderr
    lines = JsonLines(below, fields)
    sys.stderr = lines
    try:
        yield
    finally:
        # A last line without its end.
        lines.write("\n")
        sys.stderr = below
