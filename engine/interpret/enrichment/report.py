"""What an enrichment comes to, as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from engine.interpret.enrichment.rates import ALL_SOURCES

CHANCE_EXPLAINS = 0.5
"""Above this share of what was found, shuffled genes explain most of it."""


def report_page(facts: Mapping[str, Any], rates: pd.DataFrame) -> str:
    """Rates of the features and of each baseline, each with what shuffled gene labels give."""
    lines = [
        "# Enrichment",
        "",
        _tested(facts),
        "",
        _verdict(facts),
        "",
        "| subject | source | terms | significant | by chance | chance / found | features | by chance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(row) for row in rates.to_dict("records")]
    lines += ["", "## Features by kinds of evidence", "", "| evidence groups | features |", "|---|---|"]
    lines += [f"| {groups} | {count:,} |" for groups, count in facts["features_by_groups"].items()]
    return "\n".join([*lines, ""])


def _tested(facts: Mapping[str, Any]) -> str:
    n_terms, n_sources = sum(facts["sources"].values()), len(facts["sources"])
    return (
        f"{facts['n_features_tested']:,} of {facts['n_features']:,} features list enough genes. They were "
        f"tested against {n_terms:,} terms of {n_sources} sources: {facts['n_tests']:,} tests, all of them "
        f"counted in the correction. Background: {facts['n_background']:,} genes that could have been listed."
    )


def _verdict(facts: Mapping[str, Any]) -> str:
    ratio, drawn = facts["null_ratio"], facts["options"]["permutations"]
    if not drawn:
        return "No permutations were made: nothing says how much of this chance would find."
    if ratio is None:
        return "No pair is significant."
    if ratio > CHANCE_EXPLAINS:
        return (
            f"**Shuffled gene labels give {ratio:.0%} of the significant pairs: most of what was found says "
            "how well annotated the genes are, not what the features mean.**"
        )
    return (
        f"Gene labels shuffled {drawn} times among equally annotated, equally expressed genes give "
        f"{ratio:.1%} of the significant pairs."
    )


def _row(row: Mapping[Any, Any]) -> str:
    name = "**all**" if row["source"] == ALL_SOURCES else _cell(row["source"])
    return (
        f"| {_cell(row['subject'])} | {name} | {row['n_terms']:,} | {row['significant']:,} | "
        f"{_number(row['null_significant'])} | {_share(row['null_ratio'])} | "
        f"{row['features_with_term']:,} of {row['n_features']:,} | {_number(row['null_features'])} |"
    )


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|")


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.1f}"


def _share(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"
