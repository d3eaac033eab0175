"""What do HTTP, Serve and our own code cost around an engine that takes no time?

One request of 64x64 at concurrency 1 against an engine that returns a ready picture, which the app
guards, encodes and answers as it always does; beside it a bare two-hop Serve echo (FastAPI, handle,
second deployment) that takes and returns as many bytes. Both run at once in HAProxy mode, through
Serve's default proxy, and without Serve in one uvicorn process; rounds are interleaved, ratios are
taken within a round. `python -m benchmarks.overhead [--json] [--quick]`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fluxsampler_api.app_args import AppArgs, StartArgs
    from fluxsampler_serve.engines.protocol import (
        Cancel,
        Engine,
        EngineName,
        ProgressCallback,
        Sample,
        SampleRequest,
    )

Mode = Literal["haproxy", "default_proxy", "uvicorn"]
MODES: tuple[Mode, ...] = ("haproxy", "default_proxy", "uvicorn")
BODY = json.dumps({"prompt": "a red circle", "seed": 1, "steps": 1, "size": "64x64"}).encode()
OURS, ECHO = "/v1/images/generations", "/echo/"
TURN = 25
GOAL_MS, GOAL_RATIO = 3.0, 1.5
DEFAULT_PROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
STOP_SECONDS = 60.0


def run(quick: bool = False) -> dict[str, Any]:
    """Milliseconds at p50 of each mode and path (median and spread over rounds), and the ratios."""
    rounds, requests = (3, 50) if quick else (12, 150)
    p50: dict[str, list[float]] = {f"{mode} {path}": [] for mode in MODES for path in ("ours", "echo")}
    with ExitStack() as stack:
        targets: dict[str, http.client.HTTPConnection] = {}
        for mode in MODES:
            address = urlsplit(stack.enter_context(_served(mode)))
            for path in ("ours", "echo"):
                connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
                stack.callback(connection.close)
                targets[f"{mode} {path}"] = connection
        _connect(targets["haproxy ours"])
        size = len(_post(targets["haproxy ours"], OURS))
        for name, connection in targets.items():
            _times(connection, name, size, 60)
        for _ in range(rounds):
            spent: dict[str, list[float]] = {name: [] for name in targets}
            # In short turns: what else the machine does then falls on all of them alike.
            for _ in range(requests // TURN):
                for name, connection in targets.items():
                    spent[name] += _times(connection, name, size, TURN)
            for name, values in spent.items():
                p50[name].append(median(values) * 1e3)
    ratios = {
        mode: _spread(
            [ours / echo for ours, echo in zip(p50[f"{mode} ours"], p50[f"{mode} echo"], strict=True)]
        )
        for mode in MODES
    }
    times = {name: _spread(values) for name, values in p50.items()}
    ours, ratio = times["haproxy ours"]["median"], ratios["haproxy"]["median"]
    return {
        "request_bytes": len(BODY),
        "response_bytes": size,
        "rounds": rounds,
        "requests_per_round": requests,
        "p50_ms": times,
        "ratio_to_echo": ratios,
        "summary": [
            ("ours, HAProxy mode, p50", f"{ours:.2f} ms", f"<= {GOAL_MS:g} ms", ours <= GOAL_MS),
            ("ours / two-hop echo, HAProxy mode", f"{ratio:.2f}", f"<= {GOAL_RATIO:g}", ratio <= GOAL_RATIO),
            *((name, f"{time_['median']:.2f} ms", "", None) for name, time_ in times.items()),
        ],
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def _times(connection: http.client.HTTPConnection, name: str, size: int, requests: int) -> list[float]:
    """Seconds of each request."""
    path = OURS if name.endswith("ours") else f"{ECHO}?bytes={size}"
    _connect(connection)  # the last turn may be long ago, and servers close idle connections
    spent = []
    for _ in range(requests):
        start = time.perf_counter()
        _post(connection, path)
        spent.append(time.perf_counter() - start)
    return spent


def _connect(connection: http.client.HTTPConnection) -> None:
    connection.close()
    connection.connect()
    # http.client sends head and body apart: Nagle's delay would be all that is measured.
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _post(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("POST", path, BODY, {"content-type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {content[:300]!r}")
    return content


@contextmanager
def _served(mode: Mode) -> Iterator[str]:
    """A process of its own (Ray reads its settings at import) that serves both apps; its URL."""
    command = [sys.executable, "-m", "benchmarks.overhead", "--serve", mode]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            for line in process.stdout or ():
                if line.startswith("url "):
                    yield line.split()[1]
                    break
            else:
                raise RuntimeError(f"the {mode} server did not start")
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            finally:
                process.kill()


@dataclass(frozen=True, slots=True)
class ReadyFactory:
    """Builds engines that take no time."""

    def __call__(self, args: StartArgs, name: EngineName) -> Engine:  # noqa: ARG002 (the face of a factory)
        from fluxsampler_serve.engines.fake import FakeEngine

        class ReadyEngine(FakeEngine):
            """Draws once, and gives it away again and again."""

            ready: Sample | None = None

            def sample(self, request: SampleRequest, progress: ProgressCallback, cancel: Cancel) -> Sample:
                if self.ready is None:
                    self.ready = super().sample(request, progress, cancel)
                return self.ready

        return ReadyEngine(name)


def _echo(call: Any) -> Any:
    """A FastAPI app that hands the body on and returns what comes back."""
    from fastapi import FastAPI, Request
    from starlette.responses import Response

    app = FastAPI()

    async def echo(request: Request) -> Response:
        answer = await call(await request.body(), int(request.query_params["bytes"]))
        return Response(answer, media_type="application/json")

    app.add_route(ECHO, echo, methods=["POST"])
    app.add_route("/", echo, methods=["POST"])
    return app


def _args() -> AppArgs:
    """A gang alone behind one gateway; the engine is a stand-in, so its layout does not matter."""
    from tests.support.app_args import tiny_app_args

    from fluxsampler_api.app_args import ServingArgs

    serving = ServingArgs(
        gateway_replicas=1, max_ongoing_requests=8, max_queued_requests=8, request_timeout_seconds=60
    )
    return tiny_app_args(fallback_replicas=0, serving=serving)


def _serve_with_ray(mode: Mode) -> None:
    from fluxsampler_cli.local_ray import LocalRay

    with LocalRay.start("o", 80 << 20, environment=DEFAULT_PROXY if mode == "default_proxy" else {}) as local:
        from ray import serve

        from fluxsampler_api.serve_config import SERVE_LOGS
        from fluxsampler_serve.app import compose

        class Second:
            def __init__(self) -> None:
                self.answer = b""

            async def draw(self, body: bytes, size: int) -> bytes:  # noqa: ARG002 (the payload)
                if len(self.answer) != size:
                    self.answer = bytes(size)
                return self.answer

        class First:
            def __init__(self, second: Any) -> None:
                self.made = _echo(second.draw.remote)

            def __serve_build_asgi_app__(self) -> Any:
                return self.made

        bare = {"logging_config": SERVE_LOGS, "ray_actor_options": {"num_cpus": 0}}
        second = serve.deployment(Second, **bare).bind()
        first = serve.deployment(serve.ingress()(First), **bare).bind(second)
        serve.run_many(
            [
                serve.RunTarget(first, name="echo", route_prefix=ECHO.rstrip("/")),
                serve.RunTarget(compose(_args(), ReadyFactory()), name="ours", route_prefix="/"),
            ]
        )
        _say(local.url)
        sys.stdin.read()


def _say(url: str) -> None:
    """Tell the parent, who reads no further: what is logged from now on must not fill the pipe."""
    print(f"url {url}", flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _serve_with_uvicorn() -> None:
    import asyncio
    import threading

    import uvicorn

    from fluxsampler_serve.clients import LocalClient
    from fluxsampler_serve.gateway.deployment import compose
    from fluxsampler_serve.host import EngineHost
    from fluxsampler_serve.metrics import GatewayMetrics
    from fluxsampler_serve.picture import facts_of

    async def back(_: bytes, size: int) -> bytes:
        return bytes(size)

    async def serve() -> None:
        args = _args()
        host = EngineHost(ReadyFactory()(args, "parallel"), facts_of(args, "parallel"))
        await host.start()
        ours = compose(args, LocalClient("parallel", host), None, GatewayMetrics(), answer_id=True)
        echo = _echo(back)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await (echo if scope["path"] == ECHO else ours)(scope, receive, send)

        # With the protocol named asyncio switches Nagle's algorithm off; socket.create_server leaves it at 0.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(app, log_level="error", lifespan="off", access_log=False)
        server = uvicorn.Server(config)

        def wait() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=wait, daemon=True).start()
        _say(f"http://127.0.0.1:{listener.getsockname()[1]}")
        await server.serve(sockets=[listener])
        host.close()

    asyncio.run(serve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "uvicorn":
        _serve_with_uvicorn()
    elif options.serve is not None:
        _serve_with_ray(options.serve)
    else:
        result = run(quick=options.quick)
        if options.json:
            print(json.dumps(result, indent=2))
        else:
            for what, value, goal, _ in result["summary"]:
                print(f"{what:40} {value:>12}  {goal}")


if __name__ == "__main__":
    main()
