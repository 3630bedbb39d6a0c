"""Training tokens from a cache and from an encoder: the same stream wherever one starts, shared evenly."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.training.activation_sources import (
    WINDOW_STEPS,
    ActivationSource,
    CachedActivations,
    StreamedActivations,
)
from engine.training.chunks import ChunkEncoder, token_batch
from engine.training.recipe import Share
from storage.errors import InputError

CPU = torch.device("cpu")


def share(rank: int = 0, world: int = 1, accumulation: int = 1) -> Share:
    return Share(rank, world, batch=32, accumulation=accumulation, seed=5)


def micro_batches(source: ActivationSource, of: Share, start_step: int, count: int) -> list[torch.Tensor]:
    return [batch.x_BD for batch in islice(source.batches(start_step, of, CPU), count)]


def streamed(cells: str, encoder_directory: Path, tokens_per_cell: int | None = 8) -> StreamedActivations:
    return StreamedActivations.plan(
        cells, str(encoder_directory), "resid_post_0", tokens_per_cell=tokens_per_cell
    )


def test_workers_share_out_the_batches_of_one(cache: str) -> None:
    source = CachedActivations.plan(cache, None)
    assert (source.hook, source.width) == ("resid_post_0", 24)
    whole = torch.cat(micro_batches(source, share(), 3, 2))
    parts = [micro_batches(source, share(rank, 2, 2), 3, 4) for rank in range(2)]
    in_order = [parts[rank][number] for number in range(4) for rank in range(2)]
    assert torch.equal(torch.cat(in_order), whole)


@pytest.mark.parametrize("steps", [5, 2 * WINDOW_STEPS + 3])
def test_a_stream_goes_on_where_another_stopped(cells: str, encoder_directory: Path, steps: int) -> None:
    source = streamed(cells, encoder_directory)
    whole = micro_batches(source, share(0, 2, 2), 0, 2 * (steps + 2))
    rest = micro_batches(source, share(0, 2, 2), steps, 4)
    assert all(torch.equal(one, other) for one, other in zip(whole[2 * steps :], rest, strict=True))
    assert rest[0].shape == (8, 16)
    assert rest[0].dtype == torch.float32


def test_a_stream_holds_distinct_tokens_of_many_cells(cells: str, encoder_directory: Path) -> None:
    source = streamed(cells, encoder_directory)
    assert 4 < source.cell_tokens <= 8
    tokens = torch.cat(micro_batches(source, share(), 0, WINDOW_STEPS))
    distinct = len(np.unique(tokens.numpy().round(5), axis=0))
    assert distinct > 0.9 * len(tokens)  # the estimate of tokens per cell is close, so few are repeated


def test_a_batch_mixes_cells_of_the_whole_window(cells: str, encoder_directory: Path) -> None:
    """Every chunk of the window gives the first batches some of its tokens."""
    source = replace(streamed(cells, encoder_directory, 4), precision="bf16")
    batches = torch.cat(micro_batches(source, share(), 0, 4))
    chunks = source.chunks(seed=5)
    encoder = ChunkEncoder(chunks, "cpu")
    window = math.ceil(WINDOW_STEPS * 32 / int(chunks.size * source.cell_tokens))
    assert window > 2
    seen = {tuple(row) for row in batches.tolist()}
    for number in range(window):
        made = token_batch(chunks, encoder.make(number), "resid_post_0", CPU)
        assert seen & {tuple(row) for row in made.x_BD.tolist()}, number


def test_workers_stream_different_cells(cells: str, encoder_directory: Path) -> None:
    source = streamed(cells, encoder_directory)
    one, other = (micro_batches(source, share(rank, 2), 0, 1)[0] for rank in range(2))
    assert not torch.equal(one, other)


def test_a_few_cells_give_epoch_after_epoch(cells: str, encoder_directory: Path) -> None:
    """Twenty cells of eight tokens are five batches; the stream goes on with other tokens of theirs."""
    few = StreamedActivations.plan(
        cells, str(encoder_directory), "resid_post_0", tokens_per_cell=8, max_cells=20
    )
    tokens = torch.cat(micro_batches(few, share(), 0, 40))
    assert len(tokens) == 40 * 32
    assert len(np.unique(tokens.numpy().round(5), axis=0)) > 20 * 8


def test_streamed_tokens_can_be_trained_on(cells: str, encoder_directory: Path) -> None:
    x_BD = micro_batches(streamed(cells, encoder_directory, None), share(), 0, 1)[0]
    weight = torch.ones(16, requires_grad=True)
    (x_BD * weight).sum().backward()
    assert torch.allclose(weight.grad, x_BD.sum(0))


def test_what_does_not_fit_is_refused(cells: str, cache: str, encoder_directory: Path) -> None:
    with pytest.raises(InputError, match="resid_post_0"):
        CachedActivations.plan(cache, "resid_post_7")
    with pytest.raises(InputError, match="resid_post_1"):
        StreamedActivations.plan(cells, str(encoder_directory), "resid_post_7")
    with pytest.raises(InputError):
        CachedActivations.plan(cells, None)
