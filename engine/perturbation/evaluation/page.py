"""The evaluation as one HTML file that opens offline: contenders side by side, a plot a perturbation."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.perturbation.evaluation.score import PREDICTION, Scored

COLUMNS = {
    "pearson_delta": "Pearson-delta",
    "mae": "MAE",
    "discrimination_score_l1": "PDS (L1)",
    "discrimination_score_cosine": "PDS (cosine)",
    "overlap_at_N": "DES",
    "precision_at_N": "DE precision",
    "pearson_edistance": "E-distance r",
    "clustering_agreement": "clusters",
    "pds_cosine": "vcc2026 PDS",
    "expr_mse_unbiased_capped_norm": "vcc2026 error",
    "direction_fidelity_yield": "direction yield",
    "direction_reach": "direction reach",
    "sig_jaccard": "DE Jaccard",
    "lfc_nmae": "fold-change error",
}
# Plots are for looking at: so many perturbations, and the genes that move in either.
_PLOTS, _GENES, _NAMED, _LOOKED_AT = 200, 300, 6, 20
_SIDE, _MARGIN = 220, 26
# Of the text in a plot.
_LETTER, _LINE = 5.4, 9.0

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #66707e; --line: #d8dde4; --dot: #2a6fb0;
  --paper: #fff; --target: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b2; --line: #333b47;
  --dot: #6db3f2; --paper: #14181f; --target: #fb923c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.own td { font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); }
svg { width: 100%; height: auto; } svg text { font-size: 9px; fill: var(--soft); }
circle { fill: var(--dot); fill-opacity: .55; } circle.target { fill: var(--target); fill-opacity: 1; }
line { stroke: var(--line); }
"""


def render(
    metrics: Mapping[str, Any],
    scored: Scored,
    genes: Sequence[str],
    real: str,
    predicted: str,
    own: str = PREDICTION,
) -> str:
    """The whole page; `own` is the contender that is drawn. All text is escaped: labels, genes and paths are
    the user's.
    """
    warnings = "".join(f"<li>{html.escape(text)}</li>" for text in metrics["warnings"])
    table = scored.rows[scored.rows["contender"] == own]
    rows: dict[Any, dict[Any, Any]] = {
        (row["context"], row["perturbation"]): row for row in table.to_dict("records")
    }
    shown = list(scored.effects.items())[:_PLOTS]
    plots = "".join(
        _plot(f"{label} in {context}" if context != "all" else label, effect, genes, rows[context, label])
        for (context, label), effect in shown
    )
    rest = f" The first {_PLOTS} are drawn." if len(scored.effects) > _PLOTS else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Perturbation evaluation</title><style>{_STYLE}</style></head><body>
<h1>Predicted perturbations against real cells</h1>
<p>{html.escape(predicted)} against {html.escape(real)}: {metrics["n_perturbations"]} perturbations.
Baselines know: {html.escape(metrics["baselines_know"])}.</p><ul>{warnings}</ul>
<h2>Beside what needs no model</h2>
<div class="scroll">{_contenders(metrics["contenders"], own)}</div>
<p>Means over perturbations, then over contexts. Lower is better for MAE and the two errors, higher for all
else. <em>replicate</em> is one half of the real cells against the other.</p>
<h2>Perturbation by perturbation</h2>
<p>Effect on each gene: real to the right, predicted upwards (differences of mean log1p expression); targets
in orange.{rest}</p>
<div class="plots">{plots}</div>
</body></html>
"""


def _contenders(contenders: Mapping[str, Mapping[str, float | None]], own: str) -> str:
    columns = {key: title for key, title in COLUMNS.items() if any(key in row for row in contenders.values())}
    head = "".join(f"<th>{title}</th>" for title in columns.values())
    body = "".join(
        f'<tr class="{"own" if name == own else ""}"><td>{html.escape(name)}</td>'
        + "".join(f"<td>{_number(row.get(key))}</td>" for key in columns)
        + "</tr>"
        for name, row in contenders.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plot(
    title: str, effect_2G: npt.NDArray[np.float32], genes: Sequence[str], row: Mapping[str, Any]
) -> str:
    """Scatter of predicted over real effects, inline SVG; each dot says which gene it is."""
    size_G = np.abs(effect_2G).max(axis=0)
    order = np.argsort(-size_G)[:_GENES]
    reach = float(size_G.max()) or 1.0
    targets = set(str(row["perturbation"]).split("+"))
    middle = _SIDE / 2
    dots: list[str] = []
    names: list[str] = []
    # Where something is written: the number of the axis first, then genes in the order of their size.
    written = [(_SIDE - _MARGIN - 5.0 * _LETTER, middle + 10)]
    for place, gene in enumerate(order.tolist()):
        real, predicted = float(effect_2G[0, gene]), float(effect_2G[1, gene])
        x, y = _place(real, reach), _SIDE - _place(predicted, reach)
        name = html.escape(genes[gene])
        kind = ' class="target"' if genes[gene] in targets else ""
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4"{kind}><title>{name}: real {real:+.3f}, '
            f"predicted {predicted:+.3f}</title></circle>"
        )
        if place < _LOOKED_AT and len(names) < _NAMED and _is_free(x + 4, y - 3, len(genes[gene]), written):
            written.append((x + 4, y - 3))
            names.append(f'<text x="{x + 4:.1f}" y="{y - 3:.1f}">{name}</text>')
    caption = (
        f"Pearson-delta {_number(row.get('pearson_delta'))}, MAE {_number(row.get('mae'))}, "
        f"DES {_number(row.get('overlap_at_N'))}; {int(row['n_real'])} cells"
    )
    return (
        f'<figure><svg viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{html.escape(title)}">'
        f'<line x1="{_MARGIN}" y1="{middle}" x2="{_SIDE - _MARGIN}" y2="{middle}"/>'
        f'<line x1="{middle}" y1="{_MARGIN}" x2="{middle}" y2="{_SIDE - _MARGIN}"/>'
        f'<line x1="{_MARGIN}" y1="{_SIDE - _MARGIN}" x2="{_SIDE - _MARGIN}" y2="{_MARGIN}" '
        f'stroke-dasharray="3"/><text x="{_SIDE - _MARGIN}" y="{middle + 10}" text-anchor="end">'
        f"{reach:+.2f}</text>{''.join(dots)}{''.join(names)}</svg>"
        f"<figcaption><strong>{html.escape(title)}</strong><br>{caption}</figcaption></figure>"
    )


def _place(value: float, reach: float) -> float:
    return _SIDE / 2 + value / reach * (_SIDE / 2 - _MARGIN)


def _is_free(x: float, y: float, n_letters: int, written: Sequence[tuple[float, float]]) -> bool:
    """Whether a name written from there is clear of what is written, each as long as the longest symbols."""
    return all(
        abs(y - other_y) > _LINE or x > other_x + 8 * _LETTER or x + n_letters * _LETTER < other_x
        for other_x, other_y in written
    )


def _number(value: Any) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"
