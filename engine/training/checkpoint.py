"""Checkpoints of a training run: committed like every dataset of ours, loadable on another number of workers.

A checkpoint is a directory `checkpoints/step_00000010` with DeepSpeed's files (one shard of the optimiser
state a worker) and, written last by rank 0 after every worker's files are durable, `committed.json` with
the size of each file. Readers trust nothing without that record. Ray Train's own bookkeeping is not relied
on: it rewrites one snapshot file in place, which a driver killed at the wrong moment leaves unreadable.
"""

import contextlib
import io
import json
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from engine.training.sharding import Worker
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

FOLDER = "checkpoints"
RECORD = "committed.json"
# Stage 1 and 2 write the same files; 0 and 3 each their own.
_FAMILY = {0: 0, 1: 1, 2: 1, 3: 3}
# Marks a checkpoint that DeepSpeed can convert to the layout independent of the number of workers.
_CONVERTIBLE = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


@dataclass(frozen=True)
class Committed:
    """The record of one checkpoint. `step` is the number of steps done, that is the next step to do."""

    step: int
    world: int
    zero: int
    files: dict[str, int]

    @property
    def name(self) -> str:
        return f"step_{self.step:08d}"


class Checkpoints:
    """The checkpoints under one training output."""

    def __init__(self, output: Location, keep: int) -> None:
        self._location, self._keep = output / FOLDER, keep

    def newest(self) -> Committed | None:
        """The newest checkpoint that is whole, or None. Raises DamagedDataset when none of several is."""
        present = self._location.list()
        damage = []
        for committed in self._committed(present):
            wrong = [
                name
                for name, size in committed.files.items()
                if present.get(f"{committed.name}/{name}") != size
            ]
            if not wrong:
                return committed
            damage.append(f"{self._location}/{committed.name}/{wrong[0]}")
        if damage:
            raise DamagedDataset(
                f"no checkpoint is whole: {', '.join(damage)} missing or cut short. "
                "Restore the files, or give --overwrite to train anew."
            )
        return None

    def save(self, engine: Any, worker: Worker, step: int, zero: int) -> Committed:
        """Commit the engine's state after `step` steps; keep the newest `keep` checkpoints. Collective."""
        committed = Committed(step, worker.world, zero, {})
        buffers = {name: buffer.detach().cpu() for name, buffer in engine.module.named_buffers()}
        with tempfile.TemporaryDirectory(prefix="syncytium-checkpoint-") as folder:
            # Every worker writes into a folder of its own, on its own node; DeepSpeed names the files by
            # rank.
            engine.save_checkpoint(
                folder,
                tag=committed.name,
                client_state={"buffers": buffers, **_CONVERTIBLE},
                save_latest=False,
            )
            sizes = self._publish(Path(folder, committed.name), committed.name)
        shares: list[Any] = [None] * worker.world
        dist.all_gather_object(shares, sizes)
        committed = Committed(step, worker.world, zero, {k: v for share in shares for k, v in share.items()})
        if worker.leads:
            self._location.put(f"{committed.name}/{RECORD}", json.dumps(asdict(committed), indent=1).encode())
            self._drop_old()
        dist.barrier()
        return committed

    def load(self, engine: Any, worker: Worker, committed: Committed) -> None:
        """Put a checkpoint into a fresh engine, made with `universal=needs_conversion(...)`. Collective."""
        universal = needs_conversion(committed, worker.world)
        name = f"{committed.name}_universal" if universal else committed.name
        if universal and worker.leads:
            self._convert(committed, name)
        dist.barrier()
        decays = [group["weight_decay"] for group in engine.basic_optimizer.param_groups]
        with self._on_this_node(name) as folder:
            path, client = engine.load_checkpoint(str(folder), tag=name)
        if path is None:
            raise DamagedDataset(f"{self._location}/{name}: DeepSpeed cannot load it.")
        _repair_optimizer(engine.basic_optimizer, decays)
        _restore_buffers(engine.module, client["buffers"])
        dist.barrier()
        if universal and worker.leads:
            self._remove(name)

    def clean(self) -> None:
        """Remove what an interrupted run left: parts of uncommitted checkpoints, and conversions."""
        present = self._location.list()
        kept = {committed.name for committed in self._committed(present)}
        folders = {name.partition("/")[0] for name in present if "/" in name}
        for folder in folders - kept:
            if folder.startswith("step_"):
                self._remove(folder)

    def _committed(self, present: dict[str, int]) -> list[Committed]:
        """Records, newest first."""
        records = sorted((name for name in present if name.endswith(f"/{RECORD}")), reverse=True)
        return [Committed(**json.loads(self._location.read(name))) for name in records]

    def _publish(self, folder: Path, name: str) -> dict[str, int]:
        """Move the files of a folder in place, each atomically and durably; file name -> bytes."""
        sizes = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = path.relative_to(folder).as_posix()
            sizes[relative] = path.stat().st_size
            self._location.put_file(f"{name}/{relative}", path)
        return sizes

    def _drop_old(self) -> None:
        for committed in self._committed(self._location.list())[self._keep :]:
            self._remove(committed.name)

    def _remove(self, name: str) -> None:
        # The record first: a checkpoint that is losing its files must not look whole.
        self._location.delete(f"{name}/{RECORD}")
        folder = self._location / name
        folder.delete_all()
        if folder.local is not None and folder.local.is_dir():
            folder.local.rmdir()

    @contextmanager
    def _on_this_node(self, name: str) -> Iterator[Path]:
        """A local folder that holds the checkpoint directory `name`."""
        if self._location.local is not None:
            yield self._location.local
            return
        with tempfile.TemporaryDirectory(prefix="syncytium-checkpoint-") as scratch:
            for member in self._location.list(name):
                path = Path(scratch, member)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._location.get_file(member, path)
            yield Path(scratch)

    def _convert(self, committed: Committed, name: str) -> None:
        """Merge the shards of all workers into one file a weight, which any number of workers can load."""
        with self._on_this_node(committed.name) as folder, tempfile.TemporaryDirectory() as scratch:
            merge_shards(folder / committed.name, Path(scratch, name))
            self._publish(Path(scratch, name), name)


def needs_conversion(committed: Committed, world: int) -> bool:
    """Whether the checkpoint's shards must be merged first. Without ZeRO there are none."""
    return committed.zero > 0 and committed.world != world


def require_loadable(committed: Committed, zero: int) -> None:
    """Raise InputError when a run with this ZeRO stage cannot continue from the checkpoint."""
    if _FAMILY[committed.zero] != _FAMILY[zero]:
        raise InputError(
            f"{committed.name} was written with --zero {committed.zero}, whose files --zero {zero} cannot "
            f"read. Resume with --zero {committed.zero}, or give --overwrite to train anew."
        )


def merge_shards(source: Path, target: Path) -> None:
    """DeepSpeed's conversion of a ZeRO checkpoint to its universal layout, in this process."""
    from deepspeed.checkpoint.ds_to_universal import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(
            Namespace(
                input_folder=str(source),
                output_folder=str(target),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=False,
            )
        )


def _repair_optimizer(optimizer: torch.optim.Optimizer, weight_decays: list[float]) -> None:
    """Undo what DeepSpeed 0.19's universal loading does to a ZeRO-3 optimiser (harmless elsewhere).

    It gives every group the first group's options, and all weights one shared step counter, which the
    optimiser would then advance once a group.
    """
    for group, weight_decay in zip(optimizer.param_groups, weight_decays, strict=True):
        group["weight_decay"] = weight_decay
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = torch.as_tensor(state["step"]).clone()


def _restore_buffers(module: torch.nn.Module, buffers: dict[str, torch.Tensor]) -> None:
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])
