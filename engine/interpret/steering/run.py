"""Steering the cells of a store: look at some of them for units and controls, then stream all of them.

survey (one task, some cells) -> design: doses and controls in activations -> effects of every cell
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from engine import ray_session
from engine.interpret.inputs import EncodedInputs
from engine.interpret.steering.activity import (
    Activity,
    Survey,
    TabledActivity,
    label_directions,
    survey,
)
from engine.interpret.steering.design import Design, Experiment, Kind, Mode, target_genes, variants_of
from engine.interpret.steering.edits import Edit, Unit
from engine.interpret.steering.product import KIND, EffectProduct
from engine.interpret.steering.reading import open_reading, require_readable
from engine.models import Tokens
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.replicas import EncoderSpec, load_encoder
from engine.streaming.run import Encoding, Progress, encode
from storage.commits import Dataset
from storage.errors import InputError
from storage.feature_states import planned_lineage
from storage.features import FeatureTables
from storage.locations import Location

SURVEY_BLOCKS = 16
"""Surveyed cells are read in so many runs spread over the store, since stores are often sorted by type."""


@dataclass(frozen=True)
class SurveyRequest:
    """How many cells are looked at, and the layer and pool of their embeddings (None: the model's own)."""

    cells: int = 512
    layer: int | None = None
    pool: str | None = None


@dataclass(frozen=True)
class Request:
    """What is asked of a steering run; with cells, model and autoencoder it decides the design.

    separately: every edit is an experiment of its own; else all are made together. targets, on_genes: gene
    ids or symbols; without targets the `n_targets` genes that the edited features fire on most are taken.
    hide_targets: see `Design`. on_genes: edits reach tokens of these genes only; None for all. survey: the
    look at some cells for units, controls and label directions.
    """

    edits: tuple[Edit, ...]
    doses: tuple[float, ...] = (1.0,)
    controls: tuple[Kind, ...] = ("random_feature", "noise", "wrong_sign")
    n_random: int = 1
    unit: Unit = field(default_factory=Unit)
    mode: Mode = "delta"
    separately: bool = False
    targets: tuple[str, ...] | None = None
    n_targets: int = 10
    hide_targets: bool = False
    on_genes: tuple[str, ...] | None = None
    survey: SurveyRequest = field(default_factory=SurveyRequest)


def steer_cells(
    inputs: EncodedInputs,
    request: Request,
    output: Location,
    *,
    recipe: Recipe,
    workers: Workers,
    tables: FeatureTables | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> Encoding:
    """Write the effect tables of every cell to `output`.

    recipe.batch_tokens: budget of all versions of the cells of a batch together. tables: of the same
    autoencoder, for units and controls in place of the survey.
    Raises InputError before anything is written when a feature, gene or table does not fit.
    """
    require_readable(inputs)
    asked = _as_json(request, inputs, tables)
    _require_features(request, inputs)
    design = None if overwrite else planned_design(output, asked)
    complete = design is not None and Dataset.open(output).is_complete
    unmeasured = design is None and tables is None
    found = None
    if unmeasured or (inputs.label is not None and not complete):
        with ray_session.connect(workers.address):
            found = survey_on_ray(inputs, request.survey, recipe)
    design = design or design_of(inputs, request, _activity(inputs, tables, found), recipe.seed)
    product = EffectProduct(
        inputs.sae_path,
        inputs.sae_fingerprint,
        asked,
        design,
        inputs.label.labels if inputs.label else (),
        label_directions(found) if found else np.zeros((0, inputs.stream.model.d_model), np.float32),
    )
    share = max(recipe.batch_tokens // len(design.variants), 1)
    return encode(
        inputs.stream,
        product,
        output,
        recipe=replace(recipe, batch_tokens=share),
        workers=workers,
        overwrite=overwrite,
        report=report,
    )


def token_ids(inputs: EncodedInputs, names: Sequence[str], flag: str) -> tuple[int, ...]:
    """Token ids of genes given by id or symbol. Raises InputError naming those the model does not know."""
    genes = inputs.genes[inputs.genes["class"] == "gene"]
    known: dict[str, int] = {}
    for column in ("gene_name", "gene_id"):
        known |= dict(zip(genes[column].astype(str), genes.index.astype(int), strict=True))
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"--{flag}: the model knows no gene {', '.join(missing[:5])}.")
    return tuple(dict.fromkeys(known[name] for name in names))


def _activity(inputs: EncodedInputs, tables: FeatureTables | None, found: Survey | None) -> Activity:
    """From tables where they were given, else from the survey."""
    if tables is not None:
        return TabledActivity(tables, inputs.n_features)
    if found is None:
        raise ValueError("neither tables nor a survey tell how features fire")
    return found.activity


def _as_json(request: Request, inputs: EncodedInputs, tables: FeatureTables | None) -> dict[str, Any]:
    if tables is not None and tables.lineage.get("sae") != inputs.sae_fingerprint:
        raise InputError(
            f"--features: those tables are of the autoencoder {tables.lineage.get('sae')}, {inputs.sae_path} "
            f"is {inputs.sae_fingerprint}; give the tables made with this autoencoder."
        )
    body = asdict(request) | {
        "label": inputs.label.name if inputs.label else None,
        "features": tables.dataset_id if tables else None,
    }
    plain: dict[str, Any] = json.loads(json.dumps(body))
    return plain


def planned_design(output: Location, asked: Mapping[str, Any]) -> Design | None:
    """The design of a run that was begun for the same request: a survey elsewhere may differ in last bits."""
    planned = planned_lineage(output)
    if planned is None or KIND not in planned or planned[KIND]["request"] != asked:
        return None
    return Design.from_json(planned[KIND]["design"])


def _require_features(request: Request, inputs: EncodedInputs) -> None:
    beyond = [edit.feature for edit in request.edits if edit.feature >= inputs.n_features]
    if beyond:
        raise InputError(
            f"--edits: feature {beyond[0]} does not exist; {inputs.sae_path} has 0 to "
            f"{inputs.n_features - 1}."
        )
    for names, flag in ((request.targets, "targets"), (request.on_genes, "on-genes")):
        token_ids(inputs, names or (), flag)


def design_of(inputs: EncodedInputs, request: Request, activity: Activity, seed: int) -> Design:
    groups = [(edit,) for edit in request.edits] if request.separately else [request.edits]
    experiments = tuple(
        Experiment(
            edits,
            target_genes(edits, activity, request.n_targets)
            if request.targets is None
            else token_ids(inputs, request.targets, "targets"),
        )
        for edits in groups
    )
    variants = variants_of(
        experiments,
        activity,
        doses=request.doses,
        controls=request.controls,
        n_random=request.n_random,
        unit=request.unit,
        mode=request.mode,
        seed=seed,
        token_ids=None if request.on_genes is None else token_ids(inputs, request.on_genes, "on-genes"),
    )
    model = inputs.stream.model
    layer, pool = model.layer(request.survey.layer), request.survey.pool or model.default_pool
    return Design(inputs.hook, request.mode, layer, pool, seed, experiments, variants, request.hide_targets)


def survey_on_ray(inputs: EncodedInputs, request: SurveyRequest, recipe: Recipe) -> Survey:
    """`survey_store` where an encoder has room. Called inside a Ray session."""
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(survey_store)
    found: Survey = ray.get(task.remote(inputs, request, recipe, "cuda" if gpus else "cpu"))
    return found


def survey_store(inputs: EncodedInputs, request: SurveyRequest, recipe: Recipe, device: str) -> Survey:
    """Surveys cells from all over the store."""
    model = inputs.stream.model
    encoder = load_encoder(EncoderSpec(model.path, recipe.precision, recipe.batch_tokens, 1, device))
    tokenise = inputs.stream.tokeniser(recipe.max_tokens, recipe.seed)
    spans = survey_spans(inputs.n_cells, request.cells)
    tokens = Tokens.concatenate([tokenise.tokens(inputs.store.read(*span)) for span in spans])
    rows = np.concatenate([np.arange(*span) for span in spans])
    label = inputs.label
    return survey(
        encoder,
        open_reading(encoder, inputs.sae_path, inputs.sae_fingerprint),
        tokens,
        inputs.hook,
        layer_hook=model.hook_of(model.layer(request.layer)),
        pool=request.pool or model.default_pool,
        batch_tokens=recipe.batch_tokens,
        label_C=None if label is None else label.code_C[rows],
        n_labels=0 if label is None else len(label.labels),
    )


def survey_spans(n_cells: int, wanted: int) -> list[tuple[int, int]]:
    """Runs of cells [start, stop) that are spread over the store and hold `wanted` of them together."""
    wanted = min(wanted, n_cells)
    n_blocks = min(SURVEY_BLOCKS, wanted)
    sizes = np.diff(np.arange(n_blocks + 1) * wanted // n_blocks)
    starts = np.arange(n_blocks) * n_cells // n_blocks
    return [(int(start), int(start + size)) for start, size in zip(starts, sizes, strict=True)]
