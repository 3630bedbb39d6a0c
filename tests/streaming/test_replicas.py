"""Encoders that several processes share: equal results, and a lost process costs time only."""

import os
import signal
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
    """Kills the follower of its replica when the first member is about to be encoded, once."""

    killed: str = ""

    def collect(self, encoder, tokens, member):
        if not os.path.exists(self.killed):
            (follower,) = processes_beside_us("ray::Follower.follow")
            Path(self.killed).write_text(str(follower))
            os.kill(follower, signal.SIGKILL)
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
    return Inputs.open(str(small_store), str(tahoe_model), 200)


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
    states = {group["state"] for group in ray.util.placement_group_table().values()}
    assert states == {"REMOVED"}


def test_a_killed_follower_costs_time_only(inputs, of_two, tmp_path):
    product = KillingProduct(1, "cls", killed=str(tmp_path / "killed"))
    encoding = encode(
        inputs, product, Location.of(tmp_path / "out"), recipe=SHARED, workers=Workers(actors=1)
    )
    assert (tmp_path / "killed").exists()
    assert encoding.spent.cells == 200
    assert hashes(tmp_path / "out") == hashes(of_two)
