"""`submit --on slurm` on a real SLURM: jobs that are taken off their nodes go on, and nothing of it shows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine import models
from engine.models import tahoe
from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe
from jobs import train_sae
from jobs.demo_cells import demo_cells
from storage.cells import CellStore
from storage.ingest import IngestOptions, ingest
from tests.chaos.cache_runs import committed
from tests.chaos.switch import stopped, until
from tests.cluster.slurm_nodes import SlurmCluster, why_not
from tests.conftest import REPOSITORY
from tests.streaming.in_process import encode_here, hashes

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CELLS, SHARD_TOKENS, MAX_TOKENS = 150, 512, 256
NODES = 2
# Where other tests keep both cores busy, a Ray takes its minute to start.
SECONDS_TO_WAIT = 900
SIZES = ["--hook", "final", "--width", "256", "--k", "8", "--batch-tokens", "512", "--steps", "200"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if lacking := why_not():
        pytest.skip(lacking)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"), nodes=NODES, cpus=1)
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def store(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the blood cells of scanpy's wheel."""
    folder = tmp_path_factory.mktemp("blood")
    demo_cells()[:CELLS].write_h5ad(folder / "cells.h5ad")
    ingest([str(folder / "cells.h5ad")], str(folder / "store"), IngestOptions(gene_id_key="gene_name"))
    return folder / "store"


@pytest.fixture(scope="module")
def model(store: Path) -> Path:
    """An encoder that nobody trained."""
    genes = list(CellStore.open(str(store)).genes.index)
    encoder = tahoe.create(genes, d_model=32, n_layers=2, n_heads=2, max_tokens=MAX_TOKENS, seed=1)
    models.save(encoder, store.parent / "model")
    return store.parent / "model"


@pytest.fixture(scope="module")
def undisturbed(store: Path, model: Path) -> Path:
    """The cache that one process makes of the store."""
    inputs = Inputs.open(str(store), str(model))
    identity = {"model": inputs.model.fingerprint, "store": inputs.store.dataset_id}
    product = ActivationProduct(("final",), "bf16", None, False, 0, identity, shard_tokens=SHARD_TOKENS)
    encode_here(inputs, product, store.parent / "undisturbed", Recipe(MAX_TOKENS))
    return store.parent / "undisturbed"


def submitted(slurm: SlurmCluster, folder: Path, nodes: int, job: list[str]) -> subprocess.Popen[str]:
    """`syncytium submit` on the first node, as a user would: it shows the job's log until the job ends."""
    site = folder / f"site-{job[0]}.yaml"
    python = Path(sys.executable).parent
    of_site = {"activate": str(python.parent), "interface": "eth0", "object_store_gib": 1}
    site.write_text(yaml.safe_dump({"slurm": {**of_site, "output": f"{folder}/%x-%j.log"}}))
    machines = ["--nodes", str(nodes), "--cpus", "1", "--memory", "4", "--name", job[0]]
    # Into a file: nobody reads while it runs, and a full pipe would stop it.
    told = ["sh", "-c", 'exec "$@" >"$0" 2>&1', str(folder / f"submit-{job[0]}.log")]
    submit = [*told, str(python / "python"), "-m", "jobs", "submit", "--on", "slurm", "--site", str(site)]
    return slurm.on_first([*submit, *machines, "--", *job], folder, PYTHONPATH=str(REPOSITORY))


def job_id(slurm: SlurmCluster, name: str) -> str:
    """Of the job of this name, once it is in the queue."""
    queue = ("squeue", "--noheader", f"--name={name}", "--format=%i")
    until(lambda: slurm.ask(*queue).strip() != "", f"{name} in the queue", SECONDS_TO_WAIT)
    return slurm.ask(*queue).strip()


def begin_again(slurm: SlurmCluster, job: str) -> None:
    """SLURM lets a job that was requeued wait two minutes for its nodes to become clean; ours are, so it may
    begin at once.
    """
    until(lambda: slurm.fact(job, "JobState") == "PENDING", f"job {job} in the queue again", SECONDS_TO_WAIT)
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def running(slurm: SlurmCluster, title: str) -> list[int]:
    return [pid for node in slurm.nodes for pid in node.processes(title)]


@pytest.mark.timeout(2400)  # some 260 CPU-seconds
def test_preempted_jobs_end_with_the_bytes_of_undisturbed_ones(
    slurm: SlurmCluster, store: Path, model: Path, undisturbed: Path, tmp_path: Path
):
    """The cache has all nodes until it is sent away; then the autoencoder has one, until its time is nearly
    over. What works is halted just before, so that it does not come to its end first.
    """
    cache, sae = tmp_path / "cache", tmp_path / "sae"
    caching = ["cache", "--cells", store, "--model", model, "--hooks", "final", "--output", cache]
    sizing = ["--shard-tokens", SHARD_TOKENS, "--max-tokens", MAX_TOKENS]
    training = ["train-sae", "--cache", undisturbed, *SIZES, "--checkpoint-every", 10, "--output", sae]
    of_cache = submitted(slurm, tmp_path, NODES, [*map(str, [*caching, *sizing])])
    preempted = job_id(slurm, "cache")
    of_sae = submitted(slurm, tmp_path, 1, [*map(str, training)])

    until(lambda: committed(cache) >= 3 or of_cache.poll() is not None, "members", SECONDS_TO_WAIT)
    with stopped(running(slurm, "EncodeMembers")):
        kept, nodes = committed(cache), slurm.fact(preempted, "NodeList")
        slurm.ask("scontrol", "requeue", preempted)
        begin_again(slurm, preempted)
    assert nodes == f"node[1-{NODES}]"

    steps = "checkpoints/step_*"
    until(lambda: any(sae.glob(steps)) or of_sae.poll() is not None, "checkpoints", SECONDS_TO_WAIT)
    late = job_id(slurm, "train-sae")
    with stopped(running(slurm, "RayTrainWorker")):
        # What SLURM sends before the time limit: the script itself asks to be queued again.
        slurm.ask("scancel", "--batch", "--signal=USR1", late)
        begin_again(slurm, late)

    flags = ["--cache", str(undisturbed), *SIZES, "--workers", "0"]
    assert train_sae.main([*flags, "--output", str(tmp_path / "alone")]) == 0
    for name, submit in (("cache", of_cache), ("train-sae", of_sae)):
        submit.communicate(timeout=SECONDS_TO_WAIT)
        assert submit.returncode == 0, (tmp_path / f"submit-{name}.log").read_text()[-5000:]
    # Once by us; and by its own script where Ray could not start in time, on a busy machine.
    assert all(int(slurm.fact(job, "Restarts")) >= 1 for job in (preempted, late))
    assert hashes(cache) == hashes(undisturbed)
    assert 3 <= kept <= facts(cache)["members_resumed"] < len(list((cache / "_log").glob("member-*")))
    assert weights(sae) == weights(tmp_path / "alone")
    assert facts(sae)["first_step"] > 0
    assert not list(tmp_path.glob(".*.done"))


def facts(output: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((output / "run.json").read_text())["facts"]
    return found


def weights(output: Path) -> bytes:
    return (output / "sae_weights.safetensors").read_bytes()
