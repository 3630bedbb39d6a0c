"""Encoders that several processes share: equal results, and a lost process costs time only."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest
import ray

from engine.streaming.inputs import Inputs
from engine.streaming.products.embeddings import EmbeddingProduct
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.run import encode
from storage.locations import Location
from tests.streaming.in_process import encode_here, hashes

ALONE, SHARED = Recipe(512), Recipe(512, tensor_parallel=2)


@dataclass(frozen=True)
class KillingProduct(EmbeddingProduct):
    """Kills the follower of its replica before the first member is encoded, and the leader before the second;
    each of them once.
    """

    killed: str = ""

    def collect(self, encoder, tokens, member):
        trace = Path(self.killed, member.key)
        if int(member.key) < 2 and not trace.exists():
            (follower,) = processes_beside_us("ray::Follower.follow")
            trace.touch()
            os.kill(os.getpid() if int(member.key) else follower, signal.SIGKILL)
        return super().collect(encoder, tokens, member)


def processes_beside_us(title: str) -> list[int]:
    """Processes of that title with the same parent, which is the node's Ray."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getppid() and (folder / "cmdline").read_text().startswith(title):
                found.append(int(folder.name))
        except OSError:  # ended meanwhile
            continue
    return found


@pytest.fixture(scope="module")
def inputs(small_store, tahoe_model):
    return Inputs.open(str(small_store), str(tahoe_model))


@pytest.fixture(scope="module")
def of_two(inputs, tmp_path_factory, ray_cluster):
    """What one encoder of two processes makes."""
    output = tmp_path_factory.mktemp("shared") / "out"
    encode(inputs, EmbeddingProduct(1, "cls"), Location.of(output), recipe=SHARED, workers=Workers(actors=1))
    return output


def test_two_processes_make_what_one_makes(inputs, of_two, tmp_path):
    encode_here(inputs, EmbeddingProduct(1, "cls"), tmp_path / "alone", ALONE)
    found, expected = (np.asarray(anndata.read_zarr(path).X) for path in (of_two, tmp_path / "alone"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


def test_their_room_is_given_back(of_two):
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}
    patience = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 4 and time.monotonic() < patience:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 4


def test_a_killed_follower_or_leader_costs_time_only(inputs, of_two, tmp_path):
    (tmp_path / "killed").mkdir()
    product = KillingProduct(1, "cls", killed=str(tmp_path / "killed"))
    encoding = encode(
        inputs, product, Location.of(tmp_path / "out"), recipe=SHARED, workers=Workers(actors=1)
    )
    assert len(list((tmp_path / "killed").iterdir())) == 2
    assert encoding.spent.cells == 300
    assert hashes(tmp_path / "out") == hashes(of_two)
