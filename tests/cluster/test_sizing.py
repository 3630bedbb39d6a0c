"""The page of sizes is what the command makes of the reports, and its numbers are the planner's."""

from __future__ import annotations

import pytest

from cluster.sizing import AUTOENCODERS, SAE_BATCH, encoders, main, page, rates, rates_of
from engine.training.options import TrainingOptions
from engine.training.plan import of_sae
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "sizing.md"
REPORTS = REPOSITORY / "docs" / "benchmarks"


def test_nothing_on_the_page_was_typed():
    # Its own rates, not those of today's reports: a benchmark may run again without anybody reading sizes.
    text = PAGE.read_text()
    assert page(rates_of(text)) == text


def test_the_rates_come_from_reports_that_are_there():
    found = rates(REPORTS)
    assert [rate.name for rate in found] == [rate.name for rate in rates_of(PAGE.read_text())]
    assert all(rate.value > 0 for rate in found)
    assumed = [rate.name for rate in found if rate.source.startswith("assumed")]
    assert assumed == ([] if (REPORTS / "gpu.json").exists() else ["utilisation"])


def test_flops_of_a_cell():
    # 12 blocks: four products of 512 x 512, two of 512 x 2048, and two of every token with every other.
    by_name = {encoder.name: encoder for encoder in encoders()}
    linear = 2 * 1024 * (4 * 512 * 512 + 2 * 512 * 2048)
    assert by_name["Tahoe-x1 70m"].flops_per_cell == 12 * (linear + 2 * 2 * 1024 * 1024 * 512)


def test_a_line_is_what_the_planner_says():
    d_in, width, k, tokens, gpus = AUTOENCODERS[1]
    training = TrainingOptions(
        steps=int(tokens // SAE_BATCH), batch=SAE_BATCH, workers=gpus, feature_parallel=8, zero=1,
        precision="bf16",
    )  # fmt: skip
    plan = of_sae(d_in=d_in, width=width, k=k, training=training)
    cells = [cell.strip() for cell in _line(f"{d_in:,} x {width:,}").split("|")]
    assert cells[4:7] == [f"{plan.memory_bytes / 1e9:,.1f}", f"{plan.hours:,.2f}", f"{8 * plan.hours:,.1f}"]


def _line(start: str) -> str:
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {start}"))
    return line


def test_the_command_prints_the_page(capsys: pytest.CaptureFixture[str]):
    assert main([str(REPORTS)]) == 0
    assert capsys.readouterr().out == page(rates(REPORTS))
    assert main([]) == 2
