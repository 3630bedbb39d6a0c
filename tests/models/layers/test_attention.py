"""Packed attention against plain softmax attention of each cell by itself."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.models.layers.attention import attend
from engine.models.layout import CellLayout, KeptRows

LENGTHS = [5, 1, 0, 9, 5, 9, 2]


def layout(lengths: list[int], device: str = "cpu") -> CellLayout:
    return CellLayout(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), torch.device(device))


def heads(n_tokens: int, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q_TNH, k_TNH, v_TNH = torch.randn(3, n_tokens, 2, width, generator=generator, dtype=torch.float64).unbind(
        0
    )
    return q_TNH, k_TNH, v_TNH


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], isolated_T: Tensor | None = None) -> Tensor:
    out, start = torch.zeros_like(q), 0
    for length in lengths:
        rows = slice(start, start + length)
        scores = torch.einsum("inh,jnh->nij", q[rows], k[rows]) / math.sqrt(q.shape[-1])
        if isolated_T is not None:
            allowed = ~isolated_T[rows][None, :] | torch.eye(length, dtype=torch.bool)
            scores = scores.masked_fill(~allowed, float("-inf"))
        out[rows] = torch.einsum("nij,jnh->inh", scores.softmax(-1), v[rows])
        start += length
    return out


@pytest.mark.parametrize("lengths", [LENGTHS, [4], [3, 3, 3], [0, 0, 2]])
def test_equals_plain_attention(lengths: list[int]) -> None:
    q, k, v = heads(sum(lengths))
    torch.testing.assert_close(attend(q, k, v, layout(lengths)), plain(q, k, v, lengths))


def test_isolated_tokens_are_seen_by_themselves_alone() -> None:
    q, k, v = heads(sum(LENGTHS))
    isolated_T = torch.arange(sum(LENGTHS)) % 3 == 0
    found = attend(q, k, v, layout(LENGTHS), isolated_T=isolated_T)
    torch.testing.assert_close(found, plain(q, k, v, LENGTHS, isolated_T))


@pytest.mark.parametrize("rows", [[0], [0, 5, 6, 15, 20, 30], list(range(0, 31, 2)), []])
@pytest.mark.parametrize("isolated", [False, True])
def test_kept_rows_alone_ask(rows: list[int], isolated: bool) -> None:
    q, k, v = heads(sum(LENGTHS))
    isolated_T = torch.arange(sum(LENGTHS)) % 3 == 0 if isolated else None
    kept = KeptRows(torch.tensor(rows, dtype=torch.int64), layout(LENGTHS))
    found = attend(q[rows], k, v, layout(LENGTHS), kept=kept, isolated_T=isolated_T)
    torch.testing.assert_close(found, plain(q, k, v, LENGTHS, isolated_T)[rows])


def test_a_cell_depends_on_its_own_tokens_alone() -> None:
    q, k, v = heads(sum(LENGTHS))
    expected = attend(q, k, v, layout(LENGTHS))
    for x in (q, k, v):
        x[6:15] += 100  # the only cell of rows 6 to 14
    found = attend(q, k, v, layout(LENGTHS))
    assert torch.equal(found[:6], expected[:6])
    assert torch.equal(found[15:], expected[15:])
    assert not torch.equal(found[6:15], expected[6:15])


def test_no_tokens() -> None:
    q, k, v = heads(0)
    assert attend(q, k, v, layout([0, 0])).shape == (0, 2, 8)


def test_gradients_reach_every_token() -> None:
    q, k, v = (x.requires_grad_() for x in heads(sum(LENGTHS)))
    attend(q, k, v, layout(LENGTHS)).pow(2).sum().backward()
    expected = [x.clone() for x in torch.autograd.grad(plain(q, k, v, LENGTHS).pow(2).sum(), (q, k, v))]
    for x, gradient in zip((q, k, v), expected, strict=True):
        torch.testing.assert_close(x.grad, gradient)


def test_dropout_drops() -> None:
    q, k, v = heads(sum(LENGTHS))
    assert not torch.equal(attend(q, k, v, layout(LENGTHS), dropout=0.5), attend(q, k, v, layout(LENGTHS)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("width", [32, 64, 128])
def test_the_cuda_kernel_equals_plain_attention(width: int) -> None:
    lengths = [300, 1, 0, 77, 300]
    q, k, v = heads(sum(lengths), width)
    expected = plain(q, k, v, lengths)
    on_gpu = [x.to("cuda", torch.bfloat16) for x in (q, k, v)]
    found = attend(*on_gpu, layout(lengths, "cuda"))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0.02, atol=0.02)
    rows_T = torch.tensor([0, 299, 301, 678])
    kept = KeptRows(rows_T, layout(lengths, "cuda"))
    found = attend(on_gpu[0][rows_T.cuda()], *on_gpu[1:], layout(lengths, "cuda"), kept=kept)
    torch.testing.assert_close(found.cpu().double(), expected[rows_T], rtol=0.02, atol=0.02)
