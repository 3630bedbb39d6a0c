"""A Dockerfile carried out without Docker: each stage is this machine's own file system under a layer.

`unshare --mount` and an overlay give a root to write to that nobody else sees, and chroot makes it the root.
The base is this machine instead of python:3.11-slim, so what is tested is the instructions, not the base.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# $1: the root's layer, $2: scratch of the overlay, $3: where it is mounted, then: user, folder, command.
ENTER = """
mount -t overlay overlay -o "lowerdir=/,upperdir=$1,workdir=$2" "$3"
mount --bind /dev "$3/dev"
mount -t proc proc "$3/proc"
exec chroot --userspec="$4:$4" --groups= "$3" sh -c 'cd "$0" && eval "$1"' "$5" "$6"
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """(`RUN`, what it runs), with lines put together and comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    whole = re.sub(r"\\\n\s*", "", lines)
    return [tuple(line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]  # type: ignore[misc]


@dataclass
class Stage:
    """One `FROM`: `layer` is what it wrote over the base."""

    layer: Path
    variables: dict[str, str]
    folder: str = "/"
    user: int = 0

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command in the stage, as Docker runs it."""
        scratch, root = self.layer.parent / "scratch", self.layer.parent / "root"
        for place in (scratch, root):
            place.mkdir(exist_ok=True)
        entering = ["unshare", "--mount", "--propagation", "private", "bash", "-ec", ENTER, "enter"]
        places = [str(self.layer), str(scratch), str(root), str(self.user), self.folder]
        return subprocess.run(
            [*entering, *places, command],
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def put(self, source: Path, target: str) -> None:
        """A file, or all that is in a folder, as COPY does it."""
        place = self.layer / os.path.normpath(os.path.join(self.folder, target)).lstrip("/")
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True, ignore=ignored)
        else:
            into = place / source.name if target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into)


def begun(folder: Path) -> Stage:
    """A stage whose /usr/local has the Python that runs the tests, readable by all, as the base has one."""
    local, version = folder / "layer/usr/local", f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys.base_prefix)
    for place in ("bin", "lib"):
        (local / place).mkdir(parents=True)
    for name in ("python", "python3", version):
        (local / "bin" / name).symlink_to(base / "bin" / version)
    (local / "lib" / version).symlink_to(base / "lib" / version)
    stage = Stage(folder / "layer", {"PATH": PATH, "HOME": "/root"})
    # People of this machine are not in the base; its users are below 1000.
    (folder / "layer/etc").mkdir()
    for table in ("passwd", "group"):
        lines = Path("/etc", table).read_text().splitlines(keepends=True)
        kept = [line for line in lines if not 1000 <= int(line.split(":")[2]) < 60_000]
        (folder / "layer/etc" / table).write_text("".join(kept))
    private = [parent for parent in (base / "bin").parents if parent.stat().st_mode & 0o005 != 0o005]
    for parent in private:
        opened = stage.run(f"chmod a+rx {parent}")
        assert opened.returncode == 0, opened.stderr
    return stage
