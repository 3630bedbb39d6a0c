"""Texts against real blood cells: questions, calibration, verdicts, doubts and phrases."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from engine.models import joint
from engine.models.errors import ModelError
from engine.retrieval.answers import cell_rows, phrase_rows
from engine.retrieval.calibration import Calibration, Judged, calibrate, held_out_error, isotonic, verdict_of
from engine.retrieval.doubts import doubts
from engine.retrieval.phrases import build_bank, nearest_of, rank
from engine.retrieval.queries import mean_of_cells
from engine.retrieval.search import Searcher
from engine.retrieval.texts import Texts
from storage.embeddings import Embeddings
from storage.errors import InputError, LineageMismatch
from storage.index import VectorIndex, versions
from storage.locations import Location
from storage.phrases import PhraseBank
from tests.retrieval.joint_index import index_of, stored, text_directory, trained_joint

LIBRARIES = {
    "types": ["B cell", "monocyte", "platelet", "natural killer cell"],
    "states": ["naive", "activated"],
}


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts")
    cells = anndata.read_h5ad(shared / "data" / "pbmc3k.h5ad")[::4].copy()
    trained_joint(cells, path)
    index_of(stored(cells, path), path / "joint", path)
    return path


@pytest.fixture(scope="module")
def index(folder: Path) -> VectorIndex:
    return VectorIndex.open(str(folder / "index"))


@pytest.fixture(scope="module")
def texts(index: VectorIndex) -> Texts:
    return Texts.of_index(index)


def copy_of(index: VectorIndex, place: Path) -> VectorIndex:
    """For what makes a next version: there is one after each."""
    shutil.copytree(str(index.snapshot.location), place)
    return VectorIndex.open(str(place))


@pytest.fixture(scope="module")
def calibrated(index: VectorIndex, texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    return calibrate(copy_of(index, tmp_path_factory.mktemp("calibrated") / "index"), texts, "cell_type")[0]


@pytest.fixture(scope="module")
def bank(folder: Path, texts: Texts) -> PhraseBank:
    return build_bank(LIBRARIES, texts, Location.of(folder / "bank"))[0]


def cells_of(folder: Path) -> tuple[np.ndarray, pd.DataFrame]:
    embeddings = Embeddings.open(str(folder / "embeddings"))
    return embeddings.X, embeddings.obs


def test_the_index_knows_its_joint_model(folder: Path, index: VectorIndex) -> None:
    known = index.facts["joint"]
    assert known["path"] == str(folder / "joint")
    assert known["model"] == index.facts["model"]["model"] == index.snapshot.lineage["model"]["model"]
    assert (known["width"], known["dims"]) == (32, [16, 32])
    assert known["temperature"] == pytest.approx(0.07, abs=0.03)
    assert len({known["model"], known["cell_tower"], known["text_tower"]}) == 3


def test_a_text_finds_its_cells(folder: Path, index: VectorIndex, texts: Texts) -> None:
    question = texts.question("B cell")
    found = Searcher(index).search(question.vector, 20)
    e_CU, obs = cells_of(folder)
    model = joint.load(folder / "joint")
    expected = e_CU @ model.embed_texts(["B cell"])[0].numpy()
    np.testing.assert_allclose(found.score, np.sort(np.nan_to_num(expected, nan=-9))[::-1][:20], atol=2e-3)
    assert (obs["cell_type"].iloc[found.cell] == "B cell").mean() > 0.8
    assert (question.is_plain, question.length) == (True, pytest.approx(1))


def test_sums_are_sums_of_scores(folder: Path, index: VectorIndex, texts: Texts) -> None:
    """As CellWhisperer scores `A MINUS B`: the difference of the two scores."""
    question = texts.question("monocyte MINUS B cell +.5*platelet")
    found = Searcher(index).search(question.vector, 10).scaled(question.length)
    of_each = cells_of(folder)[0] @ texts.vectors(["monocyte", "B cell", "platelet"]).T
    np.testing.assert_allclose(found.score, (of_each @ [1, -1, 0.5])[found.cell], atol=3e-3)
    assert not question.is_plain
    asked = texts.question("monocyte", "celltype")
    assert asked.texts == ("A sample of monocyte from a healthy individual",)
    with pytest.raises(InputError, match="terms cancel out"):
        texts.question("T cell -T cell")
    with pytest.raises(ModelError, match="template 'a sample'"):
        texts.question("T cell", "a sample")


def test_scores_of_all_cells(folder: Path, index: VectorIndex, texts: Texts, tmp_path: Path) -> None:
    question = texts.question("platelet")
    smaller = versions.delete(copy_of(index, tmp_path / "index"), np.array([3, 5]))
    scores = Searcher(smaller).scores_by_cell(question.vector)
    expected = cells_of(folder)[0] @ question.vector
    gone = np.isin(np.arange(len(expected)), [3, 5]) | np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(scores), gone)
    np.testing.assert_allclose(scores[~gone], expected[~gone], atol=2e-3)


def test_another_model_is_refused(folder: Path, index: VectorIndex, tmp_path: Path) -> None:
    other = joint.create(folder / "joint" / "cell", text_directory(tmp_path / "bert"), width=32)
    joint.save(other, tmp_path / "joint")
    with pytest.raises(InputError, match="must be embedded by the same joint model"):
        Texts.of_index(index, str(tmp_path / "joint"))


def test_where_the_model_lies_can_be_said_later(folder: Path, index: VectorIndex) -> None:
    """Of embeddings that were indexed without naming their joint model."""
    without = VectorIndex(index.snapshot)
    without.facts = {**index.facts, "joint": {"path": None, "model": index.facts["joint"]["model"]}}
    with pytest.raises(InputError, match="does not say where its joint model lies"):
        Texts.of_index(without)
    assert Texts.of_index(without, str(folder / "joint")).width == 32
    without.facts = {**index.facts, "joint": None}
    with pytest.raises(InputError, match="embedded by an encoder without texts"):
        Texts.of_index(without)


def test_a_calibration_says_how_often_a_score_is_right(
    index: VectorIndex, calibrated: VectorIndex, texts: Texts
) -> None:
    table = calibrated.facts["calibration"]
    assert (calibrated.version, table["n_cells"], table["column"]) == (2, index.n_cells, "cell_type")
    assert 4 <= table["kinds"] <= 9
    assert table["probability"] == sorted(table["probability"])
    assert table["score"] == sorted(set(table["score"]))
    assert 0 <= table["held_out_error"] < 0.35
    assert abs(table["null_mean"]) < 0.3 < table["match_from"]
    assert calibrate(calibrated, texts, "cell_type") == (calibrated, False)
    before, after = (made.facts["shortlist"]["recalls"] for made in (index, calibrated))
    assert before.keys() == after.keys()
    assert all(after[length] <= before[length] for length in before)
    calibration, _ = Calibration.of_index(calibrated)
    assert calibration is not None
    searcher = Searcher(calibrated)
    verdicts = {}
    for text in ("B cell", "liver"):
        found = searcher.search(texts.question(text).vector, 5)
        verdicts[text] = [row["verdict"] for row in cell_rows(text, found, calibrated, calibration)]
    assert "none" not in verdicts["B cell"]
    assert verdicts["liver"] == ["none"] * 5


def test_no_verdict_without_a_calibration_that_holds(
    index: VectorIndex, calibrated: VectorIndex, texts: Texts, tmp_path: Path
) -> None:
    plain = texts.question("B cell")
    assert "has no calibration" in Calibration.of_question(index, plain, None)[1]
    assert "not of sums" in Calibration.of_question(calibrated, texts.question("-B cell"), None)[1]
    assert "inner products" in Calibration.of_question(calibrated, plain, None, "dot")[1]
    assert "made with no template" in Calibration.of_question(calibrated, plain, "celltype")[1]
    smaller = versions.delete(copy_of(calibrated, tmp_path / "index"), np.arange(200))
    assert "holds" in Calibration.of_question(smaller, plain, None)[1]
    with pytest.raises(InputError, match=r"--calibrate kind: no such column; the index has name, cell_type"):
        calibrate(index, texts, "kind")
    with pytest.raises(InputError, match="1 kinds of at least 10 cells"):
        calibrate(index, texts, "tissue")


def test_isotonic_regression() -> None:
    score = np.array([3.0, 1.0, 2.0, 4.0, 5.0, 5.0])
    right = np.array([False, False, True, True, True, False])
    knots, share = isotonic(score, right, np.ones(6))
    np.testing.assert_allclose(
        np.interp([0, 1, 2, 3, 4, 5, 9], knots, share), [0, 0, 0.5, 0.5, 2 / 3, 2 / 3, 2 / 3]
    )
    weighted = isotonic(np.array([1.0, 1.0]), np.array([True, False]), np.array([3.0, 1.0]))
    assert (weighted[0].tolist(), weighted[1].tolist()) == ([1.0], [0.75])
    assert [verdict_of(p) for p in (0.9, 0.8, 0.5, 0.49)] == ["match", "match", "review", "none"]
    generator = np.random.default_rng(0)
    p = generator.random(4_000)
    told = Judged(p, generator.random(4_000) < p, np.arange(4_000) % 40, np.ones(4_000))
    assert held_out_error(told) < 0.05
    shifted = Judged(p, (generator.random(4_000) < p) ^ (told.kind % 10 == 3), told.kind, told.weight)
    assert held_out_error(shifted) > held_out_error(told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("T 细胞 肝脏", "80% of the letters are not Latin"),
        ("Zellen aus der Leber", "this looks German (aus, der, zellen)"),
        ("lymphoid xyz", "of 2 word pieces are unknown"),
        ("cell " * 200, "only the beginning of 'cell cell"),
    ],
)
def test_doubtful_queries(texts: Texts, text: str, message: str) -> None:
    assert message in " ".join(doubts(texts.question(text), texts))


@pytest.mark.parametrize("text", ["natural killer cells of the blood", "T cell +2*activated -memory"])
def test_queries_without_a_doubt(texts: Texts, text: str) -> None:
    assert doubts(texts.question(text), texts) == []


def test_what_no_phrase_of_a_bank_is_like_is_doubtful(texts: Texts, bank: PhraseBank, tmp_path: Path) -> None:
    assert bank.nearest is None  # six phrases tell nothing
    assert doubts(texts.question("liver"), texts, bank) == []
    kinds = ["t", "b", "cd4", "cd8", "naive", "memory", "natural", "killer"]
    large = {"all": [f"{first} {second} cell" for first in kinds for second in kinds]}
    known = build_bank(large, texts, Location.of(tmp_path / "bank"))[0]
    assert known.nearest is not None
    assert doubts(texts.question("memory t cell"), texts, known) == []
    assert "unlike all 64 phrases" in doubts(texts.question("liver plasma sample"), texts, known)[0]


def test_phrases_of_cells(folder: Path, index: VectorIndex, texts: Texts, bank: PhraseBank) -> None:
    query = mean_of_cells(Searcher(index), "cell_type = 'B cell'")
    overall, by_library = rank(bank, query.vector, 3)
    e_CU, obs = cells_of(folder)
    mean = np.nanmean(e_CU[(obs["cell_type"] == "B cell").to_numpy()], axis=0)
    scores = texts.vectors([term for terms in LIBRARIES.values() for term in terms]) @ mean
    shares = np.exp(scores / texts.temperature)
    assert (overall[0].term, overall[0].library, overall[0].place) == ("B cell", "types", 1)
    assert [ranked.score for ranked in overall] == pytest.approx(np.sort(scores)[::-1][:3], abs=2e-3)
    assert overall[0].probability == pytest.approx(shares.max() / shares.sum(), abs=1e-2)
    assert {library: len(ranks) for library, ranks in by_library.items()} == {"states": 2, "types": 3}
    rows, libraries = phrase_rows("q", overall, by_library)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert libraries["states"][1]["rank"] == 2
    only, _ = rank(bank, query.vector, 3, "library == 'states'")
    assert {ranked.library for ranked in only} == {"states"}
    for where, message in (("libary = 'x'", "a bank has no libary"), ("term = 'x'", "no phrase of")):
        with pytest.raises(InputError, match=message):
            rank(bank, query.vector, 3, where)


def test_a_bank_is_made_once(folder: Path, texts: Texts, bank: PhraseBank) -> None:
    place = Location.of(folder / "bank")
    again, did_work = build_bank(LIBRARIES, texts, place)
    assert not did_work
    assert again.table["term"].to_pylist() == [term for terms in LIBRARIES.values() for term in terms]
    np.testing.assert_allclose(np.linalg.norm(again.vectors, axis=1), 1, atol=1e-6)
    with pytest.raises(LineageMismatch):
        build_bank(LIBRARIES, texts, place, template="tissue")
    with pytest.raises(InputError, match="no term"):
        build_bank({}, texts, place)
    assert nearest_of(np.ones((80, 4), np.float32)) is None
