"""The images' files: what they say, and every instruction of them carried out."""

import json
import os
import re
import shutil
import site
import sys
import tomllib
from pathlib import Path

import pytest

from tests.chaos.switch import why_not
from tests.cluster.image_room import Stage, begun, instructions
from tests.conftest import REPOSITORY

IMAGES = sorted((REPOSITORY / "cluster" / "docker").glob("*.Dockerfile"))
# The packages are those of this environment, found by pip as installed: it resolves the exact line, pins and
# all, and has nothing to fetch. Debian's package manager says what it would do.
OFFLINE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",
    "APT_CONFIG": "/simulated.conf",
}
SIMULATED = 'APT::Get::Simulate "true";\n'


@pytest.fixture(params=IMAGES, ids=lambda path: path.stem)
def image(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    return instructions(request.param.read_text())


def test_pinned_in_two_stages_and_not_root(image: list[tuple[str, str]]):
    base = dict(image)["ARG"]
    # Our own pins are of packages for this Python.
    assert re.fullmatch(rf"PYTHON=python:{sys.version_info[0]}\.{sys.version_info[1]}\.\d+-slim-\w+", base)
    assert [what for verb, what in image if verb == "FROM"] == ["${PYTHON} AS built", "${PYTHON}"]
    assert [what for verb, what in image if verb == "USER"] == ["1000:1000"]
    assert any("-c constraints.txt" in what for verb, what in image if verb == "RUN")


def test_copies_every_package_and_nothing_that_is_not_there(image: list[tuple[str, str]]):
    sources = {
        source
        for verb, what in image
        if verb == "COPY" and not what.startswith("--from")
        for source in what.split()[:-1]
    }
    assert all((REPOSITORY / source).exists() for source in sources)
    setup = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in setup["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= sources
    extras = re.search(r"'\.\[([\w,]+)\]'", " ".join(what for _, what in image))
    assert extras is not None
    assert set(extras[1].split(",")) <= set(setup["project"]["optional-dependencies"])


def carried_out(image: list[tuple[str, str]], folder: Path) -> tuple[Stage, str]:
    """The last stage after all instructions, and the log of what ran."""
    stages: dict[str, Stage] = {}
    stage, log = Stage(folder, {}), ""
    for number, (verb, what) in enumerate(image):
        if verb == "FROM":
            stage = begun(folder / f"stage{number}")
            stage.variables |= OFFLINE
            (stage.layer / "simulated.conf").write_text(SIMULATED)
            stages[what.partition(" AS ")[2]] = stage
        elif verb == "ENV":
            for assignment in what.split():
                name, _, value = assignment.partition("=")
                stage.variables[name] = value.replace("$PATH", stage.variables["PATH"])
        elif verb == "WORKDIR":
            stage.folder = what
            (stage.layer / what.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif verb == "COPY":
            *sources, target = what.split()
            other = sources.pop(0).partition("=")[2] if sources[0].startswith("--from=") else None
            for source in sources:
                root = stages[other].layer if other else REPOSITORY
                stage.put(root / source.lstrip("/"), target)
        elif verb == "USER":
            stage.user = int(what.partition(":")[0])
        elif verb == "RUN":
            ran = stage.run(what)
            assert ran.returncode == 0, f"{what}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
            log += ran.stdout
            lend_packages(stage)
        else:
            assert verb in ("ARG", "CMD"), f"{verb} is not carried out here"
    return stage, log


def lend_packages(stage: Stage) -> None:
    """This environment's packages, behind those of the stage's own environment, once it has one. Among them
    is the setuptools that pip would fetch to build ours; the one that comes with Python is too old.
    """
    for packages in (stage.layer / "opt/syncytium/lib").glob("python*/site-packages"):
        for old in packages.glob("setuptools*"):
            shutil.rmtree(old)
        (packages / "lent.pth").write_text("\n".join(site.getsitepackages()) + "\n")


INDEX = " --extra-index-url https://download.pytorch.org/whl/cpu"


def test_the_images_differ_by_what_gpus_need():
    cpu, cuda = (
        instructions((IMAGES[0].parent / f"{name}.Dockerfile").read_text()) for name in ("cpu", "cuda")
    )
    assert [part for part in cuda if part not in cpu and part[0] != "ENV"] == [
        ("RUN", next(what for _, what in cuda if "pip install -c" in what)),
        ("RUN", next(what for _, what in cuda if "apt-get" in what)),
    ]
    assert ("RUN", next(what for _, what in cpu if INDEX in what).replace(INDEX, "")) in cuda


@pytest.mark.cluster
def test_every_instruction_runs_and_the_result_is_no_root(tmp_path: Path):
    # Those of the other image are among them, but for the address of an index that nobody asks here.
    image = instructions((IMAGES[0].parent / "cuda.Dockerfile").read_text())
    if lacking := why_not():
        pytest.skip(lacking)
    memory = Path("/dev/shm") / f"syncytium-image-{os.getpid()}"
    try:
        stage, log = carried_out(image, memory)
        # Nothing would have been fetched that constraints.txt does not pin.
        assert "Would install" not in log
        assert "Successfully installed syncytium" in log
        (command,) = (json.loads(what) for verb, what in image if verb == "CMD")
        ran = stage.run(f"id --user && {' '.join(command)}")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("1000\n")
        assert "train-sae" in ran.stdout
        # Of the image, not of the checkout.
        where = stage.run("python -c 'import jobs; print(jobs.__file__)'")
        assert where.stdout.startswith("/opt/syncytium/lib/"), where.stderr
        bill = json.loads((stage.layer / "opt/syncytium/sbom.cdx.json").read_text())
        assert bill["metadata"]["component"]["name"] == "syncytium"
        assert "pkg:pypi/ray@2.60.0" in {component["purl"] for component in bill["components"]}
    finally:
        shutil.rmtree(memory, ignore_errors=True)
