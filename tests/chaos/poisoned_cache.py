"""`cache` of a store with a poison member: encoding the one that begins at cell POISON ends its process.

python -m tests.chaos.poisoned_cache FLAGS OF cache
"""

import os
import signal
from dataclasses import dataclass

from engine.streaming.products import activations

POISON = 65


@dataclass(frozen=True)
class PoisonProduct(activations.ActivationProduct):
    def collect(self, encoder, tokens, member):
        if member.start <= POISON < member.stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().collect(encoder, tokens, member)


if __name__ == "__main__":
    from jobs import cache
    from tests.chaos import poisoned_cache

    # The class of the module, not of this script: workers find it by its name.
    activations.ActivationProduct = poisoned_cache.PoisonProduct  # type: ignore[misc]
    raise SystemExit(cache.main())
