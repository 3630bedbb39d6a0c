"""The end of training: the predictor's directory, and how it does on what was held out, beside baselines.

Legend: G genes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from engine.models import bimamba
from engine.perturbation import baselines
from engine.perturbation.baselines import REPLICATE, Known
from engine.perturbation.differential import mean_of
from engine.perturbation.evaluation.context import Contender, Measured
from engine.perturbation.evaluation.page import render
from engine.perturbation.evaluation.score import Scored
from engine.perturbation.labels import dose
from engine.perturbation.normalise import log_normalised
from engine.perturbation.predictor import Facts, Predictor, expected
from engine.perturbation.prior import misfit
from engine.perturbation.rank_sum import Array
from engine.perturbation.screen import Group
from engine.training.recipes.perturbation.ensemble import left_out
from storage.ranged_tables import parquet

if TYPE_CHECKING:
    from engine.training.recipes.perturbation.measured import Measurements
    from engine.training.recipes.perturbation.recipe import PerturbationRecipe

METRICS, TABLE, PAGE = "metrics.json", "evaluation/held_out.parquet", "evaluation/index.html"
MODEL, PRIOR = "model", "prior"
STRENGTHS = tuple(number / 10 for number in range(11))


def publish(
    recipe: PerturbationRecipe, models: list[bimamba.PerturbationModel], directory: Path, seed: int
) -> None:
    """Write the model directory, metrics.json, and the table and page of held-out perturbations."""
    measured = recipe.source.measured()
    trained = recipe.split.training(measured.screen)
    facts = _facts(recipe, measured, trained, strength(recipe, models))
    predictor = Predictor(models, recipe.prior, facts, recipe.drugs)
    predictor.facts.prior_weights.update(vars(predictor.prior.weights))
    predictor.save(directory)
    held_out = recipe.split.validation(measured.screen)
    scored = held_out_metrics(predictor, measured, trained, held_out, seed)
    metrics = summary(scored.rows, recipe, len(trained), facts.strength)
    (directory / TABLE).parent.mkdir()
    (directory / TABLE).write_bytes(parquet(scored.rows))
    if held_out:
        shown = {
            "contenders": metrics["contenders"],
            "n_perturbations": metrics["n_held_out"],
            "baselines_know": scored.known,
            "warnings": scored.warnings,
        }
        page = render(
            shown, scored, measured.screen.genes, recipe.source.cells, "Held-out predictions", MODEL
        )
        (directory / PAGE).write_text(page)
    (directory / METRICS).write_text(json.dumps(metrics, indent=1))


def strength(recipe: PerturbationRecipe, models: Sequence[bimamba.PerturbationModel]) -> float:
    """How much of what members add to their start fits training targets that they have not seen, 0 to 1.

    Each training perturbation is predicted by the members it was left out for. 1 with a single member.
    """
    if len(models) == 1:
        return 1.0
    measured = recipe.source.measured()
    groups = recipe.split.training(measured.screen)
    screened = measured.screened(groups)
    start_PG, doses = recipe.start_PG, [dose(label) for _, label in groups]
    out_PM = left_out(screened.targets, len(models))
    added_PG, counted_P = np.zeros_like(start_PG), out_PM.sum(axis=1)
    for number, model in enumerate(models):
        for context in sorted(set(screened.contexts)):
            mine = np.flatnonzero(out_PM[:, number] & (np.array(screened.contexts) == context))
            if len(mine):
                targets = [screened.targets[int(p)] for p in mine]
                given = [doses[int(p)] for p in mine]
                mean_QG = expected(model, start_PG[mine], targets, context, recipe.drugs, given)
                added_PG[mine] += (mean_QG - start_PG[mine]) / counted_P[mine, None]
    begun_PG = start_PG - np.stack([measured.controls[context] for context in screened.contexts])
    tried = {share: misfit(begun_PG + share * added_PG, screened.delta_PG) for share in STRENGTHS}
    return min(tried, key=lambda share: tried[share])


def held_out_metrics(
    predictor: Predictor,
    measured: Measurements,
    trained: Sequence[Group],
    held_out: Sequence[Group],
    seed: int,
) -> Scored:
    """One row a held-out perturbation and contender: cell-eval's metrics of mean profiles."""
    screen, controls = measured.screen, measured.controls
    rng = np.random.default_rng(seed)
    tables, drawn = [], {}
    for context in sorted({context for context, _ in held_out}):
        groups = [group for group in held_out if group[0] == context]
        labels = [label for _, label in groups]
        targets = [screen.targets(label) for label in labels]
        named = context if predictor.models[0].config.contexts else None
        doses = [dose(label) for label in labels]
        effects = predictor.predict(controls[context], targets, named or context, doses)
        known = known_of(measured, trained, context)
        rows_of = {label: screen.target_rows(label) for label in labels}
        names = [MODEL, PRIOR, *baselines.NAMES, REPLICATE]
        contenders = {name: Contender(name, controls[context], controls[context], rows_of) for name in names}
        for number, group in enumerate(groups):
            real = Measured(len(screen.groups[group]), measured.means[group])
            drawn[group] = np.stack([real.mean_G - controls[context], effects.delta_QG[number]]).astype(
                np.float32
            )
            deltas: dict[str, Array | None] = {
                MODEL: effects.delta_QG[number],
                PRIOR: effects.prior_QG[number],
                **{
                    name: baselines.predict(name, known, targets[number], context) for name in baselines.NAMES
                },
            }
            for name, delta_G in deltas.items():
                if delta_G is not None:
                    mean_G = np.maximum(controls[context] + delta_G, 0)
                    contenders[name].add(group[1], real, Measured(real.n, mean_G), mean_G)
            halves = _halves(measured, group, rng)
            if halves is not None:
                first, second = halves
                contenders[REPLICATE].add(group[1], first, second, second.mean_G)
        tables += _rows(contenders, context)
    return Scored(pd.DataFrame(tables), {}, drawn, "the training perturbations", [])


def known_of(measured: Measurements, trained: Sequence[Group], context: str) -> Known:
    """What baselines may use: the training perturbations."""
    screened = measured.screened(trained)
    return Known(
        screened.delta_PG,
        screened.targets,
        screened.contexts,
        measured.controls[context],
        {gene: number for number, gene in enumerate(measured.screen.genes)},
    )


def summary(rows: pd.DataFrame, recipe: PerturbationRecipe, n_trained: int, kept: float) -> dict[str, Any]:
    """metrics.json: means over held-out perturbations of every contender."""
    contenders: Mapping[str, Any] = {}
    if len(rows):
        means = rows.drop(columns=["context", "perturbation"]).groupby("contender", sort=False).mean()
        contenders = {
            str(name): {key: float(value) for key, value in row.items() if np.isfinite(value)}
            for name, row in means.iterrows()
        }
    return {
        "contenders": contenders,
        "strength": kept,
        "split": recipe.split.by,
        "held_out": list(recipe.split.held_out),
        "n_training": n_trained,
        "n_held_out": int((rows["contender"] == MODEL).sum()) if len(rows) else 0,
    }


def _rows(contenders: Mapping[str, Contender], context: str) -> list[dict[str, Any]]:
    found = []
    for name, contender in contenders.items():
        contender.finish(None)
        found += [
            {"context": context, "perturbation": label, "contender": name, **values}
            for label, values in contender.rows.items()
        ]
    return found


def _halves(
    measured: Measurements, group: Group, rng: np.random.Generator
) -> tuple[Measured, Measured] | None:
    """Two halves of a perturbation's cells; None of fewer than four."""
    ((_, matrix_CG),) = measured.screen.stream([group])
    if matrix_CG.shape[0] < 4:
        return None
    logs_CG = log_normalised(matrix_CG)
    first, second = np.array_split(rng.permutation(logs_CG.shape[0]), 2)
    return Measured(len(first), mean_of(logs_CG[first])), Measured(len(second), mean_of(logs_CG[second]))


def _facts(
    recipe: PerturbationRecipe, measured: Measurements, trained: Sequence[Group], kept: float
) -> Facts:
    return Facts(
        control=measured.screen.control,
        contexts=sorted({context for context, _ in trained}),
        trained=sorted({label for _, label in trained}),
        held_out=list(recipe.split.held_out),
        split=recipe.split.by,
        members=recipe.members,
        uses_prior=recipe.uses_prior,
        head=recipe.config.head,
        strength=kept,
        cells=recipe.dataset_id,
        perturbation_column=recipe.source.perturbation,
        context_column=recipe.source.context,
        dose_column=recipe.source.dose,
    )
