"""Rooms elsewhere: what they refuse travels as an answer, and a lost replica is asked again."""

import asyncio
import pickle
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from engine.serving.placement import Elsewhere, Refused, RoomReplica
from engine.serving.problems import Problem
from engine.serving.settings import Settings
from storage.errors import InputError

SETTINGS = Settings(index="none")


class Room:
    def __init__(self, _: Settings) -> None:
        self.asked = 0

    def answer(self, question: str) -> str:
        if question == "secret":
            raise Problem(404, "no_column", f"no {question}", {"Retry-After": "1"})
        if question == "bad":
            raise InputError("bad question")
        return question.upper()


class Handle:
    """Of a deployment whose replica is lost so many times."""

    def __init__(self, deaths: int) -> None:
        self.replica, self.deaths, self.asked = RoomReplica(Room, SETTINGS), deaths, 0
        self.call = self

    async def remote(self, name: str, *arguments: Any) -> Any:
        self.asked += 1
        if self.asked <= self.deaths:
            raise ActorDiedError
        # As Ray does.
        return pickle.loads(pickle.dumps(await self.replica.call(name, *arguments)))


def test_refusals_are_not_raised_in_the_replica() -> None:
    """Serve logs what a replica raises, with the message."""
    found = asyncio.run(RoomReplica(Room, SETTINGS).call("answer", "secret"))
    assert isinstance(found, Refused)


def test_refusals_arrive_whole() -> None:
    room = Elsewhere(Handle(0))
    with pytest.raises(Problem, match="no secret") as refused:
        asyncio.run(room.answer.remote("secret"))
    assert (refused.value.status, refused.value.code) == (404, "no_column")
    assert refused.value.headers == {"Retry-After": "1"}
    with pytest.raises(InputError, match="bad question"):
        asyncio.run(room.answer.remote("bad"))


def test_a_lost_replica_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.serving.placement._AGAIN_SECONDS", (0.0, 0.0, 0.0))
    handle = Handle(deaths=3)
    assert asyncio.run(Elsewhere(handle).answer.remote("a")) == "A"
    assert handle.asked == 4
    with pytest.raises(Problem, match="one after the other") as refused:
        asyncio.run(Elsewhere(Handle(deaths=4)).answer.remote("a"))
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
