"""The anatomy every job shares: typed options, one `run`, one `main`; exit codes, progress and `run.json`.

A job is a module with `Options(JobOptions)`, `run(options) -> Outcome` and `main(argv)`, where
`main` is `launch(name, Options, run, argv)`. Heavy imports belong inside `run`, so that `--help` is instant.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import tyro

from jobs import run_record
from jobs.option_files import arguments_from_yaml
from jobs.run_record import Outcome
from storage.errors import InputError
from storage.locations import Location

DONE, FAILED, BAD_INPUT = 0, 1, 2


@dataclass(kw_only=True)
class JobOptions:
    """The flags common to all jobs (design section 4)."""

    output: str | None = None
    """Where the job writes: a local path or an fsspec URL (s3://, gs://, memory://)."""
    config: str | None = None
    """YAML file with defaults for any flag of this job; flags on the command line win."""
    address: str | None = None
    """Ray address. Default: the cluster we are in, else an embedded Ray that ends with the job."""
    max_cells: int | None = None
    """Use only the first N cells of the input."""
    seed: int = 0
    """Seed of everything random in this job."""
    overwrite: bool = False
    """Remove what is at --output and start anew. Default: resume it."""
    json: bool = False
    """Print the run.json summary as the last line of stdout."""

    def __post_init__(self) -> None:
        if self.max_cells is not None and self.max_cells < 1:
            raise InputError(f"--max-cells is {self.max_cells}; it must be at least 1.")

    @property
    def output_location(self) -> Location:
        if not self.output:
            raise InputError("--output is missing: say where the result goes (a path or an fsspec URL).")
        return Location.of(self.output)


OptionsType = TypeVar("OptionsType", bound=JobOptions)


def comma_separated(text: str) -> tuple[str, ...]:
    """`"cls, mean"` -> `("cls", "mean")`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


class ProgressLine:
    """Progress on stderr: one line rewritten on a terminal, a plain line every ten seconds otherwise."""

    PLAIN_EVERY_SECONDS = 10.0

    def __init__(self, label: str) -> None:
        self.label, self.started = label, time.monotonic()
        self.first_done: int | None = None
        self.last_printed = 0.0

    def __call__(self, done: int, total: int, unit: str) -> None:
        """Report that `done` of `total` units exist; the rate counts only what this run has done."""
        now = time.monotonic()
        if self.first_done is None:
            self.first_done = done
        every = 0.2 if sys.stderr.isatty() else self.PLAIN_EVERY_SECONDS
        if done < total and now - self.last_printed < every:
            return
        self.last_printed = now
        rate = (done - self.first_done) / max(now - self.started, 1e-9)
        left = f", {(total - done) / rate:,.0f} s left" if rate > 0 and done < total else ""
        line = f"{self.label}: {done:,} of {total:,} {unit}, {rate:,.1f} {unit}/s{left}"
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[2K" + line + ("\n" if done >= total else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def parse(name: str, options_type: type[OptionsType], argv: Sequence[str]) -> OptionsType:
    """Options from flags and, below them, from the YAML file of `--config`."""
    expanded = arguments_from_yaml(list(argv), options_type)
    return tyro.cli(options_type, prog=f"syncytium {name}", args=expanded)


def _refusals() -> tuple[type[Exception], ...]:
    """Exception types that mean bad input; models' own is known only once a job has imported models."""
    errors = sys.modules.get("engine.models.errors")
    return (InputError, errors.ModelError) if errors else (InputError,)


def execute(name: str, options: OptionsType, run: Callable[[OptionsType], Outcome]) -> dict[str, Any]:
    """Run one job in this process and write its `run.json`; returns the record. Raises what `run` raises."""
    started = datetime.now(UTC)
    outcome = run(options)
    earlier = (
        run_record.read(Location.of(options.output)) if options.output and not outcome.did_work else None
    )
    record = run_record.complete(name, asdict(options), outcome, started)
    if earlier is not None:
        return {**earlier, "did_work": False}
    if options.output and outcome.writes_record:
        run_record.write(Location.of(options.output), record)
    return {**record, "exit_code": outcome.exit_code}


def launch(
    name: str,
    options_type: type[OptionsType],
    run: Callable[[OptionsType], Outcome],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run, record; maps refusals to exit code 2 and failures to 1."""
    try:
        options = parse(name, options_type, sys.argv[1:] if argv is None else argv)
        record = execute(name, options, run)
    except KeyboardInterrupt:
        print(f"syncytium {name}: interrupted; run the same command again to resume.", file=sys.stderr)
        return FAILED
    except _refusals() as error:
        print(f"syncytium {name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:  # noqa: BLE001 - the outermost frame of the process: reported, exit code 1
        traceback.print_exc()
        print(f"syncytium {name} failed: {error}\nRun the same command again to resume.", file=sys.stderr)
        return FAILED
    exit_code: int = record.pop("exit_code", DONE)
    _say(name, options, record)
    return exit_code


def _say(name: str, options: JobOptions, record: dict[str, Any]) -> None:
    if not record["did_work"]:
        print(f"{name}: {options.output} is already complete; nothing to do.", file=sys.stderr)
    elif options.output:
        counts = ", ".join(f"{count:,} {what}" for what, count in record["counts_out"].items())
        print(f"{name}: wrote {options.output} ({counts}) in {record['wall_seconds']:.1f} s", file=sys.stderr)
    if options.json:
        print(json.dumps(record, default=str), flush=True)
