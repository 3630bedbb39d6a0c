"""The API does what its own description says, for requests that schemathesis thinks of."""

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi import checks

from engine.serving.api import create_api
from engine.serving.doors import Doors

# Examples of each route; requests are the same in every run.
EXAMPLES = 6
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="session")
def described(full: Doors) -> schemathesis.BaseSchema:
    api: FastAPI = create_api(full)
    return schemathesis.openapi.from_asgi("/openapi.json", api)


def test_answers_are_as_described(described: schemathesis.BaseSchema) -> None:
    """Status, type and shape of each answer are in the description, and none is a 500."""
    asked: dict[str, int] = {}

    def ask(case: schemathesis.Case) -> None:
        asked[case.operation.label] = asked.get(case.operation.label, 0) + 1
        case.call_and_validate(checks=CHECKS)

    for found in described.get_all_operations():
        BOUNDED(given(case=found.ok().as_strategy())(ask))()
    assert len(asked) == described.statistic.operations.total
    assert sum(asked.values()) > 2 * len(asked)
