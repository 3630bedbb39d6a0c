"""Text queries: signs, weights and quotes; and what of a query is no sign."""

import pytest

from engine.retrieval.questions import Term, parse
from storage.errors import InputError


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("T cell", [("T cell", 1)]),
        ("  a sample of\n blood ", [("a sample of blood", 1)]),
        ("T cell +2*activated -naive", [("T cell", 1), ("activated", 2), ("naive", -1)]),
        ("T cell + activated - .5*naive B cell", [("T cell", 1), ("activated", 1), ("naive B cell", -0.5)]),
        ("B cells MINUS plasma cells", [("B cells", 1), ("plasma cells", -1)]),
        ("B cells PLUS plasma minus", [("B cells", 1), ("plasma minus", 1)]),
        ("-naive", [("naive", -1)]),
        ("3*T cell", [("T cell", 3)]),
        # Signs within words.
        ("CD4+ T cell", [("CD4+ T cell", 1)]),
        ("non-classical monocyte IFN- low", [("non-classical monocyte IFN- low", 1)]),
        ("5*", None),
        ("lineage 2*", None),
        # Quotes.
        ('"T cell" -"-negative MINUS 2*x"', [("T cell", 1), ("-negative MINUS 2*x", -1)]),
        ('the "IL-2 +" receptor', [("the IL-2 + receptor", 1)]),
        ('+2*"B cell"', [("B cell", 2)]),
    ],
)
def test_questions(text: str, terms: list[tuple[str, float]] | None) -> None:
    if terms is None:
        with pytest.raises(InputError, match="expected"):
            parse(text)
    else:
        assert parse(text) == tuple(Term(phrase, float(weight)) for phrase, weight in terms)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a phrase at character 1, found the end"),
        ("T cell MINUS", "expected a phrase at character 13, found the end"),
        ("T cell + -naive", "expected a phrase at character 10, found '-naive'"),
        ('T "cell', "expected a closing \" after this one at character 3, found '\"cell'"),
        ("T cell 2*naive", r"a sign before the weight, say \+2\*... at character 8"),
        ("T cell +0*naive", "expected a weight other than 0 at character 9"),
        ('""', "expected a phrase"),
        (" +x" * 17, "17 terms; at most 16"),
        ("x" * 5_000, "a query of 5,000 characters"),
    ],
)
def test_what_is_no_question(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)
