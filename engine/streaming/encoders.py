"""The encoder actor: tokens of a member in, durable objects of that member out.

Activations of a member are hundreds of megabytes. The actor that made them writes them; only the list of
what was written travels on, so the object store carries counts and tokens and nothing else.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from engine.models import Tokens
from engine.streaming.forward import encode_cells
from engine.streaming.members import Member
from engine.streaming.metrics import EncoderMetrics, Spent
from engine.streaming.products.product import Product
from engine.streaming.replicas import EncoderSpec, lead, load_encoder
from engine.streaming.sink import Encoded
from engine.streaming.source import member_of
from engine.streaming.tokenising import TokeniseMembers, tokens_of
from storage.cells import CellStore
from storage.commits import Dataset
from storage.protocol.snapshots import record_name

# Leases only order work between jobs that race, so a guess is enough: longer than most members take.
LEASE_SECONDS = 900.0


class MemberFailed(RuntimeError):
    """One member cannot be encoded; the message names it and its cells."""


@dataclass(frozen=True)
class Assignment:
    """Where results go and on whose behalf. `courteous` leaves members on which another job holds a lease."""

    dataset: Dataset
    product: Product
    owner: str
    courteous: bool


@dataclass(frozen=True)
class OwnReading:
    """For an actor that reads and tokenises its members itself. Small enough to travel with a restart."""

    store: CellStore
    max_tokens: int | None
    seed: int


class EncodeMembers:
    """Actor of the encoding stage. Weights come from the node's own disk; only paths and options travel."""

    def __init__(
        self,
        spec: EncoderSpec,
        assignment: Assignment,
        reading: OwnReading | None = None,
        board: Any | None = None,
    ) -> None:
        """`reading`: None where rows arrive with their tokens. `board`: handle of the `ActivityBoard`."""
        # Before the first matrix product, or torch keeps the pool it has made.
        torch.set_num_threads(spec.threads)
        self.spec, self.work, self.reading = spec, assignment, reading
        self.followers = None
        if spec.tensor_parallel == 1:
            self.encoder = load_encoder(spec)
        else:
            self.encoder, self.followers = lead(spec)
        self.metrics = EncoderMetrics(board, assignment.product.kind, spec.model) if board else None
        if reading:
            tokeniser = self.encoder.tokeniser
            match = tokeniser.match(list(reading.store.genes.index))
            self.tokenise = TokeniseMembers(tokeniser, match, reading.max_tokens, reading.seed)

    def __call__(self, row: pa.Table) -> Iterator[dict[str, Any]]:
        started = time.monotonic()
        member = member_of(row)
        if not self._is_ours(member):
            return
        encoded = np.empty(1, dtype=object)
        encoded[0] = self._encode(member, row, started)
        if self.metrics:
            self.metrics.add(encoded[0].spent)
        yield {"encoded": encoded}

    def _is_ours(self, member: Member) -> bool:
        dataset = self.work.dataset
        if dataset.claim(member.key, self.work.owner, LEASE_SECONDS):
            return True
        return not self.work.courteous and not dataset.location.exists(record_name(member.key))

    def _tokens(self, member: Member, row: pa.Table) -> Tokens:
        if self.reading is None:
            return tokens_of(row)
        return self.tokenise.tokens(self.reading.store.read(member.start, member.stop))

    def _encode(self, member: Member, row: pa.Table, started: float) -> Encoded:
        writer = self.work.dataset.member(member.key)
        try:
            tokens = self._tokens(member, row)
            collector = self.work.product.collect(self.encoder, tokens, member)
            began = time.monotonic()
            slots = encode_cells(self.encoder, tokens, collector, self.spec.batch_tokens)
            busy_seconds = time.monotonic() - began
            for name, content in collector.objects():
                writer.put(name, content)
                del content  # or it would lie beside the next object while that is made
        except Exception as error:
            if self.followers:
                self.followers.end_if_one_is_lost(error)
            raise MemberFailed(f"{member} failed: {type(error).__name__}: {error}") from error
        spent = Spent(
            cells=member.stop - member.start,
            tokens=tokens.n_tokens,
            slots=slots,
            encoder_seconds=time.monotonic() - started,
            busy_seconds=busy_seconds,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        return Encoded(member, writer, dict(collector.facts()), spent)
