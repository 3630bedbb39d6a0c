"""One pool of encoder actors for all training workers: Ray Data's streaming split, nothing written to disk.

    numbers of chunks -> encoder actors -> split: worker r of W gets chunks r, r + W, r + 2W, ...

A row is a chunk and so is a block. Ray Data keeps the order and gives each block to the worker that has had
the fewest rows, which is round robin; every chunk carries its number and workers check it. So what a worker
gets depends neither on the number of actors nor on who was faster. When the workers do not keep up, the
limit on the object store stops the actors: memory stays flat however long the run.
"""

import math
import uuid
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, DataIterator
from ray.util.annotations import RayDeprecationWarning

from engine.streaming.inputs import ModelFacts
from engine.streaming.pipeline import BY_MEMBER, RETRIES, TASK_OPTIONS, quiet_context
from engine.streaming.source import arrays_of, member_of, one_row
from engine.streaming.tokenising import tokens_of, tokens_row
from engine.training.chunks import CellChunks, ChunkEncoder, ChunkReader, TokenRows
from engine.training.recipe import Share
from engine.training.room import Room
from engine.training.sharding import agree

# One execution of the pipeline. Ray Data keeps an object for every input, so an endless run is cut into legs,
# long enough (130,000 cells) that starting the next one's encoders costs little.
LEG_CHUNKS = 2048
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
        # Before the first matrix product, or torch keeps the pool it has made.
        torch.set_num_threads(ACTOR_THREADS)
        self.encoder = ChunkEncoder(chunks, device)

    def __call__(self, row: pa.Table) -> Iterator[pa.Table]:
        """`row`: a chunk, with its tokens where others have read them."""
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
                reader = ChunkReader.open(self.chunks, ModelFacts.read(self.chunks.model).tokeniser)
                rows = rows.map_batches(partial(_tokenised, reader), **BY_MEMBER, **TASK_OPTIONS)
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


def _tokenised(reader: ChunkReader, row: pa.Table) -> pa.Table:
    chunk = member_of(row)
    return tokens_row(chunk, reader.tokens(chunk))


class PooledChunks:
    """This worker's chunks out of the pool that all workers share."""

    def __init__(
        self, chunks: CellChunks, share: Share, room: Room, first: int, device: torch.device
    ) -> None:
        """`first`: chunk of the whole stream at which the first worker begins. Collective."""
        self.chunks, self.share, self.first = chunks, share, first
        name = f"syncytium-feed-{uuid.uuid4().hex}"
        self.feed: Any = None
        if share.rank == 0:
            feed = ray.remote(num_cpus=0)(Feed)
            self.feed = feed.options(name=name).remote(chunks, room, share.world, first, LEG_CHUNKS)
        name = agree(name, device, share.group)
        if share.rank > 0:
            # Held by its name only: the feed ends when the first worker lets go of it.
            self.feed = ray.get_actor(name)

    def close(self) -> None:
        """Ends the pool, on the first worker; when no worker needs it any more."""
        if self.share.rank == 0:
            ray.kill(self.feed)

    def __iter__(self) -> Iterator[TokenRows]:
        """Without end. Raises what made a chunk impossible to encode."""
        expected = self.first + self.share.rank
        for leg in count():
            split = ray.get(self.feed.split.remote(leg, self.share.rank))
            for row in split.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                if member_of(row) != self.chunks.chunk(expected):
                    raise RuntimeError(f"expected chunk {expected} of cells, got {member_of(row).key}")
                # A view of the object store, which the block leaves when the view is let go of.
                rows_NR: TokenRows = arrays_of(row)["rows"].reshape(-1, self.chunks.row_width)
                yield rows_NR
                expected += self.share.world
