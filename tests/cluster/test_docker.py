"""The images' files: what can be known without building them."""

import re
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import REPOSITORY

IMAGES = sorted((REPOSITORY / "cluster" / "docker").glob("*.Dockerfile"))


def instructions(text: str) -> list[tuple[str, str]]:
    """(`RUN`, what it runs), with lines put together and comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    whole = re.sub(r"\\\n\s*", "", lines)
    return [tuple(line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]  # type: ignore[misc]


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


def test_commands_are_shell(image: list[tuple[str, str]]):
    for verb, what in image:
        if verb == "RUN":
            checked = subprocess.run(["sh", "-n", "-c", what], capture_output=True, text=True, check=False)
            assert (checked.returncode, checked.stderr) == (0, "")
