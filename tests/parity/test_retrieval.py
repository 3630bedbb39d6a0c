"""Scores of an index and ranks of phrases against CellWhisperer's (shared/golden/cellwhisperer)."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from engine.retrieval.build import IndexOptions, Source, build
from engine.retrieval.phrases import build_bank, rank
from engine.retrieval.queries import mean_of_cells
from engine.retrieval.search import Searcher
from storage.locations import Location
from tests.parity.golden import assert_close
from tests.retrieval.inputs import write_embeddings

# Vectors of an index are float16.
TOLERANCE = 2e-3


@pytest.fixture
def golden(shared: Path) -> dict[str, np.ndarray]:
    found = np.load(shared / "golden" / "cellwhisperer" / "expected.npz")
    return {name: found[name] for name in found.files}


@pytest.fixture
def searcher(golden: dict[str, np.ndarray], tmp_path: Path) -> Searcher:
    cells_CU = golden["transcriptome_embeds"].astype(np.float32)
    obs = pd.DataFrame(
        {"half": np.arange(len(cells_CU)) % 2}, index=[f"c{row}" for row in range(len(cells_CU))]
    )
    write_embeddings(str(tmp_path / "embeddings"), cells_CU, obs)
    source = Source.open(str(tmp_path / "embeddings"), None, None)
    return Searcher(build(source, Location.of(tmp_path / "index"), IndexOptions(short_width=4))[0])


def test_scores_of_all_cells(golden: dict[str, np.ndarray], searcher: Searcher) -> None:
    expected_TC = golden["scores_avg_None_norm_None"]
    for text, expected_C in zip(golden["query_text_embeds"], expected_TC, strict=True):
        found_C = searcher.scores_by_cell(text.astype(np.float32)) * golden["logit_scale"]
        assert_close(torch.as_tensor(found_C), expected_C, TOLERANCE * float(golden["logit_scale"]))


def test_phrases_of_a_cell_and_of_a_group(
    golden: dict[str, np.ndarray], searcher: Searcher, tmp_path: Path
) -> None:
    texts_TU = torch.as_tensor(golden["query_text_embeds"].astype(np.float32))
    temperature = 1 / float(golden["logit_scale"])
    side = SimpleNamespace(embed_texts=lambda texts: texts_TU[[int(text) for text in texts]])
    texts = SimpleNamespace(model="golden", side=side, temperature=temperature)
    names = [str(number) for number in range(len(texts_TU))]
    bank, _ = build_bank({"all": names}, texts, Location.of(tmp_path / "bank"))  # type: ignore[arg-type]
    expected_TC = golden["scores_avg_None_norm_softmax"]
    for cell in range(expected_TC.shape[1]):
        overall, _ = rank(bank, mean_of_cells(searcher, f"row = {cell}").vector, len(names))
        found_T = np.empty(len(names))
        found_T[[int(ranked.term) for ranked in overall]] = [ranked.probability for ranked in overall]
        assert_close(torch.as_tensor(found_T), expected_TC[:, cell], 0.02)
        assert int(overall[0].term) == expected_TC[:, cell].argmax()
    # A group is the mean of its cells, not brought to length one.
    overall, _ = rank(bank, mean_of_cells(searcher, "half = 0").vector, 1)
    mean_U = golden["transcriptome_embeds"][::2].mean(axis=0)
    assert overall[0].score == pytest.approx((texts_TU.numpy() @ mean_U).max(), abs=TOLERANCE)
