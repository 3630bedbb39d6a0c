"""The report card of a joint model on real cells."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.evaluation import run
from engine.retrieval.evaluation.inputs import MeasuredCells, Reference, Texts
from engine.retrieval.evaluation.retrieval import by_class, by_instance
from engine.retrieval.evaluation.run import JointEvaluationOptions, evaluate, leaked, plan
from storage.errors import InputError, LineageMismatch
from storage.locations import Location
from tests.retrieval.blood import Blood

OPTIONS = JointEvaluationOptions("cell_type", "caption", ("a sample of {}",), draws=10)


def measured(blood: Blood, **others) -> tuple[AnnotationInputs, MeasuredCells]:
    inputs = AnnotationInputs.open(blood.store, blood.joint, None, label_column="cell_type")
    given = {"label": "cell_type", "caption": "caption", "group": None, "batch": None, "sample": None}
    cells = MeasuredCells.draw(inputs, inputs.embeddings(blood.embeddings), seed=0, **(given | others))
    return inputs, cells


@pytest.fixture(scope="module")
def card(blood: Blood, tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs, cells = measured(blood)
    output = tmp_path_factory.mktemp("card")
    dataset = plan(inputs, OPTIONS, "as given", None, Location.of(output))
    evaluate(dataset, inputs, cells, None, OPTIONS)
    return output


def test_the_numbers(card: Path) -> None:
    found = json.loads((card / "metrics.json").read_text())
    protocol = found["protocol"]
    assert protocol["n_cells"] == 299
    assert protocol["group"] == "donor"
    assert protocol["leaked_labels"] == 1
    assert "halves of the 5 values of donor" in protocol["split"]
    systems = found["baselines"]
    assert list(systems) == ["joint", "shuffled_captions", "majority", "marker_score", "pca_knn"]
    assert len({tuple(values) for values in systems.values()}) == 1
    assert systems["joint"]["top_1"] == found["zero_shot"]["top_1"] > systems["majority"]["top_1"] + 0.15
    assert systems["joint"]["top_1"] == systems["joint"]["cell_to_text_recall@1"]
    assert systems["shuffled_captions"]["top_1"] < systems["joint"]["top_1"] - 0.2
    assert systems["pca_knn"]["top_1"] > systems["majority"]["top_1"] + 0.2
    low, high = found["confidence_intervals"]["intervals"]["top_1"]
    assert found["confidence_intervals"]["drawn"] == "groups"
    assert low <= found["zero_shot"]["top_1"] <= high
    by_caption, shuffled = found["retrieval"]["class"], found["retrieval"]["class_shuffled_captions"]
    for direction in ("text_to_cell", "cell_to_text"):
        assert by_caption[direction]["recall@1"] > shuffled[direction]["recall@1"] + 0.1
    assert by_caption["text_to_cell"]["candidates"] == 299
    assert found["retrieval"]["instance"][0]["distinct_captions"] == 9
    assert 0 < found["calibration"]["ece"] < 1
    assert set(found["integration"]) == {"joint", "pca"}


def test_the_page_is_whole_and_offline(card: Path) -> None:
    page = (card / "index.html").read_text()

    class Tags(HTMLParser):
        seen: set[str] = set()  # noqa: RUF012

        def handle_starttag(self, tag, attrs) -> None:
            self.seen.add(tag)
            assert not {name for name, _ in attrs} & {"src", "href"}

    Tags().feed(page)
    assert {"svg", "table", "h2"} <= Tags.seen
    assert "script" not in Tags.seen
    assert "CD14+ monocyte" in page
    assert "prefers-color-scheme: dark" in page


def test_it_resumes_stage_by_stage_and_keeps_to_its_lineage(
    blood: Blood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, cells = measured(blood)
    done: list[str] = []

    def stage(name: str, fails: bool = False):
        def made(subject) -> dict:
            if fails:
                raise RuntimeError("killed")
            done.append(name)
            return {"value": np.float32("nan")}

        return made

    monkeypatch.setattr(run, "STAGES", {"one": stage("one"), "two": stage("two", fails=True)})
    monkeypatch.setattr(run, "render", lambda metrics: "page")
    location = Location.of(tmp_path / "card")
    with pytest.raises(RuntimeError, match="killed"):
        evaluate(plan(inputs, OPTIONS, "", None, location), inputs, cells, None, OPTIONS)
    monkeypatch.setattr(run, "STAGES", {"one": stage("one"), "two": stage("two")})
    result = evaluate(plan(inputs, OPTIONS, "", None, location), inputs, cells, None, OPTIONS)
    assert done == ["one", "two"]
    assert result.metrics["one"] == {"value": None}
    with pytest.raises(LineageMismatch):
        plan(inputs, OPTIONS, "another", None, location)


def test_instances_share_the_rank_of_their_caption(blood: Blood) -> None:
    inputs, cells = measured(blood)
    texts = Texts.of(inputs, cells, OPTIONS.templates)
    (found,) = by_instance(cells, texts.caption_PU, cells.caption_C, 0, (1_000, 50_000))
    assert found["candidates"] == 299
    # Nine captions for 299 cells: none is a cell's own, and ties count against it.
    assert found["ceiling_recall@1"] == found["cell_to_text"]["recall@1"] == 0
    own = np.arange(len(cells))
    told_apart = by_instance(cells, cells.e_CU, own, 0, (1_000,))[0]
    assert told_apart["text_to_cell"]["recall@1"] == told_apart["cell_to_text"]["recall@1"] == 1
    assert by_class(cells, cells.e_CU, own, 0)["text_to_cell"]["recall@1"] == 1


def test_reference_cells_and_labels(blood: Blood) -> None:
    inputs, cells = measured(blood, sample=50)
    assert len(cells) == 50
    reference = Reference.open(
        blood.store, "cell_type", inputs.labels, inputs.store.genes.index, sample=None, seed=0
    )
    np.testing.assert_allclose(
        reference.expression[cells.rows].toarray(), cells.expression.toarray(), atol=1e-6
    )
    with pytest.raises(InputError, match="no obs column colour"):
        Reference.open(blood.store, "colour", inputs.labels, inputs.store.genes.index, None, 0)
    with pytest.raises(InputError, match="--caption colour"):
        measured(blood, caption="colour")
    assert leaked(cells) == 1
