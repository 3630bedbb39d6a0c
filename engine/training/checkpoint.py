"""Checkpoints of a training run: committed like every dataset of ours, loadable on any number of workers.

A checkpoint is a directory `checkpoints/step_00000010` with one safetensors file a worker, which holds pieces
of the weights that learn, their moments and buffers (`engine.training.fragments`), and, written last by rank
0 after every worker's file is durable, `committed.json` with the shapes of the whole tensors, the size of
each file and the hash of the weights that do not learn, which are read from where they came from.
Readers trust nothing without that record. So a run may go on with other numbers of workers, ZeRO stages and
feature groups, and a model can be exported from a checkpoint without any of them. Ray Train's own bookkeeping
is not relied on: it rewrites one snapshot file in place, which a driver killed at the wrong moment leaves
unreadable.
"""

import json
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from engine.training.fragments import (
    BUFFER,
    WEIGHT,
    learning,
    optimiser_fragments,
    places,
    start_optimiser,
    state_names,
    updates,
    written_fragments,
)
from engine.training.sharding import Groups, Worker, whole_weight
from engine.training.stored_state import StoredState, key_of
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

FOLDER = "checkpoints"
RECORD = "committed.json"


@dataclass(frozen=True)
class Committed:
    """The record of one checkpoint. `step` is the number of steps done, that is the next step to do."""

    step: int
    updates: int
    """Steps that the optimiser counts."""
    files: dict[str, int]
    shapes: dict[str, list[int]]
    """Of the whole model's buffers, and of its weights that learn."""
    names: dict[str, str]
    """Of these as they are in the model's state dict: the name they are stored under."""
    frozen: str
    """Hash of the weights that do not learn; see `hash_of_frozen`."""

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

    def at(self, step: int) -> Committed:
        """The checkpoint after `step` steps. Raises DamagedDataset when it is not there."""
        for committed in self._committed(self._location.list()):
            if committed.step == step:
                return committed
        raise DamagedDataset(f"{self._location}: the checkpoint after {step} steps is missing.")

    def save(
        self, engine: Any, worker: Worker, groups: Groups, step: int, frozen: str, best: int | None = None
    ) -> Committed:
        """Commit the engine's state after `step` steps; keep the newest `keep` checkpoints. Collective.

        frozen: hash of its weights that do not learn. best: step of a checkpoint to keep beside them.
        """
        shapes = {name: list(place.shape) for name, place in places(engine.module).items()}
        committed = Committed(step, updates(engine), {}, shapes, state_names(engine.module), frozen)
        file = f"worker_{worker.rank:05d}.safetensors"
        pieces = {
            key_of(fragment): fragment.values.to("cpu", copy=True)
            for fragment in written_fragments(engine, groups)
        }
        with tempfile.TemporaryDirectory(prefix="syncytium-checkpoint-") as folder:
            path = Path(folder, file)
            save_file(pieces, path)
            del pieces
            size = path.stat().st_size
            self._location.put_file(f"{committed.name}/{file}", path)
        shares: list[Any] = [None] * worker.world
        dist.all_gather_object(shares, {file: size})
        committed.files.update({name: n for share in shares for name, n in share.items()})
        if worker.leads:
            self._location.put(f"{committed.name}/{RECORD}", json.dumps(asdict(committed), indent=1).encode())
            self._drop_old(best)
        dist.barrier()
        return committed

    def load(self, engine: Any, committed: Committed, frozen: str) -> None:
        """Put a checkpoint into a fresh engine; every worker reads what it holds. Collective.

        frozen: hash of the engine's weights that do not learn, which stay as they are. Raises InputError when
        they are not those of the checkpoint.
        """
        if frozen != committed.frozen:
            raise InputError(
                f"{self._location}/{committed.name}: the weights that do not learn are not those this run "
                "began with. Restore the models they are read from, or give --overwrite to train anew."
            )
        stored = self.stored(committed)
        where = places(engine.module)
        for name, weight in learning(engine.module):
            with whole_weight(weight) as whole, torch.no_grad():
                start = where[name].start
                values = stored.read(WEIGHT, name, start, start + whole.numel())
                whole.copy_(values.view_as(whole))
        for name, buffer in engine.module.named_buffers():
            start = where[name].start
            values = stored.read(BUFFER, name, start, start + buffer.numel())
            buffer.copy_(values.view_as(buffer))
        start_optimiser(engine, committed.updates)
        for kind, name, start, values in optimiser_fragments(engine):
            values.copy_(stored.read(kind, name, start, start + len(values)))
        dist.barrier()

    def stored(self, committed: Committed) -> StoredState:
        """The state of a checkpoint, to read from anywhere."""
        return StoredState(
            self._location / committed.name, sorted(committed.files), committed.shapes, committed.names
        )

    def clean(self) -> None:
        """Remove what an interrupted run left: parts of uncommitted checkpoints."""
        present = self._location.list()
        kept = {committed.name for committed in self._committed(present)}
        folders = {name.partition("/")[0] for name in present if "/" in name}
        for folder in folders - kept:
            if folder.startswith("step_"):
                self._remove(folder)

    def _committed(self, present: dict[str, int]) -> list[Committed]:
        """Records, newest first."""
        records = sorted((name for name in present if name.endswith(f"/{RECORD}")), reverse=True)
        return [self._read(name) for name in records]

    def _read(self, name: str) -> Committed:
        record = json.loads(self._location.read(name))
        if set(record) != {field.name for field in fields(Committed)}:
            raise InputError(
                f"{self._location}/{name}: was written by another version, whose checkpoints this one cannot "
                "read. Finish the run with that version, or give --overwrite to train anew."
            )
        return Committed(**record)

    def _drop_old(self, best: int | None) -> None:
        for committed in self._committed(self._location.list())[self._keep :]:
            if committed.step != best:
                self._remove(committed.name)

    def _remove(self, name: str) -> None:
        # The record first: a checkpoint that is losing its files must not look whole.
        self._location.delete(f"{name}/{RECORD}")
        folder = self._location / name
        folder.delete_all()
        if folder.local is not None and folder.local.is_dir():
            folder.local.rmdir()
