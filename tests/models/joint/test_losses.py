"""Contrastive losses, by hand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.joint.losses import contrastive_loss, info_nce, same_caption, sigmoid_loss


def pairs(n: int = 6, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    texts, cells = torch.randn(2, n, width, generator=generator)
    return F.normalize(texts, dim=1), F.normalize(cells, dim=1)


def test_one_positive_each_is_cross_entropy() -> None:
    texts, cells = pairs()
    logits, target = 14.3 * texts @ cells.T, torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(info_nce(texts, cells, 14.3, torch.eye(6, dtype=torch.bool)), expected)


def test_a_caption_given_twice_counts_as_positive_for_both_of_its_cells() -> None:
    texts, cells = pairs(3)
    texts[1] = texts[0]
    positive = same_caption(torch.tensor([7, 7, 2]))
    assert positive.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    p_of_texts = (5.0 * texts @ cells.T).log_softmax(1)
    p_of_cells = (5.0 * cells @ texts.T).log_softmax(1)
    by_hand = 0.0
    for p in (p_of_texts, p_of_cells):
        rows = [(p[0, 0] + p[0, 1]) / 2, (p[1, 0] + p[1, 1]) / 2, p[2, 2]]
        by_hand -= sum(float(row) for row in rows) / 3 / 2
    assert float(info_nce(texts, cells, 5.0, positive)) == pytest.approx(by_hand, abs=1e-6)


def test_several_positives_do_not_push_equals_apart() -> None:
    """Two cells of one caption that lie together: only with one positive each are they moved."""
    texts = F.normalize(torch.tensor([[1.0, 0, 0], [1, 0, 0.1], [0, 1, 0], [0, 0.1, 1]]), dim=1)
    largest = {}
    for name, positive in {
        "several": same_caption(torch.tensor([0, 0, 1, 2])),
        "one": torch.eye(4) > 0,
    }.items():
        cells = texts.clone().requires_grad_()
        info_nce(texts, cells, 50.0, positive).backward()
        assert cells.grad is not None
        largest[name] = float(cells.grad[:2].abs().max())
    assert largest["several"] < 0.3 * largest["one"]


def test_siglip_judges_each_pair() -> None:
    texts, cells = pairs(3)
    positive = same_caption(torch.tensor([1, 1, 0]))
    by_hand = 0.0
    for i in range(3):
        for j in range(3):
            logit = 10 * float(texts[i] @ cells[j]) - 10
            by_hand += float(F.softplus(torch.tensor(-logit if positive[i, j] else logit))) / 3
    assert float(sigmoid_loss(texts, cells, 10.0, -10.0, positive)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("kind", ["infonce", "siglip"])
def test_a_weight_of_two_is_the_row_twice_as_heavy_and_equal_weights_change_nothing(kind: str) -> None:
    texts, cells = pairs()
    positive = torch.eye(6, dtype=torch.bool)
    options = {"kind": kind, "scale": 10.0, "bias": -10.0}
    plain = contrastive_loss(texts, cells, positive, **options)  # type: ignore[arg-type]
    same = torch.full((6,), 3.0)
    equal = contrastive_loss(texts, cells, positive, **options, text_weights_T=same, cell_weights_C=same)  # type: ignore[arg-type]
    torch.testing.assert_close(equal, plain)
    only = torch.tensor([1.0, 0, 0, 0, 0, 0])
    moved = texts.clone()
    moved[1:] = pairs(5, 8)[0]
    one = contrastive_loss(texts, cells, positive, **options, text_weights_T=only, cell_weights_C=None)  # type: ignore[arg-type]
    other = contrastive_loss(moved, cells, positive, **options, text_weights_T=only, cell_weights_C=None)  # type: ignore[arg-type]
    if kind == "siglip":
        torch.testing.assert_close(one, other)  # texts without weight do not count at all
    assert not torch.allclose(one, plain)


def test_matryoshka_is_the_mean_over_widths_of_cut_embeddings() -> None:
    texts, cells = pairs()
    positive = torch.eye(6, dtype=torch.bool)
    found = contrastive_loss(texts, cells, positive, kind="infonce", scale=10.0, dims=(2, 8))
    narrow = info_nce(F.normalize(texts[:, :2], dim=1), F.normalize(cells[:, :2], dim=1), 10.0, positive)
    torch.testing.assert_close(found, (narrow + info_nce(texts, cells, 10.0, positive)) / 2)


def test_siglip_needs_a_bias() -> None:
    texts, cells = pairs()
    with pytest.raises(ModelError, match="bias"):
        contrastive_loss(texts, cells, torch.eye(6) > 0, kind="siglip", scale=10.0)
