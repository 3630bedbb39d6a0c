"""What is refused before anything is sent, and what the site's file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.kubernetes.documents import documents
from cluster.site import Site, site_of
from cluster.submission import Machine, Submission, seconds, swept
from jobs.submit import main
from storage.errors import InputError

CACHE = ("cache", "--cells", "s", "--output", "out-{seed}", "--seed", "{seed}")


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `submit` says; it ends with 2."""
    try:
        code = main([*words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--on slurm --dry-run -- cashe", "no job 'cashe'"),
        ("--on slurm --dry-run -- submit", "no job 'submit'"),
        ("--on slurm --dry-run -- cache --cels s", "cels"),
        ("--on slurm --dry-run", "needs a job"),
        ("--on slurm --nodes 0 -- inspect p", "--nodes 0"),
        ("--on slurm --gpus -1 -- inspect p", "--gpus -1"),
        ("--on slurm --time-limit 4 -- inspect p", "--time-limit '4'"),
        ("--on slurm --env A -- inspect p", "'A': write it as NAME=VALUE"),
        ("--on slurm --name Cells -- inspect p", "--name 'Cells'"),
        ("--on slurm --sweep k=1,2 -- inspect p", "no flag of the job holds {k}"),
        ("--on slurm -- inspect p --overwrite", "--overwrite with --retries 3"),
        ("--on slurm --site none.yaml -- inspect p", "--site none.yaml: cannot be read"),
        ("--on kubernetes -- inspect p", "no image"),
        ("--on kubernetes --image lab/cells:1 -- inspect p", "by digest"),
        ("--on kubernetes --time-limit 1h", "stays until it is deleted"),
        ("--on kubernetes -- serve --index i", "anyone who reaches the port"),
        ("--on kubernetes -- serve", "--index is missing"),
        ("--on ray -- inspect p", "needs --address"),
        ("--on ray --sweep p=1,2 -- inspect {p}", "takes one job"),
        ("--on ray --gpus 1 -- inspect p", "--gpus: a Ray that runs already"),
        ("--on ray --time-limit 1h -- inspect p", "--time-limit: a Ray that runs already"),
    ],
)
def test_refusals(flags: str, says: str, capsys: pytest.CaptureFixture[str]):
    assert says in refusal(capsys, *flags.split())


def test_sbatch_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert "sbatch is not installed here" in refusal(capsys, *["--on", "slurm", "--", "inspect", "p"])


def test_a_job_that_is_begun_once_may_overwrite():
    assert main(["--on", "ray", "--dry-run", "--", "inspect", "p", "--overwrite"]) == 0


def test_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = tmp_path / "script"
    assert main(["--on", "slurm", "--dry-run", "--output", str(script), "--", "inspect", "p"]) == 0
    assert script.read_text() == capsys.readouterr().out


def test_sweeps():
    assert swept(CACHE, {"seed": ("0", "1")})[1] == (
        "cache",
        "--cells",
        "s",
        "--output",
        "out-1",
        "--seed",
        "1",
    )
    both = swept(("cache", "--output", "{seed}/{k}"), {"seed": ("0", "1"), "k": ("1", "2")})
    assert [command[-1] for command in both] == ["0/1", "0/2", "1/1", "1/2"]
    with pytest.raises(InputError, match=r"would write to out-0; .* sae-{seed}-{k}"):
        swept((*CACHE, "--k", "{k}"), {"seed": ("0",), "k": ("1", "2")})


def test_a_sweep_on_kubernetes_is_jobs_of_their_own():
    machine = Machine(cpus=1, gpus=0, memory_gib=1)
    sweep = Submission(
        name="cache", commands=swept(CACHE, {"seed": ("0", "1")}), machine=machine, image="i@sha256:0"
    )
    rendered = documents(sweep, Site())
    assert [(one["kind"], one["metadata"]["name"]) for one in rendered] == [
        ("NetworkPolicy", "cache-0"),
        ("RayJob", "cache-0"),
        ("NetworkPolicy", "cache-1"),
        ("RayJob", "cache-1"),
    ]
    assert rendered[3]["spec"]["entrypoint"].endswith("--seed 1")


@pytest.mark.parametrize(("text", "is_"), [("90m", 5400), ("4h", 14400), ("1d12h", 129600)])
def test_time_limits(text: str, is_: int):
    assert seconds(text) == is_


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"slurm": {"partion": "gpu"}}, "slurm: partion: no such key .did you mean 'partition'"),
        ({"slurm": {"partition": 3}}, "slurm: partition: expected str, found 3 .put it in quotes"),
        ({"slurm": {"modules": "cuda"}}, "modules: expected a list"),
        ({"slurm": {"exclusive": False}}, "needs `apptainer: IMAGE`"),
        ({"slurm": {"binds": ["/a"]}}, "binds need"),
        ({"kubernetes": {"volumes": [{"claim": "a"}]}}, r"volumes\[0\]: path is missing"),
        ({"kubernetes": {"head_cpus": True}}, "head_cpus: expected int, found True"),
        ({"environment": {"A": 1}}, "environment.A: expected str"),
        ({"environment": {1: "A"}}, "the key 1 is no text"),
        ({"ray": []}, "ray: expected a mapping"),
    ],
)
def test_a_site_is_read_strictly(found: dict[str, Any], says: str):
    with pytest.raises(InputError, match=says):
        site_of(found, "site.yaml")


def test_a_site_may_leave_a_value_empty():
    assert site_of({"slurm": {"activate": None}}, "site.yaml").slurm.activate is None
