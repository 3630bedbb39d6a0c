"""A job on a Ray cluster that is already there, over its jobs API."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
import time
from typing import Any, Protocol

from cluster.site import Site
from cluster.submission import Submission, module_command
from storage.errors import InputError

_POLL_SECONDS = 0.5
# Ray sends TERM, and KILL three seconds later; the driver's last commit is on disk either way.
_STOP_SECONDS = 30.0


class JobClient(Protocol):
    """What we use of `ray.job_submission.JobSubmissionClient`."""

    def submit_job(self, **fields: Any) -> str: ...
    def get_job_info(self, job_id: str) -> Any: ...
    def stop_job(self, job_id: str) -> bool: ...
    def tail_job_logs(self, job_id: str) -> Any: ...


def connect(address: str | None) -> JobClient:
    """Raises InputError where no dashboard answers. The token is Ray's own: RAY_AUTH_TOKEN or its file."""
    if not address:
        raise InputError(
            "--on ray needs --address http://HOST:8265 (the dashboard), or ray.address in --site."
        )
    from ray.job_submission import JobSubmissionClient

    # Ray says which files it does not send, folder by folder; what goes wrong reaches us as an exception.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        client: JobClient = JobSubmissionClient(address)
    except ConnectionError as error:
        raise InputError(f"--address {address}: no Ray dashboard answers there ({error}).") from error
    return client


def fields_of(submission: Submission, site: Site) -> dict[str, Any]:
    """The arguments of `submit_job`. Raises InputError for what a running cluster cannot give."""
    if submission.serving is not None or len(submission.commands) != 1:
        raise InputError("--on ray takes one job: submit --on ray -- JOB FLAGS.")
    machines = {
        "nodes": submission.nodes > 1,
        "gpus": submission.machine.gpus > 0,
        "reader-nodes": submission.reader_nodes > 0,
        "spot": submission.spot,
        "queue": submission.queue,
        "image": submission.image,
        "time-limit": submission.time_limit_seconds,
    }
    asked = [flag for flag, is_asked in machines.items() if is_asked]
    if asked:
        raise InputError(f"--{asked[0]}: a Ray that runs already has the machines it has; leave it out.")
    runtime: dict[str, Any] = {"env_vars": {**site.environment, **submission.environment}}
    if site.ray.working_dir is not None:
        runtime |= {"working_dir": site.ray.working_dir, "excludes": list(site.ray.excludes)}
    return {
        "entrypoint": shlex.join(module_command(submission.commands[0])),
        "runtime_env": runtime,
        "metadata": {"name": submission.name},
    }


def start(client: JobClient, submission: Submission, site: Site) -> str:
    """Sends the working folder and starts the job; its id."""
    return client.submit_job(**fields_of(submission, site))


def follow(client: JobClient, job_id: str) -> int:
    """Copies the driver's log to stdout until it ends; its exit code. Ctrl-C stops the job, which resumes
    when it is submitted again.
    """
    try:
        asyncio.run(_copy_log(client, job_id))
        while not (info := client.get_job_info(job_id)).status.is_terminal():
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        print(f"submit: stopping {job_id}", file=sys.stderr, flush=True)
        client.stop_job(job_id)
        deadline = time.monotonic() + _STOP_SECONDS
        while not client.get_job_info(job_id).status.is_terminal() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        raise
    return exit_code(job_id, info)


def exit_code(job_id: str, ended: Any) -> int:
    """Of a job that ended. Ray's own command says 1 for every failure; the driver's code is kept."""
    if str(ended.status) == "SUCCEEDED":
        return 0
    # Behind this Ray repeats the log, which has just been shown.
    why = (ended.message or "").partition(", last available logs")[0]
    print(f"submit: {job_id} is {ended.status}: {why}", file=sys.stderr)
    # Negative for a driver that a signal ended; None where it never began.
    code = ended.driver_exit_code
    return code if code is not None and 0 < code < 256 else 1


async def _copy_log(client: JobClient, job_id: str) -> None:
    async for text in client.tail_job_logs(job_id):
        sys.stdout.write(text)
        sys.stdout.flush()
