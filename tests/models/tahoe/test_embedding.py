"""Value embeddings from the table: those of the formula, and never those of weights that have changed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.models.tahoe.embedding import ValueEmbedding
from tests.models.small_models import small_tahoe

WHOLE = torch.tensor([-2.0, -1.0, 0.0, 1.0, 50.0, 511.0, 512.0, 513.0, 4000.0])


@pytest.fixture
def values() -> ValueEmbedding:
    return small_tahoe().values


def exact(values: ValueEmbedding, values_T: Tensor) -> Tensor:
    with torch.no_grad():
        return values(values_T)


def tabled(values: ValueEmbedding, values_T: Tensor) -> Tensor:
    with torch.inference_mode():
        return values(values_T, whole=True).clone()


def test_the_table_holds_what_the_formula_gives(values: ValueEmbedding) -> None:
    every = torch.arange(-2.0, 514.0)
    torch.testing.assert_close(tabled(values, every), exact(values, every), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tabled(values, WHOLE), exact(values, WHOLE), rtol=1e-6, atol=1e-6)


def test_the_table_is_made_once(values: ValueEmbedding) -> None:
    made = []
    values.linear2.register_forward_hook(lambda module, inputs, output: made.append(len(output)))
    tabled(values, WHOLE)
    tabled(values, WHOLE)
    assert made == [515]


def test_values_that_may_not_be_whole_take_the_formula(values: ValueEmbedding) -> None:
    fractions = torch.tensor([-1.5, 0.25, 3.7])
    found = exact(values, fractions)
    assert not torch.allclose(found, tabled(values, fractions.round()), atol=1e-3)
    values.maximum = 10.5
    torch.testing.assert_close(tabled(values, WHOLE), exact(values, WHOLE), rtol=1e-6, atol=1e-6)


def test_gradients_and_dropout_take_the_formula(values: ValueEmbedding) -> None:
    tabled(values, WHOLE)
    values(WHOLE, whole=True).sum().backward()
    assert values.linear1.weight.grad is not None
    values.train()
    with torch.no_grad():
        assert not torch.equal(values(WHOLE, whole=True), values(WHOLE, whole=True))  # dropout


def one_step(values: ValueEmbedding) -> None:
    optimiser = torch.optim.AdamW(values.parameters(), lr=0.1)
    values(WHOLE).pow(2).sum().backward()
    optimiser.step()


def other_weights(values: ValueEmbedding, *, assign: bool) -> None:
    values.load_state_dict({name: x + 0.5 for name, x in values.state_dict().items()}, assign=assign)


@torch.no_grad()
def written_over(values: ValueEmbedding) -> None:
    values.norm.bias.add_(1)


def uncounted_training(values: ValueEmbedding) -> None:
    values.train()
    values.linear2.weight.data.mul_(2)
    values.eval()


@pytest.mark.parametrize(
    "change",
    [
        one_step,
        written_over,
        uncounted_training,
        lambda values: other_weights(values, assign=False),
        lambda values: other_weights(values, assign=True),
        lambda values: values.linear2.to(torch.bfloat16),
        lambda values: values.to(torch.bfloat16).to(torch.float32),
    ],
)
def test_the_table_follows_the_weights(
    values: ValueEmbedding, change: Callable[[ValueEmbedding], None]
) -> None:
    before = tabled(values, WHOLE)
    change(values)
    found = tabled(values, WHOLE)
    torch.testing.assert_close(found, exact(values, WHOLE), rtol=1e-6, atol=1e-6)
    assert not torch.equal(found, before)
