"""The API under generated requests, valid and not, made from its own OpenAPI document: no 500, no surprise.

Fake engines behind the real application on a real HTTP server; the same examples in every run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import ignored_auth, not_a_server_error, positive_data_acceptance

from tests.support.live_gateway import gateway
from tests.support.service import app_args

TOKEN_ENV = "FXS_FUZZ_TOKEN"
TOKEN = "a-token"
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
EXAMPLES = {
    ("POST /v1/images/generations", POSITIVE): 100,
    ("POST /v1/images/generations", NEGATIVE): 150,
    ("GET /v1/models", POSITIVE): 3,
    ("GET /v1/models/{model_id}", POSITIVE): 40,
    ("GET /v1/info", POSITIVE): 3,
    ("GET /healthz", POSITIVE): 3,
    ("GET /readyz", POSITIVE): 3,
}
"""Every operation of the document; only a body can be wrong."""

# Which fields fit together, and which sizes a plan can draw, is no schema's matter; that every route
# wants the token is tested in tests/unit/serve/test_gateway.py (the check sends this header along).
NOT_CHECKED = [positive_data_acceptance, ignored_auth]


@pytest.fixture(scope="module")
def document() -> Iterator[schemathesis.BaseSchema]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_ENV, TOKEN)
        with gateway(app_args(auth_token_env=TOKEN_ENV)) as url:
            yield schemathesis.openapi.from_url(f"{url}openapi.json")


def operations(document: schemathesis.BaseSchema) -> dict[str, schemathesis.APIOperation]:
    return {operation.ok().label: operation.ok() for operation in document.get_all_operations()}


def test_every_operation_is_fuzzed(document: schemathesis.BaseSchema) -> None:
    assert set(operations(document)) == {label for label, _ in EXAMPLES}


@pytest.mark.parametrize(("label", "mode"), EXAMPLES)
def test_every_answer_is_one_that_the_document_promises(
    document: schemathesis.BaseSchema, label: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=EXAMPLES[label, mode],
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operations(document)[label].as_strategy(generation_mode=mode))
    def answers(case: schemathesis.Case) -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        response = case.call(headers=headers)
        # A valid deadline may be one that nobody can keep: 504 is then the answer that the document promises.
        wanted = case.body.get("timeout_seconds") if isinstance(case.body, dict) else None
        late = [not_a_server_error] if response.status_code == 504 and wanted is not None else []
        case.validate_response(
            response,
            excluded_checks=NOT_CHECKED + late,
            headers=headers,
            transport_kwargs={"headers": dict(headers)},
        )

    answers()


def test_a_deadline_that_nobody_can_keep_is_a_promised_504(document: schemathesis.BaseSchema) -> None:
    operation = operations(document)["POST /v1/images/generations"]
    case = operation.Case(
        body={"prompt": "a red circle", "timeout_seconds": 5e-324}, media_type="application/json"
    )
    headers = {"authorization": f"Bearer {TOKEN}"}
    response = case.call(headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    case.validate_response(response, excluded_checks=[*NOT_CHECKED, not_a_server_error], headers=headers)
