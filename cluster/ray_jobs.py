"""A job on a Ray cluster that is already there, over its jobs API."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
import time
from typing import Any, Protocol
from urllib.parse import urlsplit

from cluster.site import Site
from cluster.submission import Submission, module_command
from storage.errors import InputError

_POLL_SECONDS = 0.5
# While the log comes, whether the dashboard is there is looked at so often.
_LOOK_SECONDS = 5.0
# A dashboard that is restarted is back by then.
_PATIENCE_SECONDS = 60.0
_PORTS = {"http": 80, "https": 443}
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


def follow(client: JobClient, job_id: str, address: str) -> int:
    """Copies the driver's log to stdout until it ends; its exit code, 1 where the dashboard is lost before.
    Ctrl-C stops the job, which resumes when it is submitted again.
    """
    try:
        return exit_code(job_id, asyncio.run(_followed(client, job_id, address)))
    except DashboardLost as lost:
        print(f"submit: {lost}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print(f"submit: stopping {job_id}", file=sys.stderr, flush=True)
        client.stop_job(job_id)
        deadline = time.monotonic() + _STOP_SECONDS
        while not client.get_job_info(job_id).status.is_terminal() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        raise


class DashboardLost(Exception):
    """Nobody answers where the job was handed in. Says what is known of the job and what to do."""

    def __init__(self, address: str, job_id: str, state: str, seconds: float) -> None:
        super().__init__(
            f"{address} has not answered for {seconds:.0f} s. {job_id} was {state} then, and its log up to "
            "then is above. Where only the dashboard or the way to it is lost it goes on; watch it again: "
            f"syncytium submit --on ray --address {address} --job-id {job_id}\n"
            "Where the head is lost the job is, too, for its driver was there: submit it again, and it "
            "resumes at its last commit."
        )


async def _followed(client: JobClient, job_id: str, address: str) -> Any:
    """What Ray says of the job once it has ended. Raises DashboardLost."""
    copying = asyncio.create_task(_copy_log(client, job_id))
    # A lost machine closes no connection: the log alone would be waited for without end.
    known, heard = client.get_job_info(job_id), time.monotonic()
    while not (copying.done() and known.status.is_terminal()):
        await asyncio.wait({copying}, timeout=_LOOK_SECONDS)
        await asyncio.sleep(_POLL_SECONDS)
        if (now := await _asked(client, job_id, address)) is not None:
            known, heard = now, time.monotonic()
        elif (silent := time.monotonic() - heard) > _PATIENCE_SECONDS:
            raise DashboardLost(address, job_id, str(known.status), silent)
    if error := copying.exception():
        print(f"submit: the log of {job_id} broke off: {error}", file=sys.stderr, flush=True)
    return known


async def _asked(client: JobClient, job_id: str, address: str) -> Any:
    """What Ray says of the job; None where nobody answers. (Ray's client itself would wait for minutes.)"""
    there = urlsplit(address)
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            _, writer = await asyncio.open_connection(there.hostname, there.port or _PORTS[there.scheme])
        writer.close()
        return client.get_job_info(job_id)
    except OSError:
        return None


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
