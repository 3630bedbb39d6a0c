"""What a job that has joined a cluster says when the cluster's head is gone."""

import socket
import time

import pytest

from engine import ray_session


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "LOOK_AT_HEAD_SECONDS", 0.05)


def test_a_lost_head_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    head = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{head.getsockname()[1]}"
    said = ""
    with ray_session._head_watched(address):
        assert ray_session._answers(address)
        time.sleep(0.3)
        assert capsys.readouterr().err == ""
        head.close()
        deadline = time.monotonic() + 60
        while not said.endswith("\n") and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capsys.readouterr().err
    assert f"The head of the cluster, {address}, does not answer." in said
    assert "Run the same command again to resume." in said


def test_nothing_is_said_of_a_cluster_that_was_left(capsys: pytest.CaptureFixture[str]) -> None:
    with ray_session._head_watched("127.0.0.1:9"):
        pass
    time.sleep(0.3)
    assert capsys.readouterr().err == ""
