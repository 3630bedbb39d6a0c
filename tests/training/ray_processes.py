"""Finding, measuring and killing the processes of an embedded Ray that belong to this test run."""

import os
from pathlib import Path


def titled(title: str) -> list[int]:
    """Process ids of all that this process has started, directly or not, with `title` in their title."""
    return [pid for pid in _below(os.getpid()) if title in title_of(pid)]


def title_of(pid: int) -> str:
    """Its command line; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def private_bytes(pid: int) -> int:
    """Resident memory of a process less what it shares with others, such as the object store."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def object_store_bytes() -> int:
    """In use in the object stores of all nodes, spilled objects not counted."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)


def _below(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state parent ...; the name may hold anything.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # has ended meanwhile
            continue
    found, wanted = set[int](), {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted} - found
        found |= wanted
    return found
