"""Callers of the served index, as a program on the head: every question is asked until it is answered.

python -m tests.benchmarks.soaking.load PORT REPORT CALLERS

First each question is asked once and its answer kept, while nothing happens to the server. Then callers ask
at random until TERM. The report is rewritten every two seconds.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# A replica of the door takes 20 requests a second of one caller's address.
QUESTIONS, PAUSE_SECONDS = 40, 0.2
# A server that is started again imports PyTorch first, on a machine that has more to do.
PATIENCE_SECONDS = 300.0


@dataclass
class Answers:
    """asked: questions. failures: attempts without an answer, by status or kind of error. wrong: answers
    other than at first. unanswered: questions given up. longest: seconds a question waited for its answer.
    """

    asked: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    unanswered: int = 0
    longest: float = 0.0
    took: list[float] = field(default_factory=list)


class Caller:
    def __init__(self, port: int, answers: Answers) -> None:
        self._port, self._answers = port, answers
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, question: int) -> str | None:
        """A hash of what was found; None when nobody answered in time."""
        began = time.monotonic()
        self._answers.asked += 1
        found = None
        while found is None and time.monotonic() < began + PATIENCE_SECONDS:
            try:
                found = self._once(question)
            except (OSError, http.client.HTTPException) as error:
                self._failed(type(error).__name__)
        waited = time.monotonic() - began
        self._answers.took.append(waited)
        self._answers.longest = max(self._answers.longest, waited)
        self._answers.unanswered += found is None
        return found

    def _once(self, question: int) -> str | None:
        self._connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        body = json.dumps({"like": {"cells": [question, question + 1]}, "k": 5})
        self._connection.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        if response.status != 200:
            self._failed(str(response.status))
            return None
        hits = [(hit["cell"], hit["score"]) for hit in json.loads(content)["hits"]]
        return hashlib.sha256(json.dumps(hits).encode()).hexdigest()

    def _failed(self, why: str) -> None:
        self._answers.failures[why] += 1
        print(f"{time.time():.1f} {why}", file=sys.stderr, flush=True)
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        time.sleep(0.2)


def main() -> int:
    port, report, callers = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    # The server may have been started just now: what fails until it is there is no failure.
    first = Caller(port, Answers())
    known = [first.ask(question) for question in range(QUESTIONS)]
    answers = Answers()

    def call(number: int) -> None:
        caller, draw = Caller(port, answers), random.Random(number)
        while not over.wait(PAUSE_SECONDS):
            question = draw.randrange(QUESTIONS)
            found = caller.ask(question)
            answers.wrong += found is not None and found != known[question]

    calling = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(callers)]
    for thread in calling:
        thread.start()
    while any(thread.is_alive() for thread in calling):
        _write(report, answers)
        time.sleep(2)
    _write(report, answers)
    return 0


def _write(report: Path, answers: Answers) -> None:
    temporary = report.with_suffix(".tmp")
    temporary.write_text(json.dumps(vars(answers)))
    temporary.replace(report)


if __name__ == "__main__":
    raise SystemExit(main())
