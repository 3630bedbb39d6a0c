"""One line of progress: rewritten on a terminal, plain lines in a log."""

import sys
import time
from typing import Any

from jobs.anatomy.log_lines import say


class ProgressLine:
    """Progress on stderr: one line rewritten on a terminal, a plain line every ten seconds otherwise."""

    PLAIN_EVERY_SECONDS = 10.0

    def __init__(self, label: str) -> None:
        self.label, self.started = label, time.monotonic()
        self.first_done: int | None = None
        self.last_printed = 0.0

    def __call__(self, done: int, total: int, unit: str, beside: str = "") -> None:
        """Report that `done` of `total` units exist; the rate counts only what this run has done.

        beside: what else is worth saying, said as it is.
        """
        now = time.monotonic()
        if self.first_done is None:
            self.first_done = done
        every = 0.2 if sys.stderr.isatty() else self.PLAIN_EVERY_SECONDS
        if done < total and now - self.last_printed < every:
            return
        self.last_printed = now
        rate = (done - self.first_done) / max(now - self.started, 1e-9)
        left = f", {(total - done) / rate:,.0f} s left" if rate > 0 and done < total else ""
        line = f"{self.label}: {done:,} of {total:,} {unit}, {rate:,.1f} {unit}/s"
        line += (f", {beside}" if beside else "") + left
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[2K" + line + ("\n" if done >= total else ""))
            sys.stderr.flush()
        else:
            step: dict[str, Any] = {"step": done} if unit == "steps" else {}
            say(line, **step, done=done, total=total, unit=unit, per_second=round(rate, 3))
