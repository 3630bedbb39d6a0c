"""Headless Chromium by subprocess: what a page's DOM is after its scripts ran, and what it looks like."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Root in a container has no user namespaces for the sandbox, and there is no GPU; the profile is thrown away.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
# Scripts and layout observers run on virtual time: the same on a busy machine.
VIRTUAL_MILLISECONDS = 5000


class Chromium:
    def __init__(self, executable: str, profile: Path) -> None:
        self.executable, self.profile = executable, profile

    def dom(self, url: str, width: int = 1280, height: int = 1000) -> str:
        """The serialised document after scripts have run."""
        return self._run("--dump-dom", url, width, height).stdout

    def screenshot(self, url: str, image: Path, width: int, height: int, *flags: str) -> None:
        self._run(f"--screenshot={image}", url, width, height, *flags)

    def _run(
        self, what: str, url: str, width: int, height: int, *flags: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                self.executable,
                *FLAGS,
                *flags,
                f"--user-data-dir={self.profile}",
                f"--window-size={width},{height}",
                f"--virtual-time-budget={VIRTUAL_MILLISECONDS}",
                what,
                url,
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture
def chromium(tmp_path: Path) -> Chromium:
    for name in NAMES:
        if executable := shutil.which(name):
            return Chromium(executable, tmp_path / "profile")
    pytest.skip(f"needs Chromium (none of {', '.join(NAMES)} is on PATH; apt-get install chromium)")
