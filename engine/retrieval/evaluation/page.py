"""The report card as one HTML file: figures with what they mean, offline, light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from engine.retrieval.evaluation.plots import bars, curves, reliability

NAMES = {
    "joint": "this model",
    "shuffled_captions": "names shuffled",
    "majority": "commonest label",
    "marker_score": "marker genes",
    "pca_knn": "PCA neighbours",
}
SHOWN = {
    "top_1": "right label first",
    "top_5": "among the first five",
    "macro_f1": "macro F1",
    "macro_auroc_raw": "macro AUROC, raw scores",
    "macro_auroc_softmax": "macro AUROC, soft-maxed first (torchmetrics, CellWhisperer)",
    "text_to_cell_recall@1": "label → cell, class R@1",
    "text_to_cell_recall@10": "label → cell, class R@10",
    "cell_to_text_recall@1": "cell → label, R@1",
    "cell_to_text_recall@10": "cell → label, R@10",
}


def render(metrics: Mapping[str, Any]) -> str:
    """The whole page. All names are escaped: labels come from users' files."""
    sections = [
        _section("Naming cells without training labels", _naming(metrics)),
        _section("Finding cells by texts, and texts by cells", _retrieval(metrics)),
        _section("Beside systems that read no text", _baselines(metrics)),
        _section("Can its confidence be trusted?", _calibration(metrics)),
        _section("Does the space keep labels together and mix batches?", _integration(metrics)),
        _section("Names of gene sets against their genes", _gene_sets(metrics)),
        _section("Each label", _labels(metrics)),
    ]
    folder = resources.files(__package__)
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        style=(folder / "page.css").read_text(encoding="utf-8"),
        protocol=_protocol(metrics["protocol"]),
        sections="\n".join(section for section in sections if section),
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def _protocol(protocol: Mapping[str, Any]) -> str:
    asked = f"{protocol['n_labels_present']} present, {protocol['n_labels_asked']} asked"
    words = f"{protocol['leaked_labels']:.0%} hold the words of a label they stand for"
    rows = [
        ("Cells", f"{protocol['n_cells']:,} of {protocol['n_cells_of_store']:,} in {protocol['store']}"),
        ("Model", f"{protocol['joint']} ({protocol['model'][:12]}), {protocol['width']} dimensions"),
        ("Labels", f"{protocol['label']}: {asked}, in the words of {', '.join(protocol['templates'])}"),
        ("Captions", f"{protocol['caption']}: {protocol['n_captions']:,} distinct; {words}"),
        ("Split", protocol["split"]),
        ("Ties", protocol["ties"]),
        ("Groups, batches", f"{protocol['group'] or 'none'}, {protocol['batch'] or 'none'}"),
    ]
    return "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows)


def _naming(metrics: Mapping[str, Any]) -> str:
    found, intervals = metrics["zero_shot"], metrics["confidence_intervals"]
    known = intervals["intervals"]
    rows = []
    for name in ("top_1", "top_5", "macro_f1", "macro_auroc_raw", "macro_auroc_softmax"):
        interval = known.get(name)
        between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"
        rows.append([SHOWN[name], _figure(found[name]), between])
    note = f"95 % intervals by drawing {intervals['drawn']} with replacement."
    if intervals["drawn"] == "cells":
        note += " Too few groups to draw: what differs between donors is not in them."
    return _table(["", "value", "interval"], rows) + f"<p class='note'>{note}</p>"


def _retrieval(metrics: Mapping[str, Any]) -> str:
    found = metrics["retrieval"]
    series, plots = [("captions", "class"), ("captions shuffled", "class_shuffled_captions")], []
    for direction, title in (("text_to_cell", "caption → cell"), ("cell_to_text", "cell → caption")):
        lines = [(name, _points(found[key][direction])) for name, key in series]
        counted = found["class"][direction]
        plots.append(
            f"<figure><figcaption>{title}, by class: {counted['queries']:,} queries, "
            f"{counted['candidates']:,} candidates</figcaption>{curves(lines, title)}</figure>"
        )
    rows = [
        [
            f"{entry['candidates']:,}",
            *[
                f"{entry[direction]['recall@1']:.3f} / {entry[direction]['recall@10']:.3f} / "
                f"{entry[direction]['median_rank']:,.0f}"
                for direction in ("text_to_cell", "cell_to_text")
            ],
            f"{entry['ceiling_recall@1']:.3f}",
        ]
        for entry in found["instance"]
    ]
    head = ["candidates", "caption → cell: R@1 / R@10 / median rank", "cell → caption", "ceiling R@1"]
    note = (
        "By class, any candidate of the query's label is an answer. By instance only its own pair is: cells "
        "that share a caption cannot be told apart by it, and the ceiling says how many do not."
    )
    return f"<div class='plots'>{''.join(plots)}</div>{_table(head, rows)}<p class='note'>{note}</p>"


def _baselines(metrics: Mapping[str, Any]) -> str:
    systems, known = metrics["baselines"], metrics["confidence_intervals"]["intervals"]
    plots = []
    for measure in ("top_1", "macro_f1", "text_to_cell_recall@1"):
        rows = [
            (NAMES.get(name, name), found[measure], _interval(known, measure) if name == "joint" else None)
            for name, found in systems.items()
        ]
        drawn = bars(rows, SHOWN[measure])
        plots.append(f"<figure><figcaption>{SHOWN[measure]}</figcaption>{drawn}</figure>")
    head = ["", *[NAMES.get(name, name) for name in systems]]
    rows_shown = [
        [shown, *[_figure(found[measure]) for found in systems.values()]] for measure, shown in SHOWN.items()
    ]
    note = (
        f"Here the text is the label itself. {metrics['protocol']['split'].capitalize()}; they have seen "
        "labelled cells of this kind. Ties count against every system."
    )
    said = f"<p class='note'>{html.escape(note)}</p>"
    return f"<div class='plots'>{''.join(plots)}</div>{_table(head, rows_shown)}{said}"


def _calibration(metrics: Mapping[str, Any]) -> str:
    found = metrics["calibration"]
    rows = [
        [
            f"{row['confidence']:.2f}",
            f"{row['named']:.1%}",
            "–" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
        ]
        for row in found["thresholds"]
    ]
    plot = reliability(found["reliability"], "share right over confidence")
    table = _table(["confidence", "cells named", "of them right"], rows)
    return (
        f"<div class='plots'><figure><figcaption>Expected calibration error {found['ece']:.3f}</figcaption>"
        f"{plot}</figure><figure><figcaption>Naming only above a confidence (<code>annotate "
        f"--min-confidence</code>)</figcaption>{table}</figure></div>"
    )


def _integration(metrics: Mapping[str, Any]) -> str:
    found = metrics["integration"]
    measures = ["nmi", "ari", "asw_label", "avg_bio", "graph_connectivity", "asw_batch"]
    shown = [name for name in measures if any(name in entry for entry in found.values())]
    rows = [
        [{"joint": "this model", "pca": "PCA of expression"}[system], *[_figure(entry.get(n)) for n in shown]]
        for system, entry in found.items()
    ]
    return _table(["", *shown], rows)


def _gene_sets(metrics: Mapping[str, Any]) -> str:
    libraries = metrics["gene_sets"].get("libraries", {})
    measures = ["n_terms", "pearson", "spearman", "pearson_over_terms", "ks_share"]
    rows = [[html.escape(name), *[_figure(entry[m]) for m in measures]] for name, entry in libraries.items()]
    return _table(["library", *measures], rows) if rows else ""


def _labels(metrics: Mapping[str, Any]) -> str:
    rows = [
        [
            html.escape(row["label"]),
            f"{row['n_cells']:,.0f}",
            *[_figure(row[name]) for name in ("accuracy", "precision", "f1", "auroc")],
        ]
        for row in sorted(metrics["zero_shot"]["labels"], key=lambda row: -row["n_cells"])
    ]
    return _table(["label", "cells", "found", "precision", "F1", "AUROC"], rows)


def _points(found: Mapping[str, float]) -> list[tuple[float, float]]:
    return [(k, found[f"recall@{k}"]) for k in (1, 5, 10, 50)]


def _interval(known: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    found = known.get(name)
    return None if found is None or None in found else (found[0], found[1])


def _figure(value: float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    first = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{value}</td>' for value in row)}</tr>" for row in rows)
    return f"<div class='table'><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>"
