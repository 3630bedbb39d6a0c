"""`syncytium train-sae`: a sparse autoencoder on activations, from a cache or straight from an encoder."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jobs.anatomy import Outcome, ProgressLine, comma_separated, launch
from jobs.anatomy.activations import ActivationFlags, TrainingActivations, source_of, warn_of_few_cells
from jobs.anatomy.training import TrainingFlags, train_job
from jobs.train_sae_aligned import ALIGNED, places_of, recipe_of, require_meant
from jobs.train_sae_sweep import members_of
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.activation_sources import ActivationSource
    from engine.training.options import TrainingOptions
    from engine.training.recipe import Recipe
    from engine.training.recipes.sae import SparseRecipe
    from storage.locations import Location

ArchitectureName = Literal[
    "topk",
    "batchtopk",
    "jumprelu",
    "matryoshka",
    "gated",
    "standard",
    "crosscoder",
    "transcoder",
    "skip_transcoder",
]


@dataclass(kw_only=True)
class AutoencoderFlags:
    """What to train. With --sweep these are defaults for autoencoders that do not say otherwise."""

    arch: ArchitectureName = "topk"
    """topk, batchtopk, matryoshka: a fixed number of features fires. jumprelu, gated, standard: a penalty
    keeps them few. crosscoder: batchtopk over several hooks (--hook A,B) or models (--cache A,B) at once.
    transcoder, skip_transcoder: batchtopk from --hook to --target-hook, the latter with a linear map beside
    the features."""
    target_hook: str | None = None
    """What a transcoder reconstructs, from the same cache or model as --hook."""
    width: int | None = None
    """Features (d_sae)."""
    k: int = 32
    """Features active per token: exactly (topk), on average (batchtopk, matryoshka) or aimed at (jumprelu).
    It means nothing to gated and standard: see --sparsity-coefficient."""
    matryoshka_widths: str | None = None
    """Nested prefixes of matryoshka, e.g. 1024,4096. Default: 1/16, 1/8, 1/4 and 1/2 of the width."""
    sparsity_coefficient: float | None = None
    """Weight of the sparsity penalty. Default: 5 for gated and standard (larger is sparser); for jumprelu,
    which comes to --k by itself, a hundredth of the activations' width."""
    aux_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features (AuxK, of the variance left); 0 = leave them dead."""
    init_seed: int | None = None
    """Seed of the initial weights alone. Default: --seed, which also orders the tokens."""
    sweep: str | None = None
    """YAML file of autoencoders that are trained together from one stream of activations, each into its own
    directory of --output. A list of mappings of arch, width, k, hook, seed and other flags; a list as a value
    stands for one autoencoder for each."""
    feature_parallel: int = 1
    """Workers that share the features of one autoencoder too wide for one GPU."""


@dataclass(kw_only=True)
class ScheduleFlags:
    """How it gets there, in tokens and shares of the run."""

    anneal: float = 0.0
    """Share of the run over which k comes down from a quarter of the activations' width; 0.1 is usual."""
    sparsity_warmup: float = 0.05
    """Share of the run over which the sparsity penalty grows from 0."""
    dead_tokens: int | None = None
    """Tokens without activity after which a feature is revived. Default: 10 million, or 2 % of the run."""


@dataclass(kw_only=True)
class PlanFlags:
    """Asking first what it will take."""

    dry_run: bool = False
    """Print parameters, memory, traffic and hours of the run, by term, and train nothing. With --output the
    plan is in run.json there."""
    d_in: int | None = None
    """With --dry-run: width of the activations, where there are none yet to look at."""
    source_rate: float | None = None
    """With --dry-run: tokens a second that encoders or disks deliver. Default: as many as are wanted."""
    gpu_memory: float | None = None
    """With --dry-run: GB of each GPU; exit code 2 when the run needs more. Default: an H200's 141."""


@dataclass(kw_only=True)
class Options(AutoencoderFlags, ScheduleFlags, PlanFlags, TrainingActivations):
    """Train sparse autoencoders; each is written as a SAELens directory that takes raw activations.

    --lr defaults to 2e-4 * sqrt(16384 / width), constant until the last fifth of the run, then linear to 0.
    """

    GROUPS: ClassVar[dict[str, type]] = {
        "activations": ActivationFlags,
        "autoencoder": AutoencoderFlags,
        "schedule": ScheduleFlags,
        "plan": PlanFlags,
        "training": TrainingFlags,
    }


def run(options: Options) -> Outcome:
    wanted = members_of(options) if options.sweep else [("", options)]
    for _, each in wanted:
        _require_meant(each)
    if options.dry_run:
        return _dry_run(wanted)
    _ = options.output_location
    if options.arch in ALIGNED and not options.sweep:
        return _aligned(options)
    sources = {each.hook: source_of(each) for _, each in wanted}
    for source in sources.values():
        warn_of_few_cells(source, options.batch_tokens)
    if options.sweep:
        return _sweep(options, wanted, sources)
    return _alone(options, _recipe(options, sources[options.hook]))


def _aligned(options: Options) -> Outcome:
    source = places_of(options)
    recipe = recipe_of(options, source, dead_tokens=_dead_tokens(options))
    warn_of_few_cells(source, options.batch_tokens)
    return _alone(options, recipe)


def _alone(options: Options, recipe: "Recipe") -> Outcome:
    outcome = train_job("train-sae", options, recipe, _training(options))
    outcome.counts_out |= {"features": int(options.width or 0)}
    outcome.facts |= {"autoencoder": _read_metadata(options.output_location)}
    return outcome


def _sweep(
    options: Options,
    wanted: "Sequence[tuple[str, Options]]",
    sources: "Mapping[str | None, ActivationSource]",
) -> Outcome:
    from engine.training.recipes.sae import Member, run_sweep

    members = [Member(name, _recipe(each, sources[each.hook]), _training(each)) for name, each in wanted]
    reports = run_sweep(
        members,
        options.output_location,
        overwrite=options.overwrite,
        address=options.address,
        progress=ProgressLine("train-sae"),
    )
    tokens = sum(report.tokens for report in reports.values())
    seconds = sum(report.seconds for report in reports.values())
    return Outcome(
        counts_out={
            "autoencoders": len(members),
            "features": sum(member.recipe.width for member in members),
            "steps": options.steps,
            "tokens": tokens,
        },
        throughput={"tokens_per_second": tokens / max(seconds, 1e-9)},
        facts={
            name: {
                "lineage": report.lineage_id,
                "first_step": report.first_step,
                "autoencoder": _read_metadata(options.output_location / name),
            }
            for name, report in reports.items()
        },
        did_work=any(report.did_work for report in reports.values()),
        peak_memory_bytes=max(report.peak_memory_bytes for report in reports.values()),
    )


def _dry_run(wanted: "Sequence[tuple[str, Options]]") -> Outcome:
    from engine.training.plan import H200, of_sae
    from engine.training.recipes.sae import SAELENS_NAMES

    plans = {}
    for name, each in wanted:
        d_in = each.d_in or source_of(each).width
        plan = of_sae(
            d_in=d_in,
            width=int(each.width or 0),
            k=each.k,
            training=_training(each),
            architecture=SAELENS_NAMES.get(each.arch, each.arch),
            source_tokens_per_second=each.source_rate,
            hardware=H200 if each.gpu_memory is None else H200.with_memory(each.gpu_memory * 1e9),
        )
        print(f"{name}: {plan.text()}" if name else plan.text())
        plans[name or "plan"] = plan
    for plan in plans.values():
        plan.require_fits()
    facts = {name: plan.as_json() for name, plan in plans.items()}
    return Outcome(counts_out={"plans": len(plans)}, facts={"dry_run": facts})


def _training(options: Options) -> "TrainingOptions":
    return options.training_options(
        batch=options.batch_tokens,
        lr=2e-4 * math.sqrt(16384 / int(options.width or 0)),
        decay="linear",
        decay_from=0.8,
        # The loss is a fraction of the variance: its gradients are small, those of rare features smallest.
        epsilon=6.25e-10,
    )


def _require_meant(options: Options) -> None:
    """Refuses what no run can be made of, before anything is opened."""
    if not options.width or options.width < 1:
        raise InputError(f"--width {options.width}: give the number of features, at least 1.")
    require_meant(options)
    for flag, share in (("anneal", options.anneal), ("sparsity-warmup", options.sparsity_warmup)):
        if not 0 <= share <= 1:
            raise InputError(f"--{flag} {share}: a share of the run, 0 to 1.")
    if not options.dry_run and (options.d_in or options.source_rate or options.gpu_memory):
        raise InputError("--d-in, --source-rate and --gpu-memory: belong to --dry-run.")


def _read_metadata(output: "Location") -> dict[str, Any]:
    """What cfg.json says of the autoencoder's training."""
    metadata: dict[str, Any] = json.loads(output.read("cfg.json"))["metadata"]
    return metadata


def _recipe(options: Options, source: "ActivationSource") -> "SparseRecipe":
    from engine.training.recipes.sae import SparseRecipe

    return SparseRecipe(
        source=source,
        architecture=options.arch,  # type: ignore[arg-type]
        width=int(options.width or 0),
        k=options.k,
        matryoshka_widths=_widths(options.matryoshka_widths),
        dead_after_tokens=_dead_tokens(options),
        aux_coefficient=options.aux_coefficient,
        sparsity_coefficient=options.sparsity_coefficient,
        sparsity_warmup_steps=round(options.sparsity_warmup * options.steps),
        anneal_steps=round(options.anneal * options.steps),
        init_seed=options.init_seed,
        outlier_norm=options.outlier_norm,
        gene_residual=options.gene_residual,
    )


def _dead_tokens(options: Options) -> int:
    share = options.steps * options.batch_tokens // 50
    return options.dead_tokens or max(min(10_000_000, share), options.batch_tokens)


def _widths(given: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in comma_separated(given or ""))
    except ValueError:
        raise InputError(f"--matryoshka-widths {given}: expected whole numbers, e.g. 1024,4096.") from None


def main(argv: Sequence[str] | None = None) -> int:
    return launch("train-sae", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
