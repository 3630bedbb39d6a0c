"""`make bench`: every benchmark of this folder, each in its own process.

One after the other, so that none disturbs another; in smoke mode nothing is measured and two run at a time.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SMOKE = "--smoke" in sys.argv
NOT_BENCHMARKS = {"__init__", "__main__", "cpu_time", "device_time", "report", "synthetic_counts"}


def run(name: str) -> bool:
    """Whether the benchmark ended well; what it says is printed when it has ended, in smoke mode only if it
    failed.
    """
    began = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", *sys.argv[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    ended_well = finished.returncode == 0
    said = "" if ended_well and SMOKE else f"\n{finished.stdout}"
    print(f"== {name}: {time.monotonic() - began:.0f} s{said}", flush=True)
    return ended_well


def main() -> int:
    names = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS
    )
    with ThreadPoolExecutor(2 if SMOKE else 1) as at_once:
        ended_well = list(at_once.map(run, names))
    failed = [name for name, well in zip(names, ended_well, strict=True) if not well]
    print(
        f"{len(names) - len(failed)} of {len(names)} benchmarks ran"
        + (f"; failed: {failed}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
