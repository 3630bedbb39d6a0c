"""What coordination costs at 10,240 shards and 1,000 workers: plan, claim, commit, resume, finish."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine.streaming.members import fixed_members, members_by_tokens
from storage.commits import Dataset, MemberPlan, open_snapshot
from storage.protocol.snapshots import PLAN, snapshot_name
from tests.benchmarks.coordination.counted import REQUESTS, CountedLocation
from tests.benchmarks.coordination.other_ledgers import with_lance, with_sqlite
from tests.benchmarks.coordination.simulated_workers import Simulation
from tests.benchmarks.cpu_time import cpu_seconds, cpu_seconds_in_turns
from tests.benchmarks.report import Figure, main

ABOUT = """What coordinates, without what is coordinated: the planner, the leases, the commit protocol and the
snapshot of a real dataset, driven by 1,000 simulated workers of two jobs that race for the same members. Time
in the simulation is made up (a member takes about a minute, one attempt in twenty dies before its commit);
every call to the protocol is real, on files in memory, so that CPU-seconds are those of the code and not of a
disk. Ray is not in it: what Ray costs a member is in the report `scaling`.
A member of the simulation holds 4,096 cells in two objects. Requests are what an object store would be asked
(a listing once for every thousand names). The plan of a billion cells is made and read, not carried out."""

CELLS_PER_MEMBER, CELLS_OF_THE_PLAN = 4096, 1_000_000_000
# One attempt in so many dies.
DEATHS = 0.05
MIB = 2**20


def in_memory(scratch: Path) -> Path:
    """A folder on a file system in memory, where there is one."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else scratch


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def figure(name: str, ours: float, unit: str, **others: object) -> Figure:
    """One of our own numbers; lower is better."""
    given = {"target": None, "theirs": None, "theirs_is": "-", **others}
    return Figure(name=name, value=ours, unit=unit, better="lower", ours=ours, **given)  # type: ignore[arg-type]


@contextmanager
def asked() -> Iterator[dict[str, int]]:
    """Requests of the body, by kind."""
    REQUESTS.clear()
    found: dict[str, int] = {}
    yield found
    found.update(REQUESTS)


def planning(n_members: int) -> list[Figure]:
    n_cells = n_members * CELLS_PER_MEMBER
    genes = np.random.default_rng(0).integers(500, 2500, n_cells, dtype=np.int32)
    by_tokens = cpu_seconds(lambda: members_by_tokens(genes.astype(np.int64)))
    return [
        figure(
            f"cutting {n_cells / 1e6:.0f}M cells by their tokens",
            by_tokens,
            "CPU-s",
            theirs=len(members_by_tokens(genes.astype(np.int64))),
            theirs_is="members of 262,144 tokens",
        )
    ]


def plan(folder: Path, members: list[MemberPlan]) -> Dataset:
    return Dataset.plan(
        CountedLocation(str(folder)),
        kind="simulated",
        lineage={"of": "nothing"},
        members=members,
    )


def coordinated(folder: Path, n_members: int, workers: int) -> list[Figure]:
    """The simulation, and everything a driver does around it."""
    members = fixed_members(n_members * CELLS_PER_MEMBER, CELLS_PER_MEMBER)
    dataset = plan(folder / "simulated", members)
    simulation = Simulation(dataset, workers, DEATHS)
    with asked() as requests:
        spent = cpu_seconds(simulation.run)
    total = sum(requests.values())
    each = ", ".join(f"{count / n_members:.1f} {kind}" for kind, count in sorted(requests.items()))
    figures = [
        figure(
            "coordination of a member",
            spent / n_members * 1e3,
            "CPU-ms",
            theirs=simulation.began / n_members,
            theirs_is=f"attempts a member; {workers:,} workers, {n_members:,} members, {simulation.died:,} "
            f"deaths, {simulation.left_to_others:,} left to the other job",
        ),
        figure(
            "requests to the store a member",
            total / n_members,
            "requests",
            theirs=total / simulation.seconds,
            theirs_is=f"a second at a minute a member ({each})",
        ),
    ]
    return figures + afterwards(folder / "simulated", dataset, n_members)


def afterwards(folder: Path, dataset: Dataset, n_members: int) -> list[Figure]:
    """What a driver, a worker and a reader do with a log of that length."""
    location = dataset.location
    looking = cpu_seconds(dataset.pending)
    opening = cpu_seconds(lambda: Dataset.open(location))
    before = resident_bytes()
    started = time.process_time()
    snapshot = dataset.finish()
    finishing = time.process_time() - started
    if len(snapshot.members) != n_members or len({record.key for record in snapshot.members}) != n_members:
        raise RuntimeError(f"{n_members} members planned, {len(snapshot.members)} in the snapshot")
    held = resident_bytes() - before
    return [
        figure(
            f"one look at what is pending, {n_members:,} members",
            looking * 1e3,
            "CPU-ms",
            theirs=-(-n_members // 1000),
            theirs_is="pages of a listing",
        ),
        figure(
            "opening the plan, once in every committing process",
            opening * 1e3,
            "CPU-ms",
            theirs=location.size(PLAN) / MIB,
            theirs_is="MiB, read by each",
        ),
        figure(
            "finishing: every record into the snapshot",
            finishing,
            "CPU-s",
            theirs=location.size(snapshot_name(1)) / MIB,
            theirs_is="MiB of snapshot",
        ),
        figure(
            "memory of the driver for it",
            held / MIB,
            "MiB",
            theirs=held / n_members,
            theirs_is="bytes a member",
        ),
        figure(
            "opening the finished dataset",
            cpu_seconds(lambda: open_snapshot(location)) * 1e3,
            "CPU-ms",
        ),
    ]


def committing(dataset: Dataset) -> Iterator[int]:
    """One record at every step: what is compared with other ledgers, without leases."""
    for number, member in enumerate(dataset.members):
        writer = dataset.member(member.key)
        for name in ("final", "resid_post_6"):
            writer.put(f"{name}/{member.key}.safetensors", b"\0" * 64)
        writer.commit({**member.facts, "n_tokens": 262_144})
        yield number


def ledgers(folder: Path, n: int) -> list[Figure]:
    """Records a CPU-second of ours and of others, taking turns."""
    dataset = plan(folder / "ours", fixed_members(n * CELLS_PER_MEMBER, CELLS_PER_MEMBER))
    spent = cpu_seconds_in_turns(
        {
            "ours": committing(dataset),
            "lance": with_lance(folder / "lance", n),
            "sqlite": with_sqlite(folder / "sqlite", n),
        }
    )
    rates = {name: n / seconds for name, seconds in spent.items()}
    return [
        Figure.ratio(
            f"{n:,} records and their two objects vs Lance, a version each",
            rates["ours"],
            rates["lance"],
            "Lance (records only), records/CPU-s",
            target=1.0,
        ),
        Figure.ratio(
            f"{n:,} records and their two objects vs SQLite on one machine",
            rates["ours"],
            rates["sqlite"],
            "SQLite (records only), records/CPU-s",
        ),
    ]


def growth(folder: Path, few: int, many: int, workers: int) -> list[Figure]:
    """Whether a member costs more where there are more of them, and of workers: the same at two sizes."""
    cost = {}
    for n_members in (few, many):
        members = fixed_members(n_members * CELLS_PER_MEMBER, CELLS_PER_MEMBER)
        simulation = Simulation(
            plan(folder / f"grown{n_members}", members), workers * n_members // many, DEATHS
        )
        cost[n_members] = cpu_seconds(simulation.run) / n_members * 1e3
    return [
        Figure(
            name=f"cost of a member, {many:,} members against {few:,}",
            value=cost[many] / cost[few],
            unit="x",
            target=1.2,
            better="lower",
            ours=cost[many],
            theirs=cost[few],
            theirs_is=f"CPU-ms a member at {few:,}",
        )
    ]


def a_billion(folder: Path, n_cells: int) -> list[Figure]:
    members = fixed_members(n_cells, CELLS_PER_MEMBER)
    before = resident_bytes()
    started = time.process_time()
    dataset = plan(folder / "billion", members)
    spent = time.process_time() - started
    held = resident_bytes() - before
    size = dataset.location.size(PLAN)
    return [
        figure(
            f"planning {n_cells / 1e6:,.0f}M cells",
            spent,
            "CPU-s",
            theirs=len(members),
            theirs_is=f"members of {CELLS_PER_MEMBER:,} cells",
        ),
        figure("memory of its driver", held / MIB, "MiB", theirs=size / MIB, theirs_is="MiB of plan"),
        figure(
            "a worker opens its plan",
            cpu_seconds(lambda: Dataset.open(dataset.location)),
            "CPU-s",
            theirs=size * 1000 / 2**30,
            theirs_is="GiB read by 1,000 workers together",
        ),
        figure("genes of each cell, held by its driver to plan a cache", n_cells * 4 / 2**30, "GiB"),
    ]


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    n_members, workers, n_ledger, few = (200, 20, 50, 100) if smoke else (10_240, 1_000, 2_000, 1_024)
    with tempfile.TemporaryDirectory(dir=in_memory(scratch), prefix="syncytium-control-") as name:
        folder = Path(name)
        return [
            *coordinated(folder, n_members, workers),
            *growth(folder, few, n_members, workers),
            *ledgers(folder, n_ledger),
            *planning(n_members),
            *a_billion(folder, CELLS_OF_THE_PLAN // (1000 if smoke else 1)),
        ]


if __name__ == "__main__":
    raise SystemExit(main("control_plane", ABOUT, measure))
