"""Model directories: which model one holds, a copy of it on this machine, and publishing a new one whole.

A model directory is flat: configuration, vocabulary and weights lie directly in it; a joint model's holds
those of its towers in folders of their own, a chat model's those of its language model (`PARTS`). What jobs
leave beside them (`run.json`, metrics, training checkpoints in a sub-folder) is not part of the model.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import xxhash

from storage.errors import InputError
from storage.locations import Location
from storage.protocol.snapshots import canonical, hash_of

MODEL_SUFFIXES = (
    ".json",
    ".yml",
    ".yaml",
    ".safetensors",
    ".pt",
    ".bin",
    ".pkl",
    ".pickle",
    ".parquet",
    ".csv",
)
NOT_THE_MODEL = {"run.json", "training.json", "metrics.parquet", "metrics.json"}

# The folders of a joint model's towers and of a chat model's language model, each a model directory itself.
PARTS = ("cell", "text", "language_model")

# A loader recognises a model by one of these, so they are published last: before them there is no model.
CONFIGURATIONS = ("config.json", "model_config.yml", "cfg.json")

_READ_BYTES = 16 << 20


def fingerprint(model_dir: str | os.PathLike[str]) -> str:
    """Hash (32 hex digits) of the names and bytes of a model's files: equal for copies, wherever they lie.

    Reads everything once (2 GB/s or the disk). Raises InputError when the directory holds no model files.
    """
    directory = local_copy(model_dir)
    hashes = {name: _hash_of_file(directory / name) for name in model_files(Location.of(directory))}
    return hash_of(canonical(hashes))


def model_files(location: Location) -> list[str]:
    """Names of the files that make up the model, sorted. Raises InputError when there are none."""
    names = [name for name in location.list() if _in_the_model(name) and name not in NOT_THE_MODEL]
    files = [name for name in names if name.endswith(MODEL_SUFFIXES)]
    if not files:
        raise InputError(
            f"{location}: no model directory; expected configuration and weights in it "
            f"({', '.join(CONFIGURATIONS)} and *.safetensors)"
        )
    return files


def local_copy(path: str | os.PathLike[str]) -> Path:
    """The model directory on this machine: itself when local, else fetched once and kept.

    Copies live in $SYNCYTIUM_CACHE (default ~/.cache/syncytium) under a hash of the address and of the sizes
    and times of its files, so a model replaced at the same address is fetched anew. Of a machine's processes
    one fetches and the others wait for it; machines that share the cache may fetch twice and keep one copy.
    """
    location = Location.of(path)
    if location.local is not None:
        model_files(location)
        return location.local
    names, sizes, written = model_files(location), location.list(), location.written()
    version = hash_of(canonical([str(location), [[name, sizes[name], written[name]] for name in names]]))
    copies = _cache_directory() / "models"
    copies.mkdir(parents=True, exist_ok=True)
    with open(copies / f"{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process that holds it
        if not (copies / version).is_dir():
            _fetch(location, names, copies, version)
    return copies / version


def publish(write: Callable[[Path], None], destination: str | os.PathLike[str]) -> None:
    """Have `write` fill an empty local directory, then make its files a model directory at `destination`.

    Readers see no model, or the whole new one: the configuration file a loader looks for appears last, and an
    earlier one is removed first. Other files at the destination stay. If `write` fails nothing changes.
    """
    location = Location.of(destination)
    if location.local is not None:
        location.local.mkdir(parents=True, exist_ok=True)
    # Beside its destination, since only within one file system is a move a rename.
    with tempfile.TemporaryDirectory(prefix=".publish-", suffix=".tmp", dir=location.local) as folder:
        write(Path(folder))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if not names:
            raise InputError(f"{location}: nothing was written to publish")
        for name in CONFIGURATIONS:
            location.delete(name)
        for name in sorted(names, key=lambda name: (name in CONFIGURATIONS, name)):
            location.put_file(name, Path(folder, name))


def _in_the_model(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return not file.startswith(".") and (not folder or folder in PARTS)


def _fetch(location: Location, names: list[str], copies: Path, version: str) -> None:
    with tempfile.TemporaryDirectory(dir=copies) as folder:
        fetched = Path(folder, version)
        fetched.mkdir()
        for name in names:
            (fetched / name).parent.mkdir(exist_ok=True)
            location.get_file(name, fetched / name)
        try:
            fetched.rename(copies / version)
        except OSError:
            if not (copies / version).is_dir():  # else another process was faster
                raise
            shutil.rmtree(fetched)


def _cache_directory() -> Path:
    return Path(os.environ.get("SYNCYTIUM_CACHE", "~/.cache/syncytium")).expanduser()


def _hash_of_file(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
