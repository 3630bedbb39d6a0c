"""Jobs on a running Ray, over a stand-in for its client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from cluster import ray_jobs, targets
from cluster.site import RaySite, Site
from cluster.submission import Machine, Submission
from storage.errors import InputError

Happens = Callable[[], Awaitable[None]]
On = Callable[["Client"], Site]

JOB = Submission(
    name="cache",
    commands=(("cache", "--cells", "my store"),),
    machine=Machine(cpus=1, gpus=0, memory_gib=1),
    environment={"A": "2"},
)


class Client:
    """One job, whose states come one after the other; a log in the middle of which something may happen."""

    def __init__(self, *states: JobStatus, code: int | None = None, happens: Happens | None = None) -> None:
        self.states, self.code, self.happens = list(states), code, happens
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
        if self.happens:
            await self.happens()
        yield "cache: 2 of 2 cells\n"


@pytest.fixture
def dashboard() -> Iterator[socket.socket]:
    """Somebody listens."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener


@pytest.fixture
def on(dashboard: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Callable[[Client], Site]:
    """A site whose Ray is this client's."""

    def site(client: Client) -> Site:
        monkeypatch.setattr(ray_jobs, "connect", lambda _: client)
        monkeypatch.setattr(ray_jobs, "_POLL_SECONDS", 0)
        address = f"http://127.0.0.1:{dashboard.getsockname()[1]}"
        return Site(environment={"A": "1", "B": "1"}, ray=RaySite(address=address, excludes=("*.log",)))

    return site


def test_submits_and_follows(on: On, capsys: pytest.CaptureFixture[str]):
    client = Client(JobStatus.RUNNING, JobStatus.SUCCEEDED, code=0)
    assert targets.submit("ray", JOB, on(client), follow=True) == (["raysubmit_1"], 0)
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
def test_carries_the_exit_code(state: JobStatus, code: int | None, means: int, on: On):
    assert targets.submit("ray", JOB, on(Client(state, code=code)), follow=True)[1] == means


async def interrupt() -> None:
    raise KeyboardInterrupt


def test_stops_the_job_when_interrupted(on: On):
    client = Client(JobStatus.RUNNING, happens=interrupt)
    with pytest.raises(KeyboardInterrupt):
        targets.submit("ray", JOB, on(client), follow=True)
    assert client.stopped == ["raysubmit_1"]


async def break_off() -> None:
    raise RuntimeError("WebSocket connection closed unexpectedly")


def test_a_log_that_breaks_off_ends_nothing(on: On, capsys: pytest.CaptureFixture[str]):
    client = Client(JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED, happens=break_off)
    assert targets.submit("ray", JOB, on(client), follow=True)[1] == 0
    assert "the log of raysubmit_1 broke off: WebSocket connection closed" in capsys.readouterr().err


def test_the_dashboard_vanishes(
    on: On, dashboard: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As when a machine loses power: the connection that the log comes over is not closed."""

    async def vanish() -> None:
        dashboard.close()
        await asyncio.Event().wait()

    monkeypatch.setattr(ray_jobs, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(ray_jobs, "_PATIENCE_SECONDS", 0.2)
    site = on(Client(JobStatus.RUNNING, happens=vanish))
    assert targets.submit("ray", JOB, site, follow=True) == (["raysubmit_1"], 1)
    said = capsys.readouterr()
    assert said.out == "cache: 1 of 2 cells\n"
    assert "raysubmit_1 was RUNNING then" in said.err
    assert f"submit --on ray --address {site.ray.address} --job-id raysubmit_1\n" in said.err


def test_reattaches(on: On):
    client = Client(JobStatus.FAILED, code=3)
    site = on(client)
    assert targets.reattach("ray", "raysubmit_1", site) == 3
    assert client.submitted == {}
    with pytest.raises(InputError, match="does not exist"):
        targets.reattach("ray", "raysubmit_2", site)


def test_nobody_answers():
    with pytest.raises(InputError, match="no Ray dashboard answers"):
        ray_jobs.connect("http://127.0.0.1:9")
