"""The anatomy every job shares: typed options, one `run`, one `main`; exit codes, progress and `run.json`.

A job is a module with `Options(JobOptions)`, `run(options) -> Outcome` and `main(argv)`, where
`main` is `launch(name, Options, run, argv)`. Heavy imports belong inside `run`, so that `--help` is instant.
"""

from jobs.anatomy.launch import BAD_INPUT, DONE, FAILED, execute, launch
from jobs.anatomy.options import JobOptions, comma_separated, parse
from jobs.anatomy.progress import ProgressLine
from jobs.anatomy.run_record import Outcome

__all__ = [
    "BAD_INPUT",
    "DONE",
    "FAILED",
    "JobOptions",
    "Outcome",
    "ProgressLine",
    "comma_separated",
    "execute",
    "launch",
    "parse",
]
