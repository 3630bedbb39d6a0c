"""What a stream knows before it starts: the model without its weights."""

import pytest

from engine.models import weights
from engine.streaming.inputs import ModelFacts
from storage.errors import InputError


@pytest.fixture(params=["tahoe_model", "geneformer_model"])
def facts(request, monkeypatch):
    def refuse(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(weights, "_read_slices", refuse)
    return ModelFacts.read(str(request.getfixturevalue(request.param)))


def test_facts_of_a_model_need_none_of_its_weights(facts):
    assert facts.d_model == 32
    assert facts.hook_names[-1] == "final"
    assert len(facts.fingerprint) == 32


def test_an_encoder_is_shared_by_numbers_that_divide_its_heads(facts):
    assert facts.tensor_parallel == (1, 2)
    facts.require_tensor_parallel(2)
    with pytest.raises(InputError, match=r"--tensor-parallel 4: .* shared by 1, 2 devices"):
        facts.require_tensor_parallel(4)
