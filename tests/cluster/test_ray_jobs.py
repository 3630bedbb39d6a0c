"""Jobs on a running Ray, over a stand-in for its client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from cluster import ray_jobs, targets
from cluster.site import RaySite, Site
from cluster.submission import Machine, Submission
from storage.errors import InputError

JOB = Submission(
    name="cache",
    commands=(("cache", "--cells", "my store"),),
    machine=Machine(cpus=1, gpus=0, memory_gib=1),
    environment={"A": "2"},
)


class Client:
    """One job, whose states come one after the other; a log that may be interrupted."""

    def __init__(self, *states: JobStatus, code: int | None = None, interrupted: bool = False) -> None:
        self.states, self.code, self.interrupted = list(states), code, interrupted
        self.submitted: dict[str, Any] = {}
        self.stopped: list[str] = []

    def submit_job(self, **fields: Any) -> str:
        self.submitted = fields
        return "raysubmit_1"

    def get_job_info(self, job_id: str) -> Any:
        if job_id != "raysubmit_1":
            raise RuntimeError(f"Job {job_id} does not exist")
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return SimpleNamespace(status=state, driver_exit_code=self.code, message="said")

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        self.states = [JobStatus.RUNNING, JobStatus.STOPPED]
        return True

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "cache: 1 of 2 cells\n"
        if self.interrupted:
            raise KeyboardInterrupt
        yield "cache: 2 of 2 cells\n"


def on(client: Client, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(ray_jobs, "connect", lambda _: client)
    monkeypatch.setattr(ray_jobs, "_POLL_SECONDS", 0)
    return Site(environment={"A": "1", "B": "1"}, ray=RaySite(excludes=("*.log",)))


def test_submits_and_follows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    client = Client(JobStatus.RUNNING, JobStatus.SUCCEEDED, code=0)
    assert targets.submit("ray", JOB, on(client, monkeypatch), follow=True) == (["raysubmit_1"], 0)
    assert client.submitted == {
        "entrypoint": "python -m jobs.cache --cells 'my store'",
        "runtime_env": {"env_vars": {"A": "2", "B": "1"}, "working_dir": ".", "excludes": ["*.log"]},
        "metadata": {"name": "cache"},
    }
    assert capsys.readouterr().out == "cache: 1 of 2 cells\ncache: 2 of 2 cells\n"


@pytest.mark.parametrize(
    ("state", "code", "means"),
    [
        (JobStatus.FAILED, 7, 7),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 1),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, 0, 1),
    ],
)
def test_carries_the_exit_code(
    state: JobStatus, code: int | None, means: int, monkeypatch: pytest.MonkeyPatch
):
    assert targets.submit("ray", JOB, on(Client(state, code=code), monkeypatch), follow=True)[1] == means


def test_stops_the_job_when_interrupted(monkeypatch: pytest.MonkeyPatch):
    client = Client(JobStatus.RUNNING, interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        targets.submit("ray", JOB, on(client, monkeypatch), follow=True)
    assert client.stopped == ["raysubmit_1"]


def test_reattaches(monkeypatch: pytest.MonkeyPatch):
    client = Client(JobStatus.FAILED, code=3)
    site = on(client, monkeypatch)
    assert targets.reattach("ray", "raysubmit_1", site) == 3
    assert client.submitted == {}
    with pytest.raises(InputError, match="does not exist"):
        targets.reattach("ray", "raysubmit_2", site)


def test_nobody_answers():
    with pytest.raises(InputError, match="no Ray dashboard answers"):
        ray_jobs.connect("http://127.0.0.1:9")
