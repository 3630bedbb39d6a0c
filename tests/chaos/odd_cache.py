"""`cache` with encoders that wait before every member, so that a run lasts without costing anything; and of a
store with a poison member, whose encoding ends the process.

python -m tests.chaos.odd_cache SECONDS CELL FLAGS OF cache     # the poison member holds CELL; -1: none does
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial

from engine.streaming.products import activations


@dataclass(frozen=True)
class OddProduct(activations.ActivationProduct):
    wait: float = 0.0
    poison: int = -1

    def collect(self, encoder, tokens, member):
        if member.start <= self.poison < member.stop:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.wait)
        return super().collect(encoder, tokens, member)


if __name__ == "__main__":
    from jobs import cache
    from tests.chaos import odd_cache

    # The class of the module, not of this script: workers find it by its name.
    odd = partial(odd_cache.OddProduct, wait=float(sys.argv[1]), poison=int(sys.argv[2]))
    activations.ActivationProduct = odd  # type: ignore[misc]
    raise SystemExit(cache.main(sys.argv[3:]))
