"""What lies in the object stores of all machines, as a program on the head: a line every five seconds.

python -m tests.benchmarks.soaking.store_watch ADDRESS
"""

from __future__ import annotations

import json
import sys
import time

import ray

EVERY_SECONDS = 5.0


def main() -> int:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    while True:
        there, free = ray.cluster_resources(), ray.available_resources()
        size = there.get("object_store_memory", 0.0)
        line = {"size": size, "used": size - free.get("object_store_memory", size)}
        print(json.dumps(line), flush=True)
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
