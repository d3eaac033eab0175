"""What a real API server says about a FluxSampler: a dry run over HTTP, since a kubectl for each of many costs more than the answer."""

from __future__ import annotations

import json
from typing import Any

from tools.cluster.api import Api
from tools.cluster.errors import ApiFailure

from fluxsampler_api.sampler import GROUP, PLURAL, VERSION

# Unknown fields are refused and not dropped, as kubectl asks for.
_PATH = f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}?dryRun=All&fieldValidation=Strict"


def refusal(api: Api, document: dict[str, Any]) -> str | None:
    """The server's words against ``document``; None where it takes it.

    Raises:
        ApiFailure: it did not judge (no such kind yet, no right).
    """
    try:
        api.call("POST", _PATH, document)
    except ApiFailure as error:
        if error.status not in (400, 422):
            raise
        return str(json.loads(error.answer)["message"])
    return None
