"""An encoder in an actor: on the actor's own device, or shared with followers on further ones.

With tensor parallelism the pool's actor is rank 0 of a replica. It starts one follower for each other rank in
the replica's placement group, and tells them by broadcast what to run before it runs it itself, so whatever a
product asks of the encoder is asked of all ranks. Followers die with their leader. When a follower dies the
leader ends its process: Ray starts the actor anew, with new followers, and gives it the member again.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
import torch.distributed as dist
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from engine import models
from engine.models import Encoder, PackedTokens, Precision, TensorShard
from engine.models.layout import CellLayout
from storage.checkpoints import local_copy

# A leader may wait long for its next member. Ray tells of deaths; this ends a replica whose machines have
# lost each other unnoticed.
PATIENCE = timedelta(days=1)

# After a failed forward pass: how long a follower's death may take to be known.
NOTICE_SECONDS = 20.0


@dataclass(frozen=True)
class EncoderSpec:
    """What an actor loads, and how it runs it.

    precision: "fp32" or "bf16", what the encoder computes in. batch_tokens: budget of a packed batch.
    threads: of the actor's matrix products; fixed for the run, since a sum's last bits may depend on it.
    tensor_parallel: devices (on a CPU: processes) that share the encoder. drug_token: as for `models.load`.
    """

    model: str
    precision: Precision
    batch_tokens: int
    threads: int
    device: str
    tensor_parallel: int = 1
    drug_token: bool = False


class PlacementGroups:
    """On the driver: room for one more replica whenever the pool starts one; `remove` gives it all back."""

    def __init__(self, n_devices: int, resources: dict[str, float]) -> None:
        """resources: of each device's process, by Ray's names."""
        self._bundles = [resources] * n_devices
        self._groups: list[PlacementGroup] = []

    def __call__(self) -> dict[str, Any]:
        """Remote arguments of the next leader."""
        group = placement_group(self._bundles, strategy="PACK")
        self._groups.append(group)
        return {"scheduling_strategy": _place(group, 0)}

    def remove(self) -> None:
        while self._groups:
            remove_placement_group(self._groups.pop())


class Followers:
    """On a leader: the other ranks of its replica."""

    def __init__(self, running: list[ray.ObjectRef]) -> None:
        self._running = running
        threading.Thread(target=self._end_with_the_first, daemon=True).start()

    def end_if_one_is_lost(self, error: Exception) -> None:
        """Never returns if that may be why a member failed with `error`: it is no fault of the member's."""
        # What torch.distributed raises in the ranks that are left.
        if not isinstance(error, RuntimeError):
            return
        if ray.wait(self._running, timeout=NOTICE_SECONDS, fetch_local=False)[0]:
            self._end()

    def _end_with_the_first(self) -> None:
        # A rank that waits for a lost one in NCCL never returns, so nobody but this thread can end it.
        ray.wait(self._running, num_returns=1, fetch_local=False)
        self._end()

    def _end(self) -> None:
        ended = ray.wait(self._running, timeout=0, fetch_local=False)[0]
        try:
            ray.get(ended)
        except ray.exceptions.RayError as error:
            print(f"a rank of this encoder is lost, so its leader ends: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)


def load_encoder(spec: EncoderSpec) -> Encoder:
    """The encoder on its one device, in evaluation mode."""
    return _load(spec, None)


def lead(spec: EncoderSpec) -> tuple[Encoder, Followers]:
    """The encoder of a replica, in the process of its rank 0. Call it like any other."""
    store = TCPStore(ray.util.get_node_ip_address(), 0, is_master=True, wait_for_workers=False)
    group = ray.util.get_current_placement_group()
    running = []
    for rank in range(1, spec.tensor_parallel):
        resources = group.bundle_specs[rank]
        follower = ray.remote(Follower).options(
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU", 0),
            max_restarts=0,
            scheduling_strategy=_place(group, rank),
        )
        running.append(follower.remote().follow.remote(spec, rank, store.host, store.port))
    followers = Followers(running)
    encoder = _load(spec, _join(spec, 0, store))
    encoder.register_forward_pre_hook(_announce, with_kwargs=True)
    return encoder, followers


class Follower:
    """Actor of any other rank."""

    def follow(self, spec: EncoderSpec, rank: int, host: str, port: int) -> None:
        """Run what the leader runs, until it is gone."""
        torch.set_num_threads(spec.threads)
        shard = _join(spec, rank, TCPStore(host, port, is_master=False))
        encoder = _load(spec, shard)
        with torch.inference_mode():
            while True:
                _follow_one(encoder)


@dataclass(frozen=True)
class _Pass:
    """A forward pass as its leader announces it. sent: arguments that follow from GPU to GPU, with their
    shapes and dtypes.
    """

    offsets: npt.NDArray[np.int64]
    whole_values: bool
    positional: tuple[Any, ...]
    named: dict[str, Any]
    sent: dict[str, tuple[torch.Size, torch.dtype]]


def _announce(
    encoder: Encoder, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hook before each forward pass of a leader."""
    tokens = encoder.packed(args[0])
    named = {"ids_T": tokens.ids_T, "values_T": tokens.values_T, **options}
    sent = {name: value for name, value in named.items() if isinstance(value, torch.Tensor) and value.is_cuda}
    announced = _Pass(
        tokens.layout.offsets,
        tokens.whole_values,
        args[1:],
        {name: value for name, value in named.items() if name not in sent},
        {name: (tensor.shape, tensor.dtype) for name, tensor in sent.items()},
    )
    dist.broadcast_object_list([announced], src=0, device=torch.device("cpu"))
    for tensor in sent.values():
        dist.broadcast(tensor.contiguous(), src=0)
    return (tokens, *args[1:]), options


def _follow_one(encoder: Encoder) -> None:
    announced: list[Any] = [None]
    dist.broadcast_object_list(announced, src=0, device=torch.device("cpu"))
    told: _Pass = announced[0]
    named = dict(told.named)
    for name, (shape, dtype) in told.sent.items():
        named[name] = torch.empty(shape, dtype=dtype, device=encoder.device)
        dist.broadcast(named[name], src=0)
    layout = CellLayout(told.offsets, encoder.device)
    tokens = PackedTokens(named.pop("ids_T"), named.pop("values_T"), layout, told.whole_values)
    encoder(tokens, *told.positional, **named)


def _load(spec: EncoderSpec, shard: TensorShard | None) -> Encoder:
    encoder = models.load(
        local_copy(spec.model), precision=spec.precision, shard=shard, drug_token=spec.drug_token
    )
    return encoder.to(spec.device).eval()


def _join(spec: EncoderSpec, rank: int, store: Store) -> TensorShard:
    # gloo carries what is announced; NCCL, where there are GPUs, what is computed.
    backend = "cpu:gloo,cuda:nccl" if spec.device == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=spec.tensor_parallel, timeout=PATIENCE
    )
    return TensorShard(rank, spec.tensor_parallel)


def _place(group: PlacementGroup, rank: int) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
