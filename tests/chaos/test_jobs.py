"""The demo's jobs, sent to a cluster by `syncytium submit`: exit codes, Ctrl-C, coming back to one."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.models import sae
from jobs.demo_steps import SMALL, steps
from storage.commits import Dataset
from storage.ingest import IngestOptions, ingest
from tests.chaos.cache_runs import cache_command, committed, finish, wait_for_members
from tests.chaos.namespaces import NamespaceCluster
from tests.chaos.switch import stopped, until
from tests.chaos.test_cluster import encoders
from tests.chaos.test_faults import intact_members
from tests.streaming.in_process import hashes

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


class Submitting:
    """`syncytium submit` on the head of a cluster."""

    def __init__(self, cluster: NamespaceCluster, log: Path) -> None:
        self.cluster, self.log = cluster, log

    def start(self, *words: str) -> subprocess.Popen[str]:
        self.log.unlink(missing_ok=True)
        # Whoever started the tests in the background made all below deaf to interrupts.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "jobs", "submit", "--on", "ray"]
        address = ["--address", self.cluster.dashboard_address]
        return self.cluster.start(self.cluster.nodes[1], [*command, *address, *words], self.log)

    def run(self, *words: str) -> int:
        return self.start(*words).wait(timeout=900)

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def submit(namespace_cluster: NamespaceCluster, tmp_path: Path) -> Submitting:
    namespace_cluster.up(2)
    return Submitting(namespace_cluster, tmp_path / "submit.log")


@pytest.fixture
def demo(tahoe_model: Path, small_counts, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """Commands of the demo by their outputs' names; smaller cells, and an encoder that nobody trained."""
    (tmp_path / "demo").mkdir()
    cells = small_counts[:100].copy()
    cells.var["gene_name"] = cells.var["ensembl_id"]
    cells.write_h5ad(tmp_path / "demo" / "pbmc68k.h5ad")
    shutil.copytree(tahoe_model, tmp_path / "demo" / "encoder")
    return {step.name: (step.job, *step.arguments) for step in steps(tmp_path / "demo", SMALL, seed=0)}


def test_the_demos_jobs(submit, demo, tmp_path):
    folder = tmp_path / "demo"
    assert submit.run("--", *demo["cells"]) == 0, submit.said()
    ingest([str(folder / "pbmc68k.h5ad")], str(tmp_path / "cells"), IngestOptions(gene_id_key="gene_name"))
    assert hashes(folder / "cells") == hashes(tmp_path / "cells")

    assert submit.run("--no-follow", "--", *demo["embeddings"]) == 0, submit.said()
    (job_id,) = re.findall(r"ray job (\S+)", submit.said())
    assert submit.run("--job-id", job_id) == 0, submit.said()
    assert f"embed: wrote {folder / 'embeddings'} (100 cells" in submit.said()
    assert Dataset.open(str(folder / "embeddings")).is_complete

    assert submit.run("--", *demo["cache"]) == 0, submit.said()
    assert submit.run("--", *demo["autoencoder"]) == 0, submit.said()
    assert sae.load(str(folder / "autoencoder")).d_sae == SMALL.sae_features
    lacking = ["embed", "--cells", str(tmp_path / "nothing"), *demo["embeddings"][3:]]
    assert submit.run("--", *lacking) == 2, submit.said()


def test_ctrl_c_stops_the_job_and_it_resumes(submit, small_store, tahoe_model, tmp_path, quiet):
    output = tmp_path / "cache"
    job = ["cache", *cache_command(small_store, tahoe_model, output)[5:-2]]
    following = submit.start("--", *job)
    wait_for_members(output, following, 1)
    everyone = [pid for node in submit.cluster.nodes.values() for pid in encoders(node)]
    with stopped(everyone):
        submit.cluster.tell(following, signal.SIGINT)
        assert finish(following)[0] == 1, submit.said()
    assert "submit: stopping raysubmit_" in submit.said()
    until(lambda: not any(encoders(node) for node in submit.cluster.nodes.values()), "the end of the job")
    kept = intact_members(output)
    assert 1 <= kept < len(Dataset.open(str(output)).members)
    assert submit.run("--", *job) == 0, submit.said()
    assert committed(output) > kept
    assert hashes(output) == quiet
