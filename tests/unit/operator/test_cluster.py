"""The cluster module over real HTTP, against a server that answers as a test says."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client
from kubernetes.config import ConfigException

from fluxsampler_operator import cluster as module
from fluxsampler_operator.answers import error_of
from fluxsampler_operator.cluster import (
    APPLIED_ANNOTATION,
    LEASES,
    NODES,
    PODS,
    RAY_SERVICES,
    SAMPLERS,
    Cluster,
)
from fluxsampler_operator.errors import (
    ClusterUnavailable,
    Conflict,
    Forbidden,
    KindMissing,
    NotFound,
    NotLeading,
    NotOurs,
    OperatorError,
    Permanent,
    Refused,
    Retryable,
    WebhookFailed,
)
from fluxsampler_operator.manifest import SAMPLER_LABEL

Answer = tuple[int, Any]
Asked = tuple[str, str, Any]


class Server:
    """Answers requests in order of ``answers`` (the last one again and again) and lists them."""

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[Asked], Answer]] = [(200, {})]
        self.asked: list[Asked] = []
        self.content_types: list[str] = []
        self.headers: dict[str, str] = {}
        self.url = ""

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        chosen = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return chosen(asked) if callable(chosen) else chosen


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            made.content_types.append(self.headers.get("Content-Type") or "")
            code, answer = made.answer((self.command, self.path, body))
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(code)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  (names of the standard library)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the standard library's name)
            """Be quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    made.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield made
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def cluster(server: Server) -> Iterator[Cluster]:
    configured = client.Configuration()
    configured.host = server.url
    configured.retries = module.RETRIES
    made = Cluster(configured)
    yield made
    made.close()


def status(code: int, message: str, reason: str = "", name: str = "") -> Answer:
    return code, {
        "kind": "Status",
        "code": code,
        "message": message,
        "reason": reason,
        "details": {"name": name},
    }


RBAC = 'pods is forbidden: User "system:serviceaccount:a:b" cannot list resource "pods" in API group "" in the namespace "a"'
CASES: list[tuple[int, str, type[OperatorError]]] = [
    (401, "Unauthorized", Forbidden),
    (403, RBAC, Forbidden),
    (403, 'pods "x" is forbidden: exceeded quota: compute', Refused),
    (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"', Refused),
    (403, "unable to create new content in namespace a because it is being terminated", Refused),
    (400, "Invalid JSON", Refused),
    (409, "the object has been modified", Conflict),
    (422, 'Service "x" is invalid: spec.ports: Required value', Refused),
    (422, "the server rejected our request due to an error in our request: testing value /metadata/uid failed", Conflict),
    (410, "The provided continue parameter is too old", ClusterUnavailable),
    (429, "too many requests", ClusterUnavailable),
    (500, "failed to create typed patch object (a/x; v1): .spec.foo: field not declared in schema", Refused),
    (500, 'Internal error occurred: failed calling webhook "x": connection refused', WebhookFailed),
    (500, "etcdserver: request timed out", ClusterUnavailable),
    (503, "apiserver not ready", ClusterUnavailable),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "message", "kind"), CASES, ids=[f"{code} {text[:30]}" for code, text, _ in CASES]
)
async def test_answers_become_errors_that_quote_the_server(
    server: Server, cluster: Cluster, code: int, message: str, kind: type[OperatorError]
) -> None:
    server.answers = [status(code, message)]
    with pytest.raises(kind) as caught:
        await cluster.find(PODS, "a")
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert isinstance(caught.value, Retryable) != isinstance(caught.value, Permanent)


async def test_the_servers_wish_to_come_back_is_kept(server: Server, cluster: Cluster) -> None:
    server.answers, server.headers = [status(429, "too many")], {"Retry-After": "7"}
    with pytest.raises(ClusterUnavailable) as caught:
        await cluster.find(PODS, "a")
    assert caught.value.after_seconds == 7


@pytest.mark.parametrize("written", ["soon", "", "-3"])
def test_an_odd_wish_is_no_fault(written: str) -> None:
    error = error_of(503, b"{}", written, "GET", "/x")
    assert isinstance(error, ClusterUnavailable)
    assert error.after_seconds in (None, 0.0)


async def test_what_is_not_there_is_none_and_an_unknown_kind_is_an_error(
    server: Server, cluster: Cluster
) -> None:
    server.answers = [status(404, 'pods "x" not found', "NotFound", "x"), (404, b"404 page not found\n")]
    assert await cluster.get(PODS, "a", "x") is None
    with pytest.raises(KindMissing):
        await cluster.get(RAY_SERVICES, "a", "x")


async def test_discovery(server: Server, cluster: Cluster) -> None:
    server.answers = [
        (200, {"resources": [{"name": "rayservices"}]}),
        (200, {"resources": [{"name": "rayclusters"}]}),
        (404, b"404 page not found\n"),
    ]
    assert [await cluster.serves(RAY_SERVICES) for _ in range(3)] == [True, False, False]
    assert server.asked[0][1] == "/apis/ray.io/v1"


async def test_a_server_that_is_not_there(server: Server, cluster: Cluster) -> None:
    configured = client.Configuration()
    configured.host = "http://127.0.0.1:1"
    nowhere = Cluster(configured)
    with pytest.raises(ClusterUnavailable, match="did not answer GET /api/v1/nodes"):
        await nowhere.find(NODES, None)
    nowhere.close()


async def test_a_server_that_hangs(server: Server, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)

    def hang(_: Asked) -> Answer:
        held.wait(30)
        return 200, {}

    server.answers = [hang]
    with pytest.raises(ClusterUnavailable, match="did not answer"):
        await cluster.create_event(SERVICE_LIVE, "Normal", "Reason", "message")
    held.set()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
async def test_an_answer_that_is_no_object(server: Server, cluster: Cluster, body: bytes) -> None:
    server.answers = [(200, body)]
    with pytest.raises(ClusterUnavailable):
        await cluster.get(PODS, "a", "x")


async def test_lists_are_read_page_by_page(server: Server, cluster: Cluster) -> None:
    server.answers = [
        (200, {"items": [{"n": 1}, {"n": 2}], "metadata": {"continue": "next/page"}}),
        (200, {"items": [{"n": 3}], "metadata": {}}),
    ]
    found = await cluster.find(
        PODS, "a", labels={"x/y": "z"}, fields="type=Warning", keep=lambda item: {"m": item["n"]}
    )
    assert found == [{"m": 1}, {"m": 2}, {"m": 3}]
    queries = [parse_qs(urlsplit(path).query) for _, path, _ in server.asked]
    assert queries[0]["labelSelector"] == ["x/y=z"]
    assert queries[0]["fieldSelector"] == ["type=Warning"]
    assert queries[1]["continue"] == ["next/page"]
    assert urlsplit(server.asked[0][1]).path == "/api/v1/namespaces/a/pods"


def service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "x", "namespace": "a", "labels": {SAMPLER_LABEL: "x"},
            "ownerReferences": [{"apiVersion": SAMPLERS.api_version, "kind": "FluxSampler", "name": "x", "uid": "u1", "controller": True}],
        },
        "spec": {"type": "ClusterIP", **spec},
    }  # fmt: skip


SERVICE_LIVE = {**service(), "metadata": {**service()["metadata"], "uid": "s1", "resourceVersion": "5"}}
MISSING = status(404, 'services "x" not found', "NotFound", "x")


def as_sent(asked: Asked) -> Answer:
    return 200, asked[2]


async def test_what_is_missing_is_applied_once(server: Server, cluster: Cluster) -> None:
    server.answers = [MISSING, as_sent]
    live = await cluster.apply(service())
    verb, path, body = server.asked[1]
    assert (verb, urlsplit(path).path) == ("PATCH", "/api/v1/namespaces/a/services/x")
    assert parse_qs(urlsplit(path).query) == {"fieldManager": ["fluxsampler-operator"], "force": ["true"]}
    assert server.content_types[1] == "application/apply-patch+yaml"
    assert body["spec"] == {"type": "ClusterIP"}
    server.answers, server.asked = [(200, live)], []
    await cluster.apply(service())
    assert [verb for verb, _, _ in server.asked] == ["GET"]


async def test_a_field_that_left_the_manifest_is_applied_away(server: Server, cluster: Cluster) -> None:
    server.answers = [MISSING, as_sent]
    live = await cluster.apply(service(externalName="old"))
    server.answers, server.asked = [(200, live), as_sent], []
    await cluster.apply(service())
    assert [verb for verb, _, _ in server.asked] == ["GET", "PATCH"]


async def test_what_the_server_changes_back_is_sent_once_and_not_again(
    server: Server, cluster: Cluster
) -> None:
    def mutated(asked: Asked) -> Answer:
        changed = copy.deepcopy(asked[2])
        changed["spec"]["type"] = "LoadBalancer"  # what a mutating webhook would do
        return 200, changed

    server.answers = [MISSING, mutated]
    live = await cluster.apply(service())
    server.answers, server.asked = [(200, live)], []
    for _ in range(3):
        await cluster.apply(service())
    assert {verb for verb, _, _ in server.asked} == {"GET"}
    # Everything else is still held.
    broken = copy.deepcopy(live)
    broken["metadata"]["labels"] = {SAMPLER_LABEL: "other"}
    server.answers, server.asked = [(200, broken), mutated], []
    await cluster.apply(service())
    assert [verb for verb, _, _ in server.asked] == ["GET", "PATCH"]


def owned(**changes: Any) -> dict[str, Any]:
    return {**SERVICE_LIVE, "metadata": {**SERVICE_LIVE["metadata"], **changes}}


THEIRS = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u9", "controller": True}
FORMER = {
    "apiVersion": SAMPLERS.api_version,
    "kind": "FluxSampler",
    "name": "x",
    "uid": "u0",
    "controller": True,
}


@pytest.mark.parametrize(
    ("live", "kind", "words"),
    [
        (owned(ownerReferences=[THEIRS]), NotOurs, "belongs to Deployment d"),
        (owned(ownerReferences=[FORMER]), Conflict, "of a former FluxSampler x"),
        (owned(ownerReferences=None, labels={"app": "mine"}), NotOurs, "was not made by FluxSampler"),
        (owned(ownerReferences=None, labels=None), NotOurs, "was not made by FluxSampler"),
        (owned(deletionTimestamp="2026-11-22T12:00:00Z"), Conflict, "is being deleted"),
    ],
)
async def test_what_belongs_to_others_or_goes_is_left_alone(
    server: Server, cluster: Cluster, live: dict[str, Any], kind: type[OperatorError], words: str
) -> None:
    server.answers = [(200, live)]
    with pytest.raises(kind, match=words):
        await cluster.apply(service())
    assert {verb for verb, _, _ in server.asked} == {"GET"}


async def test_ours_whose_owner_was_taken_off_is_taken_back(server: Server, cluster: Cluster) -> None:
    server.answers = [(200, owned(ownerReferences=None)), as_sent]
    await cluster.apply(service())
    assert [verb for verb, _, _ in server.asked] == ["GET", "PATCH"]


async def test_a_kind_that_builders_never_make(cluster: Cluster) -> None:
    with pytest.raises(KindMissing):
        await cluster.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "a"}}
        )


async def test_status_is_replaced_whole_and_only_of_this_very_object(
    server: Server, cluster: Cluster
) -> None:
    server.answers = [(200, {}), status(422, "the server rejected: testing value /metadata/uid failed")]
    await cluster.patch_status("a", "x", "u1", {"phase": "Ready"})
    verb, path, body = server.asked[0]
    assert (verb, urlsplit(path).path) == (
        "PATCH",
        "/apis/fluxsampler.io/v1alpha1/namespaces/a/fluxsamplers/x/status",
    )
    assert server.content_types[0] == "application/json-patch+json"
    assert body == [
        {"op": "test", "path": "/metadata/uid", "value": "u1"},
        {"op": "add", "path": "/status", "value": {"phase": "Ready"}},
    ]
    with pytest.raises(Conflict):
        await cluster.patch_status("a", "x", "u1", {})


async def test_a_finalizer_is_taken_off_and_the_others_stay(server: Server, cluster: Cluster) -> None:
    await cluster.drop_finalizer(RAY_SERVICES, owned(finalizers=["a", "b", "c"]), "b")
    assert server.asked[0][2][-1] == {"op": "replace", "path": "/metadata/finalizers", "value": ["a", "c"]}


LEASE = {
    "metadata": {"namespace": "a", "name": "x", "resourceVersion": "7"},
    "spec": {"holderIdentity": "me"},
}


async def test_an_object_is_made_and_written_whole(server: Server, cluster: Cluster) -> None:
    server.answers = [as_sent, as_sent, status(409, "the object has been modified")]
    assert await cluster.create(LEASES, LEASE) == LEASE
    assert await cluster.replace(LEASES, LEASE) == LEASE
    with pytest.raises(Conflict):
        await cluster.replace(LEASES, LEASE)
    root = "/apis/coordination.k8s.io/v1/namespaces/a/leases"
    assert [asked[:2] for asked in server.asked[:2]] == [("POST", root), ("PUT", f"{root}/x")]
    assert server.asked[1][2]["metadata"]["resourceVersion"] == "7"


async def test_who_may_not_write_sends_nothing_but_reads(server: Server) -> None:
    configured = client.Configuration()
    configured.host = server.url
    allowed = True
    fenced = Cluster(configured, may_write=lambda: allowed)
    server.answers = [(200, {**SERVICE_LIVE, "items": []})]
    await fenced.create(LEASES, LEASE)
    allowed = False
    server.asked = []
    writes = (
        fenced.create(LEASES, LEASE),
        fenced.replace(LEASES, LEASE),
        fenced.apply(service(externalName="new")),
        fenced.patch_status("a", "x", "u1", {}),
        fenced.drop_finalizer(RAY_SERVICES, owned(finalizers=["b"]), "b"),
        fenced.delete(PODS, SERVICE_LIVE),
        fenced.create_event(SERVICE_LIVE, "Normal", "Reason", "message"),
    )
    for write in writes:
        with pytest.raises(NotLeading):
            await write
    await fenced.find(PODS, "a")
    assert {verb for verb, _, _ in server.asked} == {"GET"}
    fenced.close()


async def test_a_lost_connection_repeats_a_read_and_no_write(server: Server, cluster: Cluster) -> None:
    def lose(_: Asked) -> Answer:
        raise ConnectionAbortedError  # the handler ends, and with it the connection

    server.answers = [lose, (200, {"items": []})]
    assert await cluster.find(NODES, None) == []
    assert [verb for verb, _, _ in server.asked] == ["GET", "GET"]
    server.asked, server.answers = [], [lose]
    for write in (cluster.replace(LEASES, LEASE), cluster.delete(PODS, SERVICE_LIVE)):
        with pytest.raises(ClusterUnavailable):
            await write
    assert [verb for verb, _, _ in server.asked] == ["PUT", "DELETE"]


async def test_at_rest_is_when_no_call_is_under_way_not_when_nobody_waits_for_one(
    server: Server, cluster: Cluster
) -> None:
    begun, held = threading.Event(), threading.Event()

    def hold(asked: Asked) -> Answer:
        begun.set()
        held.wait(30)
        return 200, {}

    server.answers = [hold]
    assert await cluster.at_rest(0)
    calling = asyncio.create_task(cluster.create(LEASES, LEASE))
    assert await asyncio.to_thread(begun.wait, 30)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    cluster.close()
    assert not await cluster.at_rest(0.05)
    held.set()
    assert await cluster.at_rest(30)


async def test_a_deletion_names_the_very_object(server: Server, cluster: Cluster) -> None:
    server.answers = [(200, {}), status(404, "gone", "NotFound", "x")]
    await cluster.delete(PODS, SERVICE_LIVE)
    assert server.asked[0][2]["preconditions"] == {"uid": "s1"}
    await cluster.delete(PODS, SERVICE_LIVE)  # gone already is as good


async def test_an_event_is_about_its_object_and_fits(server: Server, cluster: Cluster) -> None:
    long = {**SERVICE_LIVE, "metadata": {**SERVICE_LIVE["metadata"], "name": "n" * 250}}
    await cluster.create_event(long, "Warning", "Reason", "m" * 5000)
    _, path, body = server.asked[0]
    assert path == "/api/v1/namespaces/a/events"
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) <= 1024
    assert body["involvedObject"]["uid"] == "s1"


def test_names_are_quoted_in_paths() -> None:
    assert PODS.path("a", "../secrets") == "/api/v1/namespaces/a/pods/..%2Fsecrets"


async def test_a_missing_name_is_no_missing_kind(server: Server, cluster: Cluster) -> None:
    server.answers = [MISSING]
    with pytest.raises(NotFound):
        await cluster.find(PODS, "a")


def test_without_any_way_to_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: Any) -> None:
        raise ConfigException("nothing here")

    monkeypatch.setattr(module._config, "load_incluster_config", fails)
    monkeypatch.setattr(module._config, "load_kube_config", fails)
    with pytest.raises(Permanent, match="no way to the cluster"):
        module.configuration()


async def test_the_mark_of_what_was_applied_is_an_annotation(server: Server, cluster: Cluster) -> None:
    server.answers = [MISSING, as_sent]
    manifest = service()
    live = await cluster.apply(manifest)
    assert APPLIED_ANNOTATION in live["metadata"]["annotations"]
    assert "annotations" not in manifest["metadata"]
