"""The Serve app on a Ray of its own, in a process of its own: ``python -m tests.support.live_service``.

Ray reads its settings when it is imported, and a test session has long imported it. Two applications
run: at ``/`` the built-in model on a gang of two ranks with a fallback, behind two open gateways; at
``/scripted`` engines that do what the prompt says, one request at a time, nobody waiting, a token
wanted. ``--default-proxy`` runs the second one only, without HAProxy. Prints its URL and ends when its
standard input does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.child import child

TOKEN = "a-token-of-the-tests"
TOKEN_ENV = "FLUXSAMPLER_TEST_TOKEN"
DEFAULT_PROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}


@contextmanager
def live_service(*options: str) -> Iterator[str]:
    """The URL of one that runs until the block ends."""
    with child("tests.support.live_service", *options) as started:
        for line in started.output:
            if line.startswith("url "):
                break
        else:
            raise AssertionError(f"the service ended with {started.exit_code()}")
        yield line.split()[1]


def scripted_app() -> Any:
    """Engines that do what the prompt says."""
    from fluxsampler_serve.app import compose
    from tests.support.prompted import PromptedFactory
    from tests.support.service import app_args

    args = app_args(
        gateway_replicas=1,
        max_ongoing_requests=1,
        max_queued_requests=0,
        max_body_bytes=1 << 16,
        auth_token_env=TOKEN_ENV,
    )
    return compose(args, PromptedFactory())


def tiny_app() -> Any:
    """The built-in model."""
    from fluxsampler_serve.app import build
    from tests.support.app_args import tiny_app_args

    return build(tiny_app_args().model_dump(mode="json"))


def main() -> None:
    from fluxsampler_cli.local_ray import LocalRay

    default_proxy = "--default-proxy" in sys.argv
    environment = {TOKEN_ENV: TOKEN} | (DEFAULT_PROXY if default_proxy else {})
    with LocalRay.start("t", 80 << 20, environment=environment) as local:
        from ray import serve

        apps = [serve.RunTarget(scripted_app(), name="scripted", route_prefix="/scripted")]
        if not default_proxy:
            apps.append(serve.RunTarget(tiny_app(), name="tiny", route_prefix="/"))
        serve.run_many(apps)
        print(f"url {local.url}", flush=True)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads the pipe from now on
        sys.stdin.read()


if __name__ == "__main__":
    main()
