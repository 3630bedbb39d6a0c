"""A thousand workers that encode nothing: two jobs on one dataset, as `engine.streaming` runs them.

Time is simulated (how long a member takes, who dies when); every call to the commit protocol is real. Each
job hands its members out in plan order, first to those nobody else works on, then, whatever leases say, what
is still missing: `engine.streaming.run._stream_all`, without Ray between.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from engine.streaming.encoders import LEASE_SECONDS
from storage.commits import Dataset, MemberPlan
from storage.protocol.snapshots import record_name

# Beside two objects of a member, which cost disk and no coordination.
CONTENT = b"\0" * 64
OBJECTS = ("final", "resid_post_6")
# Simulated seconds: of a member, log-normal about the first; until Ray begins again what a dead worker had.
MEMBER_SECONDS, SPREAD, NOTICE_SECONDS = 60.0, 0.5, 20.0


@dataclass
class Job:
    """One driver: what it has yet to hand out, and whether it still leaves to others what they work on."""

    owner: str
    waiting: deque[MemberPlan]
    courteous: bool = True


@dataclass
class Simulation:
    """dataset: planned. workers: of both jobs together. deaths: share of the attempts that end before their
    commit. After `run`, what happened.
    """

    dataset: Dataset
    workers: int
    deaths: float
    seed: int = 0
    began: int = 0
    died: int = 0
    left_to_others: int = 0
    seconds: float = 0.0
    committed_at: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Until every member is committed."""
        rng = np.random.default_rng(self.seed)
        jobs = [Job(f"driver{number}", deque(self.dataset.members)) for number in range(2)]
        # (when, who, what it then commits); all begin within a minute.
        events: list[tuple[float, int, MemberPlan | None]] = [
            (float(when), worker, None) for worker, when in enumerate(rng.uniform(0, 60, self.workers))
        ]
        heapq.heapify(events)
        while events:
            now, worker, encoded = heapq.heappop(events)
            job = jobs[worker % len(jobs)]
            if encoded is not None:
                if rng.random() < self.deaths:
                    self.died += 1
                    job.waiting.appendleft(encoded)
                    heapq.heappush(events, (now + NOTICE_SECONDS, worker, None))
                    continue
                self._commit(encoded, now)
            member = self._next_member(job)
            if member is not None:
                took = MEMBER_SECONDS * float(rng.lognormal(0.0, SPREAD))
                heapq.heappush(events, (now + took, worker, member))

    def _next_member(self, job: Job) -> MemberPlan | None:
        """What a free worker of the job begins with; None when the job has nothing more."""
        while True:
            while job.waiting:
                member = job.waiting.popleft()
                if self._is_ours(job, member):
                    self.began += 1
                    return member
                self.left_to_others += 1
            if not job.courteous:
                return None
            job.courteous = False
            job.waiting.extend(self.dataset.pending())

    def _is_ours(self, job: Job, member: MemberPlan) -> bool:
        """As `EncodeMembers` decides it."""
        if self.dataset.claim(member.key, job.owner, LEASE_SECONDS):
            return True
        return not job.courteous and not self.dataset.location.exists(record_name(member.key))

    def _commit(self, member: MemberPlan, now: float) -> None:
        writer = self.dataset.member(member.key)
        for name in OBJECTS:
            writer.put(f"{name}/{member.key}.safetensors", CONTENT)
        writer.commit({**member.facts, "n_tokens": 262_144})
        self.committed_at.append(now)
        self.seconds = now
