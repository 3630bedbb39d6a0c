"""The plan of a sparse autoencoder's training: every term is one that the code allocates or sends.

Formulas and rates: specs/sae.md section 3. Legend: D input width, F features, K active per token, B tokens of
a micro-batch.
"""

import math
from typing import NamedTuple

from engine.models.sae.model import FEATURE_PARAMETERS
from engine.models.sae.selection import CHUNK_BYTES, MIN_ROWS, SPARE_CANDIDATES
from engine.models.sae.sparse_ops import dense_wins
from engine.training.options import TrainingOptions
from engine.training.plan.hardware import H200, Hardware
from engine.training.plan.table import Plan, Transfer
from engine.training.sharding import bucket_elements
from storage.errors import InputError

ITEM = 4  # float32: weights, gradients, optimiser and activations
SPARSE = ("topk", "batchtopk", "matryoshka_batchtopk")
# Alive at once for each active pair: token, feature and score; the same sorted by feature; value, gradient
# and their sorted copies.
BYTES_PER_PAIR = 64
# And for each candidate: feature and score, before and after the best are kept.
BYTES_PER_CANDIDATE = 24
# [B, D] tensors alive at the peak: the batch, centred and scaled, reconstruction, residual, two gradients.
BATCH_COPIES = 6
# [B, F] tensors of architectures whose sparsity is known only afterwards: products, activations, gate, and
# the gradients of these.
DENSE_COPIES = 6
# Bytes that Adam reads and writes for a parameter: gradient, weight and moments; weight and moments.
ADAM_TRAFFIC = 28


class Cut(NamedTuple):
    """How the work is shared out: features of a GPU, GPUs that share features, data-parallel groups."""

    features: int
    feature_parallel: int
    data_parallel: int
    micro_batch: int
    accumulation: int


def of_sae(
    *,
    d_in: int,
    width: int,
    k: float,
    training: TrainingOptions,
    architecture: str = "topk",
    tokens: int | None = None,
    source_tokens_per_second: float | None = None,
    hardware: Hardware = H200,
) -> Plan:
    """The plan of training an autoencoder of `width` features on activations of `d_in` dimensions.

    architecture: SAELens' name (topk, batchtopk, matryoshka_batchtopk, jumprelu, standard, gated). training:
    gives batch, accumulation, workers (one GPU each), zero, feature_parallel, precision. tokens: of the run;
    default steps x batch. source_tokens_per_second: the rate at which encoders or disks deliver tokens.
    `Plan.require_fits()` refuses what does not fit the hardware.

    Raises InputError when the features cannot be cut evenly.
    """
    if width % training.feature_parallel:
        raise InputError(
            f"--width {width}: cannot be cut evenly by --feature-parallel {training.feature_parallel}."
        )
    if architecture not in FEATURE_PARAMETERS:
        raise InputError(f"--arch {architecture}: give one of {', '.join(FEATURE_PARAMETERS)}.")
    cut = Cut(
        width // training.feature_parallel,
        training.feature_parallel,
        training.data_parallel,
        training.batch // (training.data_parallel * training.accumulation),
        training.accumulation,
    )
    held = parameters(d_in, cut.features, architecture)
    return Plan(
        title=f"{architecture} {d_in} x {width:,}, k {k:g}, on {training.world} GPUs: features over "
        f"{cut.feature_parallel}, batch over {cut.data_parallel}, ZeRO-{training.zero}",
        hardware=hardware,
        parameters=parameters(d_in, width, architecture),
        parameters_per_gpu=held,
        memory=_states(held, cut, d_in, training, hardware)
        | _working(cut, d_in, width, k, architecture, training, hardware),
        traffic=tuple(_traffic(held, cut, d_in, width, k, architecture, training, hardware)),
        compute=_compute(held, cut, d_in, k, architecture, training, hardware),
        batch_tokens=training.batch,
        tokens=tokens or training.steps * training.batch,
        source_tokens_per_second=source_tokens_per_second,
    )


def parameters(d_in: int, features: int, architecture: str) -> int:
    """Of an autoencoder: two matrices, a bias of the input, and what each feature has of its own."""
    return 2 * d_in * features + len(FEATURE_PARAMETERS[architecture]) * features + d_in


def _states(held: int, cut: Cut, d_in: int, training: TrainingOptions, hardware: Hardware) -> dict[str, int]:
    """Weights, gradients and optimiser; what each ZeRO stage shares out over the data-parallel groups."""
    zero, part = training.zero, math.ceil(held / cut.data_parallel)
    matrix = cut.features * d_in
    found = {
        "weights": ITEM * (part if zero == 3 else held),
        "gradients": ITEM * (held if zero < 2 else part),
        "Adam moments": 2 * ITEM * (part if zero else held),
    }
    if zero:
        found["master weights"] = ITEM * part
        n_buckets = 2 if hardware.device == "cuda" else 1  # the second fills while the first is on its way
        found["ZeRO buckets"] = n_buckets * ITEM * bucket_elements(held)
    if zero >= 2:
        found["gradient in work"] = ITEM * matrix  # a matrix has its whole gradient before it is shared out
    if zero == 3:
        found["gathered weights"] = ITEM * held
    return found


def _working(
    cut: Cut,
    d_in: int,
    width: int,
    k: float,
    architecture: str,
    training: TrainingOptions,
    hardware: Hardware,
) -> dict[str, int]:
    """What a step allocates beside weights and optimiser."""
    batch = {"batch": BATCH_COPIES * ITEM * cut.micro_batch * d_in}
    if architecture not in SPARSE:
        return {"dense activations": DENSE_COPIES * ITEM * cut.micro_batch * cut.features} | batch
    halved = hardware.device == "cuda"
    item = 2 if halved else ITEM
    chunk = CHUNK_BYTES[hardware.device] // (cut.features * item)
    rows = min(cut.micro_batch, max(MIN_ROWS, chunk))
    candidates = min(int(k) + (SPARE_CANDIDATES if halved else 0), cut.features)
    n_dead = dead_per_token(d_in, cut.features)
    pairs = cut.micro_batch * (k + n_dead) / cut.feature_parallel
    offered = cut.micro_batch * (candidates + n_dead)
    found = {
        "encoder copy": item * cut.features * d_in,
        "chunk buffer": item * rows * cut.features,
        "active pairs": int(BYTES_PER_PAIR * pairs + BYTES_PER_CANDIDATE * offered),
    }
    if dense_wins(width, k, hardware.device):
        found["dense activations"] = DENSE_COPIES * ITEM * cut.micro_batch * cut.features
    if cut.feature_parallel > 1:
        # Everybody's candidates with their order.
        found["gathered values"] = int(3 * ITEM * offered * cut.feature_parallel)
    return found | batch


def dead_per_token(d_in: int, features: int) -> int:
    """Dead features that AuxK lets a token use, when there are enough of them."""
    return min(max(d_in // 2, 1), features)


def _traffic(
    held: int,
    cut: Cut,
    d_in: int,
    width: int,
    k: float,
    architecture: str,
    training: TrainingOptions,
    hardware: Hardware,
) -> list[Transfer]:
    """Bytes that a GPU sends (or receives, where that is more) in an optimiser step.

    AuxK is left out: a run at its end has few dead features, and then they are few.
    """
    found = []
    if cut.feature_parallel > 1:
        share = (cut.feature_parallel - 1) / cut.feature_parallel
        tokens = cut.micro_batch * cut.accumulation
        link = _link(training.feature_parallel, hardware)
        parts = {"broadcast of the batch": ITEM * tokens * d_in}
        if architecture in SPARSE:
            offers = 2 * k if architecture != "topk" else k
            gathered = min(offers, cut.features) * (cut.feature_parallel - 1)
            parts["all-gather of the best values"] = int(ITEM * tokens * gathered)
        parts["all-reduce of reconstructions"] = int(2 * share * ITEM * tokens * d_in)
        found += [_transfer(name, size, link, hardware) for name, size in parts.items()]
    if cut.data_parallel > 1:
        whole = ITEM * held * (cut.data_parallel - 1) / cut.data_parallel
        link = _link(training.world, hardware)
        parts = {"reduce-scatter of gradients": int(whole * cut.accumulation ** (training.zero >= 2))}
        if training.zero == 0:
            parts = {"all-reduce of gradients": int(2 * whole)}
        elif training.zero < 3:
            parts["all-gather of weights"] = int(whole)
        else:
            parts["all-gather of weights, twice"] = int(2 * whole * cut.accumulation)
        found += [_transfer(name, size, link, hardware) for name, size in parts.items()]
    return found


def _link(gpus: int, hardware: Hardware) -> str:
    return "node" if gpus <= hardware.gpus_per_node else "network"


def _transfer(name: str, size: int, link: str, hardware: Hardware) -> Transfer:
    bandwidth = hardware.node_bandwidth if link == "node" else hardware.network_bandwidth
    return Transfer(name, size, link, size / bandwidth)


def _compute(
    held: int,
    cut: Cut,
    d_in: int,
    k: float,
    architecture: str,
    training: TrainingOptions,
    hardware: Hardware,
) -> dict[str, float]:
    """Seconds of an optimiser step by what is done."""
    tokens = cut.micro_batch * cut.accumulation
    product = 2 * d_in * cut.features * tokens / hardware.flops
    adam = held if not training.zero else held / cut.data_parallel
    found = {"encoder product": product, "Adam": ADAM_TRAFFIC * adam / hardware.memory_bandwidth}
    if architecture not in SPARSE or dense_wins(cut.features, k / cut.feature_parallel, hardware.device):
        found["five further products"] = 5 * product
    else:
        # About 4.5 rows of float32 are read or written for an active pair.
        row = 4.5 * ITEM * d_in
        found["gathers"] = tokens * k / cut.feature_parallel * row / hardware.memory_bandwidth
    return found
