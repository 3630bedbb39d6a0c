"""What each architecture of `train-sae` starts from and is punished for; activations x' have E||x'||^2 = D.

Sources: the papers named in `engine.models.sae.topk_family` and `.penalised`; constants as stated there.
"""

from statistics import NormalDist
from typing import Literal, get_args

from engine.models import sae
from storage.errors import InputError

ArchitectureName = Literal["topk", "batchtopk", "jumprelu", "matryoshka", "gated", "standard"]
ARCHITECTURES: tuple[ArchitectureName, ...] = get_args(ArchitectureName)

SAELENS_NAMES = {"matryoshka": "matryoshka_batchtopk"}
COUNTED = ("topk", "batchtopk", "matryoshka")
"""Those that activate a fixed number of features, and revive dead ones by AuxK."""
AIMED_AT = (*COUNTED, "jumprelu")
"""Those that k means something to."""

# Sparsity penalties in units of the squared error, whose scale (D) the recipe fixes. Anthropic's April 2024
# update, for activations scaled as ours; gated takes the same.
SPARSITY_COEFFICIENTS = {"standard": 5.0, "gated": 5.0}
# JumpReLU's penalties per dimension: at its target the quadratic one is zero, so its weight only says how
# tightly the target is kept; the other lifts the pre-activations of dead features. Measured on activations
# of width 128 (1024 features, target 16, 400 steps): L0 15.9 and 3 % dead; ten times less of the second
# leaves half of the features dead.
JUMPRELU_SPARSITY, JUMPRELU_LIFT = 1e-2, 1e-3
# Decoder rows of architectures that punish activations times decoder norms start small, as SAELens' do.
PENALISED_NORM = 0.1
# Of the estimate of a threshold's gradient, in units of h, which is about 1: a narrow window sees few tokens.
# As above, 0.5 gives FVU 0.028 and 5 % dead, 2 gives 0.023 and 3 %.
BANDWIDTH = 2.0


def config(name: ArchitectureName, d_in: int, width: int, k: int) -> sae.SAEConfig:
    """Raises ModelError when k and width do not fit."""
    counted = name in COUNTED
    return sae.SAEConfig(
        SAELENS_NAMES.get(name, name),
        d_in,
        width,
        k=k if counted else None,
        # Chosen by h * ||W_dec||: drifting decoder norms cannot change which features win.
        rescale_acts_by_decoder_norm=counted,
    )


def initial(name: ArchitectureName, width: int, k: int) -> sae.InitOptions:
    """JumpReLU starts near its target: h is about normal, and its thresholds let through k of it."""
    if name in COUNTED:
        return sae.InitOptions()
    if name == "jumprelu":
        return sae.InitOptions(threshold=NormalDist().inv_cdf(1 - min(k / width, 0.49)))
    return sae.InitOptions(decoder_norm=PENALISED_NORM)


def objective(
    name: ArchitectureName,
    d_in: int,
    *,
    width: int,
    k: int,
    aux_coefficient: float,
    sparsity_coefficient: float | None,
    matryoshka_widths: tuple[int, ...],
) -> sae.ObjectiveOptions:
    """AuxK counts relative to what is left to explain (OpenAI's form)."""
    coefficient = sparsity_weight(name, d_in) if sparsity_coefficient is None else sparsity_coefficient
    return sae.ObjectiveOptions(
        aux_coefficient=aux_coefficient,
        aux_relative=True,
        matryoshka_widths=nested_widths(width, matryoshka_widths) if name == "matryoshka" else (),
        sparsity_coefficient=coefficient,
        sparsity_mode="quadratic",
        target_l0=float(k),
        bandwidth=BANDWIDTH,
        pre_act_coefficient=JUMPRELU_LIFT * d_in if aux_coefficient else None,
    )


def sparsity_weight(name: ArchitectureName, d_in: int) -> float:
    """An architecture's own weight of the sparsity penalty; 0 for those that count."""
    return 0.0 if name in COUNTED else SPARSITY_COEFFICIENTS.get(name, JUMPRELU_SPARSITY * d_in)


def nested_widths(width: int, given: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The prefixes of a Matryoshka autoencoder; by default a sixteenth, an eighth, ... and the whole."""
    return given or tuple(width >> shift for shift in (4, 3, 2, 1, 0) if width >> shift)


def require_buildable(
    name: ArchitectureName, *, width: int, k: int, matryoshka_widths: tuple[int, ...]
) -> None:
    """Raises InputError, naming the flag, for sizes that no autoencoder of this architecture can have."""
    if name not in ARCHITECTURES:
        raise InputError(f"--arch {name}: give one of {', '.join(ARCHITECTURES)}.")
    if width < 1:
        raise InputError(f"--width {width}: give at least 1.")
    if not 0 < k <= width:
        raise InputError(f"--k {k}: give 1 to --width ({width}).")
    if matryoshka_widths and name != "matryoshka":
        raise InputError(f"--matryoshka-widths: belongs to --arch matryoshka, not {name}.")
    ascending = all(a < b for a, b in zip((0, *matryoshka_widths), matryoshka_widths, strict=False))
    if not ascending or (matryoshka_widths and matryoshka_widths[-1] > width):
        raise InputError(
            f"--matryoshka-widths {','.join(map(str, matryoshka_widths))}: give ascending sizes from 1 to "
            f"--width ({width})."
        )
