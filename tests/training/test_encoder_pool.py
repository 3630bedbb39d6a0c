"""The pool of encoders on Ray: the same stream as in one process, whoever is killed."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from engine.training.activation_sources import StreamedActivations
from engine.training.recipe import Share
from engine.training.room import Room

CPU = torch.device("cpu")


def streamed(cells: str, encoder_directory: Path, actors: int | None = None) -> StreamedActivations:
    return StreamedActivations.plan(
        cells, str(encoder_directory), "resid_post_0", tokens_per_cell=16, actors=actors
    )


def first_batches(source: StreamedActivations, n_batches: int, actors: int = 0) -> list[torch.Tensor]:
    """Of one worker, by a pool of so many actors; 0: by this process."""
    room = Room(1, 0, actors, actor_cpus=0.5) if actors else None
    stream = source.batches(3, Share(0, 1, batch=256, accumulation=1, seed=2, room=room), CPU)
    batches = list(islice(stream, n_batches))
    stream.close()
    return batches


@pytest.mark.parametrize("actors", [1, 3])
def test_a_pool_of_any_size_makes_what_one_process_makes(
    ray_cluster: None, cells: str, encoder_directory: Path, actors: int
) -> None:
    source = streamed(cells, encoder_directory)
    alone, pooled = (first_batches(source, 40, n_actors) for n_actors in (0, actors))
    assert all(torch.equal(one, other) for one, other in zip(alone, pooled, strict=True))
