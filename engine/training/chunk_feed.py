"""What makes the chunks of a pool of encoders and deals them out: a Ray Data pipeline and who starts it.

Imports no PyTorch: the feed and Ray Data's coordinator only hand chunks on. Workers wait for one after the
other to start, and importing it takes each of them seconds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, DataIterator
from ray.util.annotations import RayDeprecationWarning

from engine.streaming.capacity import RETRIES
from engine.streaming.ray_data import BY_MEMBER, TASK_OPTIONS, quiet_context
from engine.streaming.source import member_of, one_row
from engine.training.cell_chunks import CellChunks
from engine.training.room import Room

if TYPE_CHECKING:
    from engine.training.chunks import ChunkReader

# Chunks that may lie in the object store for each actor and for each worker: one in the making or in use,
# one ready.
CHUNKS_IN_FLIGHT = 2
# Of the object store, so that a stream leaves room for others.
STORE_SHARE = 0.4
# Fixed, since a sum's last bits may depend on it; more cores carry more actors.
ACTOR_THREADS = 1


class EncodeChunks:
    """Actor of the pool. Weights come from the node's own disk; only paths and numbers travel."""

    def __init__(self, chunks: CellChunks, device: str) -> None:
        # Not above: Ray Data's own actors import this module too, to know the class.
        import torch

        from engine.training.chunks import ChunkEncoder

        # Before the first matrix product, or torch keeps the pool it has made.
        torch.set_num_threads(ACTOR_THREADS)
        self.encoder = ChunkEncoder(chunks, device)

    def __call__(self, row: pa.Table) -> Iterator[pa.Table]:
        """`row`: a chunk, with its tokens where others have read them."""
        from engine.streaming.tokenising import tokens_of

        chunk = member_of(row)
        tokens = tokens_of(row) if "ids" in row.column_names else self.encoder.reader.tokens(chunk)
        yield one_row(chunk, {"rows": self.encoder.rows(chunk, tokens).reshape(-1)})


class Feed:
    """Actor that starts the pipeline and hands every worker its split of it, leg after leg.

    Made by the first worker and lost with it, and everything that it has started is lost with the feed: a
    group of workers that is started anew begins with a new one.
    """

    def __init__(self, chunks: CellChunks, room: Room, world: int, first: int, leg_chunks: int) -> None:
        self.chunks, self.room, self.world, self.first = chunks, room, world, first
        # A multiple of the number of workers, so that a leg begins with the first one's turn.
        self.leg_chunks = math.ceil(leg_chunks / world) * world
        self.leg, self.splits = -1, list[DataIterator]()

    def split(self, leg: int, rank: int) -> DataIterator:
        if leg != self.leg:
            start = self.first + leg * self.leg_chunks
            self.leg, self.splits = leg, self._stream(range(start, start + self.leg_chunks))
        return self.splits[rank]

    def _stream(self, numbers: range) -> list[DataIterator]:
        with DataContext.current(self._context()), warnings.catch_warnings():
            # The parameters that replace ray_remote_args from Ray 2.64 on have no bound on retries in 2.60.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            # Not from_arrow, which runs a task for each table to learn how many rows it has.
            rows = ray.data.from_blocks([one_row(self.chunks.chunk(number)) for number in numbers])
            on_gpu = self.room.actor_gpus > 0
            if on_gpu:
                # A GPU does not wait for the store: tasks beside it read and tokenise.
                rows = rows.map_batches(_tokenising(self.chunks), **BY_MEMBER, **TASK_OPTIONS)
            encoded = rows.map_batches(
                EncodeChunks,
                fn_constructor_args=(self.chunks, "cuda" if on_gpu else "cpu"),
                compute=ActorPoolStrategy(size=self.room.actors, max_tasks_in_flight_per_actor=2),
                num_cpus=self.room.actor_cpus,
                num_gpus=self.room.actor_gpus or None,
                max_restarts=RETRIES,
                max_task_retries=RETRIES,
                **BY_MEMBER,
            )
            # Not `equal`: it would hold blocks back until it knows that the last of them can be dealt out.
            splits: list[DataIterator] = encoded.streaming_split(self.world)
            return splits

    def _context(self) -> DataContext:
        context = quiet_context()
        options = context.execution_options
        options.preserve_order = True
        have = ray.cluster_resources().get("object_store_memory", 0)
        wanted = CHUNKS_IN_FLIGHT * (self.room.actors + self.world) * self.chunks.most_bytes
        options.resource_limits = options.resource_limits.copy(
            object_store_memory=min(wanted, STORE_SHARE * have)
        )
        return context


def _tokenising(chunks: CellChunks) -> Callable[[pa.Table], pa.Table]:
    from engine.streaming.inputs import ModelFacts
    from engine.training.chunks import ChunkReader

    return partial(_tokenised, ChunkReader.open(chunks, ModelFacts.read(chunks.model).tokeniser))


def _tokenised(reader: ChunkReader, row: pa.Table) -> pa.Table:
    from engine.streaming.tokenising import tokens_row

    chunk = member_of(row)
    return tokens_row(chunk, reader.tokens(chunk))
