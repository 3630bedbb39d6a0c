"""The plan of a sparse autoencoder's training: every term is one that the code allocates or sends.

Formulas and rates: specs/sae.md section 3. Legend: D input width, F features, K active per token, B tokens of
a micro-batch.
"""

import math
from dataclasses import dataclass

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
# Rows of the encoder or decoder that are read or written for an active pair.
ROWS_PER_PAIR = 4.5
# Bytes that Adam reads and writes for a parameter: gradient, weight and moments; weight and moments.
ADAM_TRAFFIC = 28


@dataclass(frozen=True)
class Work:
    """What is trained, and how it is shared out over GPUs."""

    d_in: int
    width: int
    k: float
    architecture: str
    training: TrainingOptions
    hardware: Hardware

    @property
    def features(self) -> int:
        """Of one GPU."""
        return self.width // self.training.feature_parallel

    @property
    def held(self) -> int:
        """Parameters of these features; ZeRO shares them out further."""
        return parameters(self.d_in, self.features, self.architecture)

    @property
    def micro_batch(self) -> int:
        """Tokens of a forward pass of one GPU."""
        return self.step_tokens // self.training.accumulation

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimiser step that one GPU computes."""
        return self.training.batch // self.training.data_parallel

    @property
    def sparse(self) -> bool:
        """Whether activations of all features of a micro-batch never exist."""
        return self.architecture in SPARSE and not dense_wins(self.width, self.k, self.hardware.device)

    @property
    def halved(self) -> bool:
        """Whether features are ranked in bfloat16."""
        return self.hardware.device == "cuda"

    @property
    def candidates(self) -> int:
        """Features of a token that a GPU offers to be among the best."""
        return min(int(self.k) + (SPARE_CANDIDATES if self.halved else 0), self.features)

    @property
    def dead(self) -> int:
        """Dead features that AuxK lets a token use, when there are enough of them."""
        return min(max(self.d_in // 2, 1), self.features)


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
    gives batch, accumulation, workers (one GPU each), zero, feature_parallel. tokens: of the run; default
    steps x batch. source_tokens_per_second: the rate at which encoders or disks deliver tokens.
    `Plan.require_fits()` refuses what does not fit the hardware.

    Raises InputError when the features cannot be cut evenly.
    """
    if width % training.feature_parallel:
        raise InputError(
            f"--width {width}: cannot be cut evenly by --feature-parallel {training.feature_parallel}."
        )
    if architecture not in FEATURE_PARAMETERS:
        raise InputError(f"--arch {architecture}: give one of {', '.join(FEATURE_PARAMETERS)}.")
    work = Work(d_in, width, k, architecture, training, hardware)
    return Plan(
        title=f"{architecture} {d_in} x {width:,}, k {k:g}, on {training.world} GPUs: features over "
        f"{training.feature_parallel}, batch over {training.data_parallel}, ZeRO-{training.zero}",
        hardware=hardware,
        parameters=parameters(d_in, width, architecture),
        parameters_per_gpu=work.held,
        memory=_states(work) | _working(work),
        traffic=(*_between_features(work), *_between_batches(work)),
        compute=_compute(work),
        batch_tokens=training.batch,
        tokens=tokens or training.steps * training.batch,
        source_tokens_per_second=source_tokens_per_second,
    )


def parameters(d_in: int, features: int, architecture: str) -> int:
    """Of an autoencoder: two matrices, a bias of the input, and what each feature has of its own."""
    return 2 * d_in * features + len(FEATURE_PARAMETERS[architecture]) * features + d_in


def _states(work: Work) -> dict[str, int]:
    """Weights, gradients and optimiser; what each ZeRO stage shares out over the data-parallel groups."""
    zero, held = work.training.zero, work.held
    part = math.ceil(held / work.training.data_parallel)
    found = {
        "weights": ITEM * (part if zero == 3 else held),
        "gradients": ITEM * (held if zero < 2 else part),
        "Adam moments": 2 * ITEM * (part if zero else held),
    }
    if zero:
        found["master weights"] = ITEM * part
        n_buckets = 2 if work.hardware.device == "cuda" else 1  # one fills while the other is on its way
        found["ZeRO buckets"] = n_buckets * ITEM * bucket_elements(held)
    if zero >= 2:
        # A matrix has its whole gradient before it is shared out.
        found["gradient in work"] = ITEM * work.features * work.d_in
    if zero == 3:
        found["gathered weights"] = ITEM * held
    return found


def _working(work: Work) -> dict[str, int]:
    """What a step allocates beside weights and optimiser."""
    tokens, found = work.micro_batch, {}
    if not work.sparse:
        found["dense activations"] = DENSE_COPIES * ITEM * tokens * work.features
    if work.architecture in SPARSE:
        item = 2 if work.halved else ITEM
        rows = max(MIN_ROWS, CHUNK_BYTES[work.hardware.device] // (work.features * item))
        pairs = tokens * (work.k + work.dead) / work.training.feature_parallel
        offered = tokens * (work.candidates + work.dead)
        found["encoder copy"] = item * work.features * work.d_in
        found["chunk buffer"] = item * min(tokens, rows) * work.features
        found["active pairs"] = int(BYTES_PER_PAIR * pairs + BYTES_PER_CANDIDATE * offered)
        if work.training.feature_parallel > 1:
            # Everybody's candidates with their order.
            found["gathered values"] = 3 * ITEM * offered * work.training.feature_parallel
    return found | {"batch": BATCH_COPIES * ITEM * tokens * work.d_in}


def _between_features(work: Work) -> list[Transfer]:
    """Bytes that a GPU sends (or receives, where that is more) to those that share its features.

    AuxK is left out: how much it sends depends on how many features are dead.
    """
    n = work.training.feature_parallel
    if n == 1:
        return []
    x_bytes = ITEM * work.step_tokens * work.d_in
    parts = {"broadcast of the batch": x_bytes}
    if work.architecture in SPARSE:
        offers = min(work.k if work.architecture == "topk" else 2 * work.k, work.features)
        parts["all-gather of the best values"] = int(ITEM * work.step_tokens * offers * (n - 1))
    parts["all-reduce of reconstructions"] = 2 * x_bytes * (n - 1) // n
    return _transfers(parts, n, work.hardware)


def _between_batches(work: Work) -> list[Transfer]:
    """Bytes that a GPU sends to those that compute other parts of the batch."""
    training, n = work.training, work.training.data_parallel
    if n == 1:
        return []
    whole = ITEM * work.held * (n - 1) // n
    # From stage 2 on gradients are shared out after every micro-batch, in stage 3 weights before it.
    passes = training.accumulation if training.zero >= 2 else 1
    parts = {"reduce-scatter of gradients": whole * passes}
    if training.zero == 0:
        parts = {"all-reduce of gradients": 2 * whole}
    elif training.zero < 3:
        parts["all-gather of weights"] = whole
    else:
        parts["all-gather of weights, twice"] = 2 * whole * passes
    return _transfers(parts, training.world, work.hardware)


def _transfers(parts: dict[str, int], gpus: int, hardware: Hardware) -> list[Transfer]:
    """Over the node's links when all of these GPUs are in one."""
    inside = gpus <= hardware.gpus_per_node
    link, rate = ("node", hardware.node_bandwidth) if inside else ("network", hardware.network_bandwidth)
    return [Transfer(name, size, link, size / rate) for name, size in parts.items()]


def _compute(work: Work) -> dict[str, float]:
    """Seconds of an optimiser step by what is done."""
    hardware, training = work.hardware, work.training
    product = 2 * work.d_in * work.features * work.step_tokens / hardware.flops
    stepped = work.held / (training.data_parallel if training.zero else 1)
    found = {"encoder product": product, "Adam": ADAM_TRAFFIC * stepped / hardware.memory_bandwidth}
    if work.sparse:
        pairs = work.step_tokens * work.k / training.feature_parallel
        found["gathers"] = pairs * ROWS_PER_PAIR * ITEM * work.d_in / hardware.memory_bandwidth
    else:
        found["five further products"] = 5 * product
    return found
