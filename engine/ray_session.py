"""Joining a Ray cluster, or starting an embedded one that ends with the job."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent

# Each has been measured or hit; see docs/reference/ray.md for the story of each.
EMBEDDED_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # An embedded Ray listens on loopback for one process; a token file adds a failure mode and no safety.
    "RAY_AUTH_MODE": "disabled",
    # CPU-only tasks must not hide a GPU from the torch of their process.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # Without it gloo resolves the host name, which costs seconds or fails on machines without DNS.
    "GLOO_SOCKET_IFNAME": "lo",
    # Ray's C++ core warns on our terminal about every actor it starts; what fails reaches us as an exception.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Nobody announces that our own machine will go away; the actor that would listen takes 1.5 s of a core.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# Ray's own bars and reports would drown the one progress line of the job.
QUIET_ENVIRONMENT = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_TQDM": "0"}

OBJECT_STORE_BYTES = 1 << 30

LOOK_AT_HEAD_SECONDS = 5.0


def worker_environment() -> dict[str, str]:
    """Environment of every worker process: our checkout importable, one thread a process unless told more."""
    paths = [str(CHECKOUT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """This process's environment with `values` in it for the duration."""
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(before)


def joins(address: str | None) -> bool:
    """Whether `connect` would join a cluster rather than start a Ray of its own."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") != "local"


@contextmanager
def connect(
    address: str | None = None, num_cpus: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Be connected to Ray for the duration: to `address`, to the cluster we are in, or to an embedded Ray.

    A session that is already connected (a test, a notebook, a job that runs jobs) is used and left alone.
    An embedded Ray is ended on exit; a cluster we joined is only left. `environment` is added to that of
    every worker process.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET_ENVIRONMENT.items()})
    # Says that the bars we have switched off are off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    import ray

    if ray.is_initialized():
        yield
        return
    variables = worker_environment() | dict(environment or {})
    embedded = not joins(address)
    if not embedded:
        ray.init(
            address=address or os.environ["RAY_ADDRESS"],
            runtime_env={"env_vars": variables},
            log_to_driver=False,
        )
    else:
        os.environ.update({name: os.environ.get(name, value) for name, value in EMBEDDED_ENVIRONMENT.items()})
        # Workers inherit it from Ray's daemons, which start in it. A runtime_env would say the same, but cost
        # every worker another interpreter and another import of Ray, and make no use of those Ray has ready.
        with _environment(variables):
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
            )
        # Some of Ray's own helpers look for a running cluster by themselves and would find somebody else's.
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        with nullcontext() if embedded else _head_watched(ray.get_runtime_context().gcs_address):
            yield
    finally:
        if embedded:
            os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()


@contextmanager
def _head_watched(address: str) -> Iterator[None]:
    """Says on stderr when the cluster's head is gone. Ray waits a minute for it, and then ends this process
    from below Python, where nobody can say what to do.
    """
    over = threading.Event()

    def watch() -> None:
        # One look that nobody answers may be a busy head.
        missed = 0
        while missed < 2 and not over.wait(LOOK_AT_HEAD_SECONDS):
            missed = 0 if _answers(address) else missed + 1
        if missed == 2:
            print(
                f"The head of the cluster, {address}, does not answer. Ray waits a minute for it and then "
                "ends this job; what is committed stays. Run the same command again to resume.",
                file=sys.stderr,
                flush=True,
            )

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_AT_HEAD_SECONDS).close()
    except OSError:
        return False
    return True


def beside_the_driver(actor: type) -> Any:
    """Start a small actor on the driver's own machine; its handle. On any other machine it could vanish while
    the work goes on, and take what it knows with it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(actor).remote()
