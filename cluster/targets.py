"""The three places a job can be sent to, behind one door: what `syncytium submit` finds by name."""

from __future__ import annotations

import json
import sys

from cluster import ray_jobs
from cluster.kubernetes import applied, documents
from cluster.site import Site
from cluster.slurm import queue, script
from cluster.submission import Submission
from storage.errors import InputError

DONE, FAILED = 0, 1
TARGETS = ("kubernetes", "slurm", "ray")


def render(target: str, submission: Submission, site: Site) -> str:
    """What would be submitted. Raises InputError for what the target cannot do."""
    if target == "kubernetes":
        return documents.render(submission, site)
    if target == "slurm":
        return script.render(submission, site)
    return json.dumps(ray_jobs.fields_of(submission, site), indent=2) + "\n"


def submit(target: str, submission: Submission, site: Site, *, follow: bool) -> tuple[list[str], int]:
    """Hands it in; ids, and the exit code: of the job where it was followed."""
    text = render(target, submission, site)
    if target == "kubernetes":
        applied.apply(text)
        ids = [one.name for one in documents.one_by_one(submission)] if submission.commands else []
    elif target == "slurm":
        ids = [queue.hand_in(text)]
    else:
        client = ray_jobs.connect(site.ray.address)
        ids = [ray_jobs.start(client, submission, site)]
    for job_id in ids:
        print(f"submit: {target} job {job_id}", file=sys.stderr, flush=True)
    # Of a sweep each job has its own log; there is no one to show.
    if not follow or len(ids) != 1 or len(submission.commands) != 1:
        return ids, DONE
    return ids, reattach(target, ids[0], site)


def reattach(target: str, job_id: str, site: Site) -> int:
    """Follows a job that was handed in before; its exit code. Raises InputError when Ray does not know it."""
    if target == "ray":
        client = ray_jobs.connect(site.ray.address)
        try:
            client.get_job_info(job_id)
        except RuntimeError as error:
            raise InputError(f"--job-id {job_id}: {error}") from error
        return ray_jobs.follow(client, job_id, str(site.ray.address))
    try:
        return (
            queue.follow(job_id) if target == "slurm" else applied.follow(job_id, site.kubernetes.namespace)
        )
    except KeyboardInterrupt:
        print(
            f"submit: job {job_id} goes on; watch it again with --on {target} --job-id {job_id}",
            file=sys.stderr,
        )
        return FAILED
