"""Names, probabilities and abstention; scores and ranks as CellWhisperer's."""

from pathlib import Path

import numpy as np
import torch

from engine.models import joint
from engine.retrieval.annotation.vocabulary import Term
from engine.retrieval.annotation.zero_shot import ZeroShot, rank_terms, softmax, standardised, text_directions
from tests.retrieval.blood import Blood


def test_scores_are_cellwhisperers(shared: Path) -> None:
    golden = np.load(shared / "golden" / "cellwhisperer" / "expected.npz")
    names = tuple(f"text {number}" for number in range(len(golden["query_text_embeds"])))
    labels = ZeroShot(names, golden["query_text_embeds"], float(golden["logit_scale"]))
    named = labels.name(golden["transcriptome_embeds"])
    np.testing.assert_allclose(named.score_CL.T, golden["scores_avg_None_norm_None"], atol=1e-4)
    np.testing.assert_allclose(softmax(named.score_CL).T, golden["scores_avg_None_norm_softmax"], atol=1e-4)
    np.testing.assert_array_equal(named.best_C, golden["scores_avg_None_norm_None"].argmax(0))
    # Its z-scores are over the texts of each cell, with the population's standard deviation.
    z_CT = np.stack([standardised(row) for row in named.score_CL])
    np.testing.assert_allclose(z_CT.T, golden["scores_avg_None_norm_zscore"], atol=1e-3)


def test_terms_are_ranked_within_libraries_above_the_mean_of_all() -> None:
    libraries = {name: [Term(t, (t,)) for t in terms] for name, terms in {"x": "abc", "y": "de"}.items()}
    score_L = np.array([1.0, 5.0, 3.0, 9.0, -8.0])
    ranked = rank_terms(score_L, libraries, shown=2)
    z = (score_L - score_L.mean()) / score_L.std()
    assert [(library, [name for name, _ in terms]) for library, terms in ranked] == [
        ("y", ["d"]),
        ("x", ["b", "c"]),
    ]
    np.testing.assert_allclose([ranked[0][1][0][1], ranked[1][1][0][1]], [z[3], z[1]])
    assert rank_terms(np.ones(5), libraries) == []


def test_when_cells_are_named() -> None:
    directions = np.eye(3, dtype=np.float32)
    cells = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [np.nan] * 3, [-1, -0.5, -0.9]], np.float32)
    named = ZeroShot(("a", "b", "c"), directions, scale=10.0).name(cells)
    assert list(named.best_C) == [0, 0, -1, 1]
    assert list(named.is_named_C) == [True, False, False, True]
    assert named.confidence_C[1] == np.float32(1 / 3)
    assert np.isnan(named.confidence_C[2])
    # However much better than the others, a label may still be unlike the cell.
    strict = ZeroShot(("a", "b", "c"), directions, scale=10.0, min_cosine=0.0).name(cells)
    assert list(strict.is_named_C) == [True, False, False, False]


def test_templates_and_ways_to_say_it_are_averaged(blood: Blood) -> None:
    side = joint.load_text_side(blood.joint)
    terms = [Term("B cell", ("B cell", "B cells")), Term("platelet", ("platelet",))]
    found = text_directions(side, terms, ("{}", "a sample of {}"))
    texts = ["B cell", "a sample of B cell", "B cells", "a sample of B cells"]
    expected = torch.nn.functional.normalize(side.embed_texts(texts).mean(0), dim=0).numpy()
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    cut = text_directions(side, terms[1:], ("{}",), 16)[0]
    whole = side.embed_texts(["platelet"]).numpy()[0, :16]
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole), atol=1e-6)
