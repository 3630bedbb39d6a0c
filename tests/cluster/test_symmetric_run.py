"""The sbatch script with the real `ray symmetric-run`: only SLURM's own two commands are stand-ins.

In namespaces of its own, because the script ends with `ray stop`, which ends every Ray that it can see.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.site import Site, SlurmSite
from cluster.slurm.script import render
from cluster.submission import Machine, Submission
from tests.chaos.namespaces import why_not
from tests.conftest import REPOSITORY
from tests.storage.small_datasets import write_all

STAND_INS = {
    "scontrol": 'if [ "$1" = requeue ]; then touch "$RECORD/requeued"; else echo node1; fi',
    # The first step asks for the head's address.
    "srun": 'case "$*" in *getent*) echo 127.0.0.1; exit;; esac\n'
    'while [ "$1" != bash ]; do shift; done; SLURM_PROCID=0 exec "$@"',
}
ALONE = ["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc"]
PRIVATE = 'mount --make-rprivate / && mount -t tmpfs tmpfs /tmp/ray && ip link set lo up && exec bash "$0"'


@pytest.mark.cluster
@pytest.mark.slow
def test_a_job_on_one_node(tmp_path: Path):
    if lacking := why_not():
        pytest.skip(lacking)
    write_all(str(tmp_path / "cells"))
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    job = Submission(
        name="look",
        commands=(("inspect", str(tmp_path / "cells"), "--output", str(tmp_path / "report.json")),),
        machine=Machine(cpus=1, gpus=0, memory_gib=4),
    )
    script = tmp_path / "script"
    script.write_text(render(job, Site(slurm=SlurmSite(activate=None, object_store_gib=1))))
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RECORD": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "look",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "1",
    }
    Path("/tmp/ray").mkdir(exist_ok=True)
    run = subprocess.run(
        [*ALONE, "bash", "-c", PRIVATE, script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "Head node started" in run.stdout
    assert "kind: test" in run.stdout
    assert (tmp_path / "report.json").exists()
    assert not (tmp_path / "requeued").exists()
