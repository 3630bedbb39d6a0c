"""The plan of a perturbation predictor's training, up to billions of parameters.

Formulas: specs/perturbation.md section 7; activations are counted where they are made
(`bimamba.activation_terms`). Weights are float32 (bf16 is autocast), so a parameter takes 16 bytes with
gradient and Adam's moments before ZeRO shares them out.
"""

import math

from engine.models import bimamba
from engine.training.options import TrainingOptions
from engine.training.plan.hardware import H200, Hardware
from engine.training.plan.table import Plan, Transfer
from engine.training.sharding import bucket_elements

ITEM = 4
# Forward, twice that backward, and once more where layers are computed again.
PASSES, PASSES_CHECKPOINTED = 3, 4
# The scan beside the products (spec section 7).
SCAN_SHARE = 0.07
ADAM_TRAFFIC = 28


def of_perturbation(
    config: bimamba.PerturbationConfig,
    *,
    training: TrainingOptions,
    members: int = 1,
    checkpoint_layers: bool = False,
    cells_per_condition: int = 0,
    hardware: Hardware = H200,
) -> Plan:
    """The plan of training `members` models of `config`; a token is a gene of a condition.

    `Plan.require_fits()` refuses what does not fit the hardware.
    """
    one = bimamba.parameter_count(config)
    parameters = one * members
    conditions = max(training.batch // (training.data_parallel * training.accumulation), 1)
    tokens = training.batch * (config.n_genes + 1)
    return Plan(
        title=f"{config.block} {config.d_model} x {config.n_layers}, {config.n_genes:,} genes, "
        f"{members} members, on {training.world} GPUs, ZeRO-{training.zero}, layers "
        f"{'computed again' if checkpoint_layers else 'kept'}",
        hardware=hardware,
        parameters=parameters,
        parameters_per_gpu=parameters,
        memory=_states(parameters, one, training, hardware)
        | {
            # Members' passes are kept until the one backward pass.
            name: size * (1 if name == bimamba.IN_WORK else members)
            for name, size in bimamba.activation_terms(
                config,
                conditions,
                checkpointing=checkpoint_layers,
                bf16=training.precision == "bf16",
                device=hardware.device,
            ).items()
        }
        | {"batch": ITEM * conditions * config.n_genes * (2 + cells_per_condition)},
        traffic=tuple(_traffic(parameters, training, hardware)),
        compute=_compute(parameters, tokens, training, checkpoint_layers, hardware),
        batch_tokens=tokens,
        tokens=tokens * training.steps,
        source_tokens_per_second=None,
        advice="Raise --accumulation, --workers or --zero, give --checkpoint-layers, or lower --d-model, "
        "--layers, --members or --conditions.",
    )


def _states(parameters: int, one: int, training: TrainingOptions, hardware: Hardware) -> dict[str, int]:
    zero = training.zero
    part = math.ceil(parameters / training.data_parallel)
    found = {
        "weights": ITEM * (part if zero == 3 else parameters),
        "gradients": ITEM * (parameters if zero < 2 else part),
        "Adam moments": 2 * ITEM * (part if zero else parameters),
    }
    if zero:
        found["master weights"] = ITEM * part
        n_buckets = 2 if hardware.device == "cuda" else 1
        found["ZeRO buckets"] = n_buckets * ITEM * bucket_elements(parameters)
    if zero == 3:
        found["gathered weights"] = ITEM * min(2 * bucket_elements(parameters), one)
    return found


def _traffic(parameters: int, training: TrainingOptions, hardware: Hardware) -> list[Transfer]:
    n = training.data_parallel
    if n == 1:
        return []
    whole = ITEM * parameters * (n - 1) // n
    passes = training.accumulation if training.zero >= 2 else 1
    parts = {"reduce-scatter of gradients": whole * passes}
    if training.zero == 0:
        parts = {"all-reduce of gradients": 2 * whole}
    elif training.zero < 3:
        parts["all-gather of weights"] = whole
    else:
        parts["all-gather of weights, twice"] = 2 * whole * passes
    inside = n <= hardware.gpus_per_node
    link, rate = ("node", hardware.node_bandwidth) if inside else ("network", hardware.network_bandwidth)
    return [Transfer(name, size, link, size / rate) for name, size in parts.items()]


def _compute(
    parameters: int, tokens: int, training: TrainingOptions, checkpointed: bool, hardware: Hardware
) -> dict[str, float]:
    passes = PASSES_CHECKPOINTED if checkpointed else PASSES
    products = 2 * passes * parameters * (tokens / training.data_parallel) / hardware.flops
    stepped = parameters / (training.data_parallel if training.zero else 1)
    return {
        "products": products,
        "scans": SCAN_SHARE * products,
        "Adam": ADAM_TRAFFIC * stepped / hardware.memory_bandwidth,
    }
