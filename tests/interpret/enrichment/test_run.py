"""The whole enrichment on Ray and in one process: the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.enrichment import study
from engine.interpret.enrichment.inputs import open_knowledge
from engine.interpret.enrichment.run import EnrichmentOptions, enrich
from storage.locations import Location
from tests.interpret.enrichment.example import write_features, write_gmt


@pytest.mark.usefixtures("ray_cluster")
def test_workers_and_one_process_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, gmt = write_features(tmp_path / "features"), write_gmt(tmp_path / "sets.gmt")
    knowledge = open_knowledge(None, [str(gmt)])
    options = EnrichmentOptions(top_genes=20, permutations=3)
    # Several shards of lists even here.
    monkeypatch.setattr(study, "SHARD_TESTS", 200)
    one, other = (
        enrich(str(features), knowledge, options, Location.of(tmp_path / name), use_ray=use_ray).snapshot
        for name, use_ray in (("here", False), ("workers", True))
    )
    assert one.dataset_id == other.dataset_id
    assert one.objects == other.objects
    monkeypatch.setattr(study, "SHARD_TESTS", 10**9)
    whole = enrich(str(features), knowledge, options, Location.of(tmp_path / "whole"), use_ray=False).snapshot
    assert whole.dataset_id == one.dataset_id
