"""`make bench`: every benchmark of this folder, one after the other, each in its own process."""

import subprocess
import sys
from pathlib import Path

NOT_BENCHMARKS = {"__init__", "__main__", "cpu_time", "device_time", "report", "synthetic_counts"}


def main() -> int:
    names = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS
    )
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}", *sys.argv[1:]], check=False
        ).returncode:
            failed.append(name)
    print(
        f"{len(names) - len(failed)} of {len(names)} benchmarks ran"
        + (f"; failed: {failed}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
