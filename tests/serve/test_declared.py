"""Serve driven as KubeRay drives it: what changes in place, and what is said when a start fails."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fluxsampler_api.serve_config import serve_config
from fluxsampler_planner import app_args, plan
from tests.support.declarative import DeclaredServe, declared_serve, replicas
from tests.support.hub_server import Hub, serve_hub
from tests.support.model_folders import BUILTIN
from tests.support.waiting import until
from tests.unit.planner.samplers import tiny

IMAGES = "/v1/images/generations"
GATEWAY, PARALLEL, FALLBACK = "Gateway", "ParallelSampler", "FallbackSampler"
PATIENCE = 300.0
LOOK = 0.3  # seconds between two questions: Serve's controller answers them in the loop that does the work
TOKEN, PROBE = "a-users-token", "the operator's"

Document = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Holds the built-in model as a private repository."""
    with serve_hub("owner/private", BUILTIN) as server:
        server.token = "hf_right"
        yield server


@pytest.fixture(scope="module")
def serve(hub: Hub) -> Iterator[DeclaredServe]:
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": "hf_wrong",
        "FLUXSAMPLER_API_TOKEN": TOKEN,
        "FLUXSAMPLER_LOG_LEVEL": "WARNING",
    }
    with declared_serve(environment) as started:
        yield started


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """The document of the built-in model on gangs of two; ``changes`` of its spec, and the source in the pod."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def make(changes: dict[str, Any] | None = None, source: str | None = None, **own: Any) -> dict[str, Any]:
        sampler = tiny({"parallelism.gpusPerReplica": 2} | (changes or {}), ranks=4)
        args = app_args(sampler, plan(sampler), on_cluster=True, **own)
        model = args.model.model_copy(update={"cache_dir": cache, "source": source or args.model.source})
        return serve_config(args.model_copy(update={"model": model}))

    return make


class Changes:
    """Applies documents to one running application, and looks at what became of its replicas."""

    def __init__(self, serve: DeclaredServe, document: Document) -> None:
        self.serve, self._document = serve, document

    def apply(self, changes: dict[str, Any], *, gangs: int, fallbacks: int) -> None:
        """Change the spec of the built-in model on gangs of two."""
        self.deploy(self._document(changes), gangs=gangs, fallbacks=fallbacks)

    def deploy(self, document: dict[str, Any], *, gangs: int, fallbacks: int) -> None:
        """Until Serve has as many of both and the gateways know."""
        self.serve.deploy(document)

        def done() -> bool:
            found = self.serve.application()
            counts = tuple(len(replicas(found, name).running) for name in (PARALLEL, FALLBACK))
            return counts == (gangs, fallbacks) and found.get("status") == "RUNNING"

        until(done, PATIENCE, every=LOOK)

    def running(self, deployment: str) -> dict[str, int]:
        return replicas(self.serve.application(), deployment).running

    def ranks(self) -> set[int]:
        """Every process of every gang."""
        found = [psutil.Process(pid) for pid in self.running(PARALLEL).values()]
        return {child.pid for replica in found for child in replica.children(recursive=True)}


@pytest.fixture(scope="module")
def changes(serve: DeclaredServe, document: Document) -> Changes:
    """With one gang and one fallback that draw."""
    made = Changes(serve, document)
    made.apply({}, gangs=1, fallbacks=1)
    with httpx.Client(base_url=serve.url, timeout=120) as client:

        def both() -> bool:
            found = engines(client)
            return len(found) == 2 and all(one["ready"] for one in found.values())

        until(both, PATIENCE, every=LOOK)
    return made


@pytest.fixture
def client(serve: DeclaredServe) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serve.url, timeout=120) as opened:
        yield opened


def alive(pid: int) -> bool:
    """Whether that process runs; one that ended and is only not yet waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def engines(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/info").json().get("engines", {})
    return found


def engine(client: httpx.Client) -> str:
    """Which one draws now."""
    response = client.post(IMAGES, json={"prompt": "a red circle"})
    return str(response.headers.get("x-fluxsampler-engine"))


@contextmanager
def asked_all_the_time(url: str) -> Iterator[Counter[tuple[int, str]]]:
    """Draw one picture after the other until the block ends; counts answers by status and engine."""
    answers: Counter[tuple[int, str]] = Counter()
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            while not over.wait(0.2):
                response = client.post(IMAGES, json={"prompt": "a red circle", "size": "64x64", "steps": 2})
                answers[response.status_code, response.headers.get("x-fluxsampler-engine", "")] += 1

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join(120)


@pytest.mark.timeout(900)
def test_limits_change_in_place(changes: Changes, client: httpx.Client) -> None:
    before = {name: changes.running(name) for name in (GATEWAY, PARALLEL, FALLBACK)}, changes.ranks()
    assert len(changes.ranks()) >= 2
    with asked_all_the_time(changes.serve.url) as answers:
        changes.apply(
            {"serving.requestTimeoutSeconds": 77, "serving.maxQueuedRequests": 5}, gangs=1, fallbacks=1
        )
        until(lambda: client.get("/v1/info").json()["limits"]["request_timeout_seconds"] == 77, every=LOOK)
    late = client.post(IMAGES, json={"prompt": "a red circle", "timeout_seconds": 78})
    assert (late.status_code, late.json()["error"]["param"]) == (422, "timeout_seconds")
    assert (
        {name: changes.running(name) for name in (GATEWAY, PARALLEL, FALLBACK)},
        changes.ranks(),
    ) == before
    assert {status for status, _ in answers} == {200}


@pytest.mark.timeout(1200)
def test_replicas_change_in_place(changes: Changes, client: httpx.Client) -> None:
    """1 -> 2 -> 1 -> 0 -> 1, asked all the time; the fallback and the gateways are never touched."""
    gateways, fallback = changes.running(GATEWAY), changes.running(FALLBACK)
    first, ranks = changes.running(PARALLEL), changes.ranks()
    with asked_all_the_time(changes.serve.url) as answers:
        changes.apply({"replicas": 2}, gangs=2, fallbacks=1)
        assert first.items() <= changes.running(PARALLEL).items()
        assert ranks <= changes.ranks()
        changes.apply({"replicas": 1}, gangs=1, fallbacks=1)
        assert engine(client) == "parallel"
        changes.apply({"replicas": 0}, gangs=0, fallbacks=1)
        assert engine(client) == "fallback"
        assert engines(client).keys() == {"fallback"}
        assert client.get("/readyz").status_code == 200
        until(lambda: not any(alive(rank) for rank in ranks), every=LOOK)
        changes.apply({"replicas": 1}, gangs=1, fallbacks=1)
        until(lambda: engine(client) == "parallel", PATIENCE, every=LOOK)
    assert (changes.running(GATEWAY), changes.running(FALLBACK)) == (gateways, fallback)
    assert {status for status, _ in answers} == {200}


@pytest.mark.timeout(900)
def test_the_fallback_goes_and_comes_in_place(changes: Changes, client: httpx.Client) -> None:
    gateways, gang, ranks = changes.running(GATEWAY), changes.running(PARALLEL), changes.ranks()
    with asked_all_the_time(changes.serve.url) as answers:
        changes.apply({"fallback.enabled": False}, gangs=1, fallbacks=0)
        assert engines(client).keys() == {"parallel"}
        changes.apply({"fallback.enabled": True}, gangs=1, fallbacks=1)
        until(lambda: engines(client).get("fallback", {}).get("ready"), PATIENCE, every=LOOK)
    assert (changes.running(GATEWAY), changes.running(PARALLEL), changes.ranks()) == (gateways, gang, ranks)
    assert {status for status, _ in answers} == {200}


def failed(serve: DeclaredServe) -> str:
    """What the deployments of samplers say, once one has failed to start."""
    said: list[str] = []

    def asked() -> bool:
        found = serve.application().get("deployments", {})
        said[:] = [
            one["message"] for name, one in found.items() if name != GATEWAY and "Error:" in one["message"]
        ]
        return bool(said)

    until(asked, PATIENCE, every=LOOK)
    return said[0]


@pytest.mark.timeout(900)
def test_a_model_that_is_not_there(serve: DeclaredServe, document: Document) -> None:
    serve.deploy(document(source="file:///models/weights/none"))
    message = failed(serve)
    assert message.rstrip().endswith(
        "fluxsampler_serve.errors.ModelNotFound: the model folder /models/weights/none does not exist: "
        "correct spec.model.source or copy the model there"
    )
    until(lambda: serve.application().get("status") == "DEPLOY_FAILED", PATIENCE, every=LOOK)
    assert "ModelNotFound" in replicas(serve.application(), FALLBACK).message


@pytest.mark.timeout(900)
def test_a_hub_that_wants_another_token(serve: DeclaredServe, document: Document) -> None:
    serve.deploy(document(source="hf://owner/private"))
    message = failed(serve)
    assert "direct cause" not in message, "the errors of the HTTP client stay in the pod's log"
    last = message.rstrip().splitlines()[-1]
    assert last.startswith(
        "fluxsampler_serve.errors.ModelAuthFailed: the hub refused hf://owner/private (401)"
    )
    assert "spec.model.tokenSecretRef" in last
    assert "hf_wrong" not in message


@pytest.mark.timeout(900)
def test_a_damaged_model(serve: DeclaredServe, document: Document, tmp_path: Path) -> None:
    folder = shutil.copytree(BUILTIN, tmp_path / "damaged")
    (weights,) = (folder / "transformer").glob("*.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:1000])
    serve.deploy(document(source=f"file://{folder}"))
    assert f"fluxsampler_serve.errors.ModelCorrupt: {weights}" in failed(serve)


@pytest.fixture
def secured(document: Document) -> dict[str, Any]:
    """A document that wants a token. That is a new start: the gateways read it from their environment."""
    probe = sha256(PROBE.encode()).hexdigest()
    return document({"serving.authSecretRef": {"name": "t"}}, probe_token_sha256=probe)


@pytest.mark.timeout(900)
def test_a_good_document_after_failed_ones(
    changes: Changes, client: httpx.Client, secured: dict[str, Any]
) -> None:
    changes.deploy(secured, gangs=1, fallbacks=1)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    until(lambda: engine(client) == "parallel", PATIENCE, every=LOOK)


@pytest.mark.timeout(900)
def test_the_operators_token_beside_the_users(
    changes: Changes, client: httpx.Client, secured: dict[str, Any]
) -> None:
    changes.deploy(secured, gangs=1, fallbacks=1)

    def status(token: str | None) -> int:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return client.get("/v1/models", headers=headers).status_code

    probe = sha256(PROBE.encode()).hexdigest()
    until(lambda: status(None) == 401, PATIENCE, every=LOOK)
    assert [status(token) for token in (TOKEN, PROBE, "wrong", probe, None)] == [200, 200, 401, 401, 401]
