"""Leases: one owner at a time, and no clock can make them more than a saving of work."""

import threading
import time

import pytest

from storage.commits import MemberPlan
from storage.locations import Location
from storage.protocol import leases
from tests.storage.small_datasets import planned, write


def test_a_lease_has_one_owner(place: Location) -> None:
    dataset = planned(place)
    assert dataset.claim("00", "one", 60)
    assert not dataset.claim("00", "two", 60)
    assert dataset.claim("00", "one", 60)
    assert dataset.claim("01", "two", 60)
    write(dataset, "00")
    assert not dataset.claim("00", "one", 60)


def test_an_expired_lease_is_taken_over_by_one(place: Location) -> None:
    dataset = planned(place)
    assert dataset.claim("00", "dead", -1)
    start, winners = threading.Barrier(4), []

    def take(owner: str) -> None:
        start.wait()
        if dataset.claim("00", owner, 60):
            winners.append(owner)

    takers = [threading.Thread(target=take, args=(f"taker {number}",)) for number in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert len(winners) == 1


def test_a_lease_from_a_clock_far_ahead_runs_out_by_being_watched(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = planned(place)
    with monkeypatch.context() as patch:
        patch.setattr(leases.time, "time", lambda: time.time_ns() / 1e9 + 1e6)
        assert dataset.claim("00", "skewed", 30)
    assert not dataset.claim("00", "sane", 30)
    now = time.monotonic()
    monkeypatch.setattr(leases.time, "monotonic", lambda: now + 31)
    assert dataset.claim("00", "sane", 30)


def test_a_lease_stolen_by_a_fast_clock_costs_only_double_work(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = planned(place)
    assert dataset.claim("00", "sane", 30)
    monkeypatch.setattr(leases.time, "time", lambda: time.time_ns() / 1e9 + 1e6)
    assert dataset.claim("00", "skewed", 30)
    write(dataset, "00")
    write(dataset, "00")
    assert len(list(dataset.records())) == 1


def test_a_claim_looks_at_its_own_member_only(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = planned(place, members=[MemberPlan(f"{number:04d}") for number in range(50)])
    for member in dataset.members[:40]:
        assert dataset.claim(member.key, "one", 60)
    seen, listing = [], Location.list
    monkeypatch.setattr(
        Location, "list", lambda self, prefix="": seen.append(listing(self, prefix)) or seen[-1]
    )
    assert dataset.claim("0045", "two", 60)
    assert not dataset.claim("0007", "two", 60)
    assert sum(map(len, seen)) == 1


def test_releasing_leaves_no_lease_and_no_folder(place: Location) -> None:
    dataset = planned(place)
    assert dataset.claim("00", "one", 60)
    assert dataset.claim("00", "one", 60)
    assert dataset.claim("01", "one", 60)
    assert leases.begun(place) == {"00": 2, "01": 1}
    leases.release_all(place)
    assert leases.begun(place) == {}
    assert place.local is None or not list((place.local / "_lease").iterdir())
