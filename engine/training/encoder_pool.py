"""One pool of encoder actors for all training workers: Ray Data's streaming split, nothing written to disk.

    numbers of chunks -> encoder actors -> split: worker r of W gets chunks r, r + W, r + 2W, ...

A row is a chunk and so is a block. Ray Data keeps the order and gives each block to the worker that has had
the fewest rows, which is round robin; every chunk carries its number and workers check it. So what a worker
gets depends neither on the number of actors nor on who was faster. When the workers do not keep up, the
limit on the object store stops the actors: memory stays flat however long the run.
"""

import uuid
from collections.abc import Iterator
from itertools import count
from typing import Any

import ray
import torch

from engine.streaming.source import arrays_of, member_of
from engine.training.cell_chunks import CellChunks, TokenRows
from engine.training.chunk_feed import Feed
from engine.training.recipe import Share
from engine.training.room import Room
from engine.training.sharding import agree

# One execution of the pipeline. Ray Data keeps an object for every input, so an endless run is cut into legs,
# long enough (130,000 cells) that starting the next one's encoders costs little.
LEG_CHUNKS = 2048


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
