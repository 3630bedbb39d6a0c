"""Ray runs beside the ordinary: other ways to share the work, members that fail, members that kill."""

import os
import re
import signal
from dataclasses import dataclass

import pytest

from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.run import StreamFailed, encode, plan
from storage.locations import Location
from tests.streaming.in_process import encode_here, hashes

RECIPE = Recipe(512)
FAILED = r"member 000001 \(cells 65 to 128\) failed: ArithmeticError: this cell is poison"


@dataclass(frozen=True)
class PoisonProduct(ActivationProduct):
    """Fails, or kills its process, on the member that begins with a given cell."""

    poison: int = 0
    kills: bool = False

    def collect(self, encoder, tokens, member):
        if member.start == self.poison and self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if member.start == self.poison:
            raise ArithmeticError("this cell is poison")
        return super().collect(encoder, tokens, member)


def product(of=ActivationProduct, **more):
    return of(("final",), "bf16", 16, False, 0, {"model": "m"}, shard_tokens=1024, **more)


@pytest.fixture(scope="module")
def inputs(small_store, tahoe_model):
    return Inputs.open(str(small_store), str(tahoe_model), 200)


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("here") / "out"
    encode_here(inputs, product(), output, RECIPE)
    return hashes(output)


@pytest.mark.parametrize(
    "workers", [Workers(actors=2, fused=True), Workers(actors=1, fused=False)], ids=["fused", "streamed"]
)
def test_who_does_the_work_changes_no_byte(workers, inputs, expected, tmp_path, ray_cluster):
    told = []
    encoding = encode(
        inputs,
        product(),
        Location.of(tmp_path / "out"),
        recipe=RECIPE,
        workers=workers,
        report=lambda *line: told.append(line),
    )
    assert hashes(tmp_path / "out") == expected
    assert told[0] == (0, 200, "cells", "")
    assert told[-1][:3] == (200, 200, "cells")
    assert re.fullmatch(r"[\d,]+ tokens/s, \d+\.\d% of token slots used, encoders busy \d+%", told[-1][3])
    assert encoding.spent.cells == 200
    assert 200 < encoding.spent.tokens <= encoding.spent.slots
    assert 0 < encoding.spent.busy_seconds < encoding.spent.encoder_seconds
    assert 0 < encoding.busy_share < 1


def test_members_on_which_a_dead_job_holds_a_lease_are_done_after_all(
    inputs, expected, tmp_path, ray_cluster
):
    location = Location.of(tmp_path / "out")
    dataset = plan(inputs, product(), RECIPE, location)
    assert dataset.claim(dataset.members[1].key, "a job that is no more", 3600)
    encoding = encode(inputs, product(), location, recipe=RECIPE, workers=Workers(actors=1))
    assert hashes(tmp_path / "out") == expected
    assert encoding.spent.cells == 200


def test_a_member_that_fails_ends_the_job_and_is_named(inputs, tmp_path, ray_cluster):
    poisoned = product(PoisonProduct, poison=65)
    with pytest.raises(StreamFailed, match=FAILED):
        encode(inputs, poisoned, Location.of(tmp_path / "out"), recipe=RECIPE, workers=Workers(actors=1))
    assert not list((tmp_path / "out" / "_log").glob("snapshot-*"))


@pytest.mark.slow
def test_a_member_that_kills_its_process_ends_the_job_and_is_named(inputs, tmp_path, ray_cluster):
    poisoned = product(PoisonProduct, poison=65, kills=True)
    with pytest.raises(StreamFailed, match=r"member 000001 \(cells 65 to 128\) begun [2-9] times"):
        encode(inputs, poisoned, Location.of(tmp_path / "out"), recipe=RECIPE, workers=Workers(actors=1))
