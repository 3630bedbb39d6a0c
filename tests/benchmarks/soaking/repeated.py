"""A job that is begun over and over, resumed when it was killed, and compared with what a quiet run made."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.soaking.machines import Machines

MOST_ATTEMPTS, PAUSE_SECONDS = 30, 2.0

Contents = Mapping[str, str]
"""Name of an object -> hash of its bytes."""


@dataclass
class Tally:
    """What became of the runs of one job. lost, extra, changed: objects, against the quiet run's."""

    completed: int = 0
    given_up: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    extra: int = 0
    changed: int = 0
    seconds: list[float] = field(default_factory=list)

    def compare(self, found: Contents, quiet: Contents) -> None:
        self.completed += 1
        self.lost += len(quiet.keys() - found.keys())
        self.extra += len(found.keys() - quiet.keys())
        self.changed += sum(found[name] != quiet[name] for name in found.keys() & quiet.keys())


class Repeated(threading.Thread):
    """One job after the other until told; the last is let come to its end."""

    patience: float | None = 900.0
    """Seconds of an attempt."""

    def __init__(
        self,
        name: str,
        machines: Machines,
        command: Callable[[Path], list[str]],
        contents: Callable[[Path], Contents],
        folder: Path,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.tally, self.quiet = Tally(), dict[str, str]()
        self.running: subprocess.Popen[str] | None = None
        self.over = threading.Event()
        self._machines, self._command, self._contents, self._folder = machines, command, contents, folder

    def run_quietly(self) -> Path:
        """One run while nothing is killed, to compare with; its output, which stays. Raises when it fails."""
        output = self._folder / f"{self.name}-quiet"
        if self._attempt(output) != 0:
            raise RuntimeError(f"{self.name} failed by itself:\n{_end_of(self._log(output))}")
        self.quiet = dict(self._contents(output))
        return output

    def run(self) -> None:
        number = 0
        while not self.over.is_set():
            output = self._folder / f"{self.name}-{number}"
            began = time.monotonic()
            if self._complete(output):
                self.tally.seconds.append(time.monotonic() - began)
                found = self._contents(output)
                self.tally.compare(found, self.quiet)
                if found == self.quiet and output.exists():
                    shutil.rmtree(output)
            else:
                self.tally.given_up += 1
            number += 1

    def _complete(self, output: Path) -> bool:
        """The same command until it ends well."""
        for _ in range(MOST_ATTEMPTS):
            code = self._attempt(output)
            self.tally.attempts[_how(code, self._log(output))] += 1
            if code == 0:
                return True
            time.sleep(PAUSE_SECONDS)
        return False

    def _attempt(self, output: Path) -> int | None:
        """Exit code; None for an attempt that did not end and was ended."""
        self.running = self._machines.start(self._command(output), self._log(output))
        try:
            return self.running.wait(timeout=self.patience)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
            return None
        finally:
            self.running = None

    def _log(self, output: Path) -> Path:
        return output.with_suffix(".log")


def _how(code: int | None, log: Path) -> str:
    """How an attempt ended, in words."""
    if code is None:
        return "without end"
    if code == 0:
        return "complete"
    # A killed process, as its parent tells: directly, through nsenter, or as a shell would.
    return "killed" if code in (-9, 137) else f"exit {code}"


def _end_of(log: Path) -> str:
    return log.read_text()[-3000:]
