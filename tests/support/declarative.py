"""Serve as KubeRay drives it, on a Ray of its own: ``python -m tests.support.declarative``.

A document goes in as KubeRay's REST call hands it to Serve's controller (``ServeDeploySchema``, then
``deploy_apps``: ray 2.60, ``dashboard/modules/serve/serve_head.py``); what Serve then says of the
application is what KubeRay copies into ``RayService.status``. The Ray offers the custom resources
of a worker pod for :class:`~fluxsampler_api.app_args.Placement`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from fluxsampler_api.app_args import Placement
from fluxsampler_api.serve_config import APPLICATION
from tests.support.child import child

RANKS = 4
FALLBACKS = 2
# A gateway that goes stays this long for load balancers to notice; Serve's 30 s are for those before HAProxy, and
# nothing here is before it.
SHORT_FAREWELL = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3"}


@dataclass
class Replicas:
    """One deployment as Serve describes it."""

    status: str
    message: str
    running: dict[str, int]
    """Processes of the running replicas by their replica's id."""


@dataclass
class DeclaredServe:
    """The running one: ``url`` answers HTTP."""

    url: str
    _input: IO[str] = field(repr=False)
    _output: IO[str] = field(repr=False)

    def deploy(self, document: dict[str, Any]) -> None:
        """Hand Serve a new document."""
        self._ask({"deploy": document})

    def application(self) -> dict[str, Any]:
        """What Serve says of our application."""
        details = self._ask({})
        found: dict[str, Any] = details["applications"].get(APPLICATION, {})
        return found

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self._input.write(json.dumps(question) + "\n")
        self._input.flush()
        answer: dict[str, Any] = json.loads(self._output.readline())
        return answer


def replicas(application: dict[str, Any], deployment: str) -> Replicas:
    """A deployment's; none of any while Serve builds the application."""
    said = application.get("deployments", {}).get(deployment)
    if said is None:
        return Replicas("", "", {})
    running = {one["replica_id"]: one["pid"] for one in said["replicas"] if one["state"] == "RUNNING"}
    return Replicas(said["status"], said["message"], running)


@contextmanager
def declared_serve(environment: dict[str, str] | None = None) -> Iterator[DeclaredServe]:
    """One that runs until the block ends."""
    with child("tests.support.declarative", environment=environment) as started:
        url = json.loads(started.output.readline() or "null")
        assert url is not None, f"Ray ended with {started.exit_code()}"
        yield DeclaredServe(url, started.input, started.output)


def main() -> None:
    """Answer each line of standard input with one line of JSON, until it ends."""
    from fluxsampler_cli.local_ray import LocalRay

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ray prints, too
    placement = Placement()
    offered = {placement.rank: RANKS, placement.fallback: FALLBACKS}
    with LocalRay.start("d", 80 << 20, resources=offered, environment=SHORT_FAREWELL) as local:
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        client = _get_global_client()
        assert client is not None
        print(json.dumps(local.url), file=answers)
        for line in sys.stdin:
            question = json.loads(line)
            if "deploy" in question:
                client.deploy_apps(ServeDeploySchema.model_validate(question["deploy"]))
            print(json.dumps(client.get_serve_details(), default=str), file=answers)


if __name__ == "__main__":
    main()
