"""Captions by a language model: retries, checked replies, and a key that shows nowhere."""

from typing import Any

import pytest

from engine.captions import endpoint as endpoints
from engine.captions.endpoint import Endpoint, EndpointFailed, Secret
from engine.captions.writing import SCHEMA, good_captions, write_captions
from storage.errors import InputError
from tests.captions.language_model import KEY, Reply, caption_of, completion, good, language_model

RECORDS = [{"cell_type": f"cell type {number}", "tissue": "blood"} for number in range(5)]
EXPECTED = [caption_of(record) for record in RECORDS]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(endpoints.time, "sleep", waits.append)
    monkeypatch.setattr(Endpoint._retried, "__defaults__", (waits.append,))
    return waits


def endpoint(url: str, **others: Any) -> Endpoint:
    return Endpoint(url, "small-model", Secret(KEY), **others)


def test_records_are_sent_together_with_the_schema() -> None:
    with language_model() as model:
        assert write_captions(endpoint(model.url), RECORDS, together=2) == EXPECTED
    assert len(model.asked) == 3
    first = model.asked[0]
    assert (first["model"], first["temperature"]) == ("small-model", 0.0)
    assert first["response_format"]["json_schema"]["schema"] == SCHEMA
    assert set(model.keys) == {f"Bearer {KEY}"}


def test_what_is_wrong_with_an_answer_is_asked_again() -> None:
    def answer(number: int, records: list[dict[str, Any]]) -> Reply:
        if number == 0:
            return 200, {}, completion("Sure! Here are your captions:")
        if number == 1:
            captions: list[Any] = [{"id": record["id"], "caption": caption_of(record)} for record in records]
            captions[0]["caption"] = "short"
            captions[1]["gene"] = "CD19"
            captions.append({"id": 99, "caption": "a caption nobody asked for"})
            return 200, {}, completion({"captions": captions})
        return good(records)

    with language_model(answer) as model:
        assert write_captions(endpoint(model.url), RECORDS, together=3) == EXPECTED
    # Another seed each time, or the same mistake would come back.
    assert len({body["seed"] for body in model.asked}) > 1


def test_a_fence_around_the_answer_is_no_mistake() -> None:
    def answer(number: int, records: list[dict[str, Any]]) -> Reply:
        said = '{"captions": [{"id": 0, "caption": "B cells from human blood"}]}'
        return 200, {}, completion(f"```json\n{said}\n```")

    with language_model(answer) as model:
        assert write_captions(endpoint(model.url), RECORDS[:1]) == ["B cells from human blood"]


@pytest.mark.parametrize(
    ("answer", "usable"),
    [
        (None, {}),
        ({"captions": "text"}, {}),
        ({"captions": [{"id": True, "caption": "a caption of True"}]}, {}),
        ({"captions": [{"id": 1, "caption": "once upon a time"}, {"id": 1, "caption": "another one"}]}, {}),
        ({"captions": [{"id": 1, "caption": "x" * 501}]}, {}),
        ({"captions": [{"id": 1, "caption": "on two\n lines  here"}]}, {1: "on two lines here"}),
    ],
)
def test_only_captions_of_the_schema_are_used(answer: Any, usable: dict[int, str]) -> None:
    assert good_captions(answer, [0, 1]) == usable


def test_a_busy_endpoint_is_asked_again_when_it_says(no_waiting: list[float]) -> None:
    def answer(number: int, records: list[dict[str, Any]]) -> Reply:
        return (
            [(429, {"Retry-After": "7"}, "busy"), (503, {}, "starting")][number]
            if number < 2
            else good(records)
        )

    with language_model(answer) as model:
        assert write_captions(endpoint(model.url), RECORDS) == EXPECTED
    assert no_waiting == [7.0, 2.0]


def test_retries_end_and_the_key_is_not_shown() -> None:
    with language_model(lambda number, records: (500, {}, f"cannot use {KEY}")) as model:
        with pytest.raises(EndpointFailed, match=r"answered 500: cannot use \*\*\*, after 3 calls") as raised:
            write_captions(endpoint(model.url, retries=2), RECORDS)
        assert len(model.asked) == 3
    assert KEY not in str(raised.value)
    assert KEY not in repr(endpoint(model.url))
    with pytest.raises(EndpointFailed, match="cannot be reached"):
        write_captions(endpoint(model.url, retries=1), RECORDS)  # the server has gone


def test_a_refusal_for_good_is_not_repeated() -> None:
    with language_model(lambda number, records: (401, {}, f"bad key {KEY}")) as model:
        with pytest.raises(InputError, match=r"refused model 'small-model' \(401\): bad key \*\*\*"):
            write_captions(endpoint(model.url), RECORDS)
        assert len(model.asked) == 1


def test_a_model_that_never_answers_well_is_given_up() -> None:
    with (
        language_model(lambda number, records: (200, {}, completion({"captions": []}))) as model,
        pytest.raises(EndpointFailed, match=r"no usable caption for .*cell type 0.* and 4 more"),
    ):
        write_captions(endpoint(model.url, retries=1), RECORDS)


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "https://user:pass@host/v1"])
def test_addresses_that_cannot_be_meant_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="--endpoint"):
        Endpoint(address, "m")
