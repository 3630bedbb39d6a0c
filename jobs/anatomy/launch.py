"""Running a job as a process: run, record, say, and an exit code that tells bad input from failure."""

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jobs.anatomy import run_record
from jobs.anatomy.log_lines import job_id, log_lines, say
from jobs.anatomy.options import JobOptions, OptionsType, parse
from jobs.anatomy.run_record import Outcome
from storage.errors import InputError
from storage.locations import Location

DONE, FAILED, BAD_INPUT = 0, 1, 2


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
    except InputError as error:
        say(f"syncytium {name}: {error}", "error")
        return BAD_INPUT
    with log_lines(options.log, job=name, job_id=job_id(), dataset=options.output):
        return _launched(name, options, run)


def _launched(name: str, options: OptionsType, run: Callable[[OptionsType], Outcome]) -> int:
    try:
        record = execute(name, options, run)
    except KeyboardInterrupt:
        say(f"syncytium {name}: interrupted; run the same command again to resume.", "error")
        return FAILED
    except _refusals() as error:
        say(f"syncytium {name}: {error}", "error")
        return BAD_INPUT
    except Exception as error:  # noqa: BLE001 - the outermost frame of the process: reported, exit code 1
        said = f"syncytium {name} failed: {error}\nRun the same command again to resume."
        if options.log == "json":
            say(said, "error", traceback=traceback.format_exc())
        else:
            say(traceback.format_exc() + said)
        return FAILED
    exit_code: int = record.pop("exit_code", DONE)
    _say(name, options, record)
    return exit_code


def _say(name: str, options: JobOptions, record: dict[str, Any]) -> None:
    if not record["did_work"]:
        say(f"{name}: {options.output} is already complete; nothing to do.")
    elif options.output:
        counts = ", ".join(f"{count:,} {what}" for what, count in record["counts_out"].items())
        seconds = record["wall_seconds"]
        say(f"{name}: wrote {options.output} ({counts}) in {seconds:.1f} s", **record["counts_out"])
    if options.json:
        print(json.dumps(record, default=str), flush=True)
