"""The only module that calls Kubernetes: plain JSON in and out, every failure as one of :mod:`.errors`.

It stands on the transport of the official client (kubeconfig, service account, token renewal) and leaves its
models alone: a reconcile compares JSON, and builders make JSON. Calls run in a few threads of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from fluxsampler_api.sampler import API_VERSION, KIND, PLURAL
from fluxsampler_operator.answers import error_of
from fluxsampler_operator.comparison import differences, digest
from fluxsampler_operator.errors import (
    ClusterUnavailable,
    Conflict,
    KindMissing,
    NotFound,
    NotLeading,
    NotOurs,
    Permanent,
)
from fluxsampler_operator.manifest import FIELD_MANAGER, SAMPLER_LABEL, Manifest
from fluxsampler_operator.metrics import API_CALLS

_log = structlog.get_logger(__name__)
# The package says that it is typed, and half of its functions are not.
_client: Any = client
_config: Any = config

# One annotation tells which manifest was applied last, so that a field that left the manifest is noticed.
APPLIED_ANNOTATION = "fluxsampler.io/applied"
THREADS = 8
CONNECT_SECONDS = 3.0
READ_SECONDS = 15.0
# One more try to read, on a connection that the server has closed meanwhile; the queue does the rest. A write is sent
# right after `may_write` was asked, or not at all.
RETRIES = urllib3.Retry(
    total=1, connect=0, redirect=0, status=0, allowed_methods=("GET",), respect_retry_after_header=False
)
# Objects of one answer: what is parsed at once bounds the memory that a large cluster costs.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind and where the API serves it."""

    api_version: str
    kind: str
    plural: str

    @property
    def root(self) -> str:
        """Path of the API group and version."""
        return f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Path of the collection, of one object, or of a subresource of it."""
        parts = [self.root]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, *(quote(part, safe="") for part in (name, subresource) if part)]
        return "/".join(parts)


SAMPLERS = Resource(API_VERSION, KIND, PLURAL)
RAY_SERVICES = Resource("ray.io/v1", "RayService", "rayservices")
RAY_CLUSTERS = Resource("ray.io/v1", "RayCluster", "rayclusters")
PODS = Resource("v1", "Pod", "pods")
NODES = Resource("v1", "Node", "nodes")
EVENTS = Resource("v1", "Event", "events")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
# What builders may ask for.
CHILDREN = (
    RAY_SERVICES,
    Resource("v1", "Service", "services"),
    Resource("v1", "ServiceAccount", "serviceaccounts"),
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
)
_BY_KIND = {(resource.api_version, resource.kind): resource for resource in CHILDREN}


def configuration() -> Any:
    """In a pod its service account, elsewhere KUBECONFIG; raises Permanent when there is neither."""
    made = _client.Configuration()
    try:
        _config.load_incluster_config(client_configuration=made)
    except config.ConfigException:
        try:
            _config.load_kube_config(client_configuration=made)
        except (config.ConfigException, OSError) as error:
            raise Permanent(
                f"no way to the cluster: not in a pod, and the kubeconfig cannot be read: {error}"
            ) from error
    made.retries = RETRIES
    made.connection_pool_maxsize = THREADS
    return made


class Cluster:
    """One API server. Every method raises an :class:`~fluxsampler_operator.errors.OperatorError` when it fails.

    ``may_write`` is asked in the thread that sends, right before each write; False makes it NotLeading, unsent.
    """

    def __init__(
        self, configured: Any | None = None, *, may_write: Callable[[], bool] = lambda: True, read_seconds: float | None = None
    ) -> None:  # fmt: skip
        self._api = _client.ApiClient(configured or configuration())
        self._api.user_agent = FIELD_MANAGER
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cluster")
        self._under_way: set[Future[Manifest]] = set()
        self._may_write = may_write
        self._read_seconds = read_seconds
        self._settled: dict[tuple[str, str, str], tuple[str, frozenset[str]]] = {}

    def close(self) -> None:
        """Take no further call; those under way end by their timeouts."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    async def at_rest(self, seconds: float) -> bool:
        """Wait for every call that is under way, for so long; whether all of them have ended."""
        calls = [asyncio.wrap_future(call) for call in tuple(self._under_way)]
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*calls, return_exceptions=True)
        except TimeoutError:
            return False
        return True

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows the kind."""
        try:
            found = await self._call("GET", resource.root, resource)
        except (NotFound, KindMissing):
            return False
        return any(entry["name"] == resource.plural for entry in found.get("resources", ()))

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none. Raises KindMissing when the cluster does not know the kind."""
        try:
            return await self._call("GET", resource.path(namespace, name), resource)
        except NotFound:
            return None

    async def find(
        self, resource: Resource, namespace: str | None, *, labels: Mapping[str, str] | None = None, fields: str = "",
        keep: Callable[[Manifest], Manifest] = lambda item: item,
    ) -> list[Manifest]:  # fmt: skip
        """All objects of a namespace (None: of the cluster) that carry ``labels`` and match the field selector.

        ``keep`` takes what is needed of each, page by page; items of a list carry no apiVersion and kind.
        """
        query: list[tuple[str, str]] = [("limit", str(PAGE))]
        if labels:
            query.append(("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items())))
        if fields:
            query.append(("fieldSelector", fields))
        items: list[Manifest] = []
        proceed = ""
        while True:
            page = await self._call(
                "GET",
                resource.path(namespace),
                resource,
                [*query, ("continue", proceed)] if proceed else query,
            )
            items += [keep(item) for item in page.get("items") or ()]
            proceed = (page.get("metadata") or {}).get("continue") or ""
            if not proceed:
                return items

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make the cluster hold ``manifest`` and return the live object; sends nothing when it already does.

        Raises :class:`NotOurs` when an object of that name belongs to somebody else, :class:`Conflict` while
        one of a former FluxSampler is still being removed.
        """
        resource = _BY_KIND.get((manifest["apiVersion"], manifest["kind"]))
        if resource is None:
            raise KindMissing(f"the operator does not manage {manifest['kind']} ({manifest['apiVersion']})")
        meta = manifest["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        wanted = {
            **manifest,
            "metadata": {
                **meta,
                "annotations": {**meta.get("annotations", {}), APPLIED_ANNOTATION: digest(manifest)},
            },
        }
        live = await self.get(resource, namespace, name)
        if live is not None:
            _check_owner(wanted, live)
            if not self._lacking(resource, wanted, live):
                return live
        applied = await self._call(
            "PATCH", resource.path(namespace, name), resource,
            [("fieldManager", FIELD_MANAGER), ("force", "true")], wanted, "application/apply-patch+yaml",
        )  # fmt: skip
        # What the server leaves different right after an apply (a pruned field, a mutating webhook) will not
        # change by sending the same again: it is remembered, so that two writers never fight.
        left = differences(wanted, applied)
        self._settled[(resource.kind, namespace, name)] = (digest(manifest), frozenset(left))
        if left:
            _log.warning(
                "the API server keeps other values", kind=resource.kind, namespace=namespace, name=name, fields=left[:10]
            )  # fmt: skip
        _log.info("applied", kind=resource.kind, namespace=namespace, name=name, created=live is None)
        return applied

    def _lacking(self, resource: Resource, wanted: Manifest, live: Manifest) -> frozenset[str]:
        meta = wanted["metadata"]
        form, settled = self._settled.get((resource.kind, meta["namespace"], meta["name"]), ("", frozenset()))
        found = frozenset(differences(wanted, live))
        return found - settled if form == meta["annotations"][APPLIED_ANNOTATION] else found

    def forget(self, namespace: str, name: str) -> None:
        """Drop what is remembered of the children called ``name`` (and of those whose name it begins)."""
        for key in [key for key in self._settled if key[1] == namespace and key[2].startswith(name)]:
            del self._settled[key]

    async def patch_status(self, namespace: str, name: str, uid: str, status: Manifest) -> Manifest:
        """Replace the status of one FluxSampler and return what the server kept of it.

        Raises Conflict when the name belongs to another object by now.
        """
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        kept = await self._call(
            "PATCH", SAMPLERS.path(namespace, name, "status"), SAMPLERS, [("fieldManager", FIELD_MANAGER)],
            patch, "application/json-patch+json",
        )  # fmt: skip
        return dict(kept.get("status") or {})

    async def drop_finalizer(self, resource: Resource, live: Manifest, finalizer: str) -> None:
        """Take ``finalizer`` off an object that is being deleted; raises Conflict when somebody was first."""
        meta = live["metadata"]
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": meta["uid"]},
            {"op": "test", "path": "/metadata/finalizers", "value": meta["finalizers"]},
            {
                "op": "replace",
                "path": "/metadata/finalizers",
                "value": [one for one in meta["finalizers"] if one != finalizer],
            },
        ]
        await self._call(
            "PATCH", resource.path(meta["namespace"], meta["name"]), resource, [], patch, "application/json-patch+json",
        )  # fmt: skip

    async def delete(self, resource: Resource, live: Manifest) -> None:
        """Delete exactly this object (not a later one of the same name), what it owns after it."""
        meta = live["metadata"]
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": meta["uid"]},
        }
        try:
            await self._call(
                "DELETE",
                resource.path(meta["namespace"], meta["name"]),
                resource,
                [],
                body,
                "application/json",
            )
        except NotFound:
            return

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Make an object and return it; raises Conflict when there is one of that name."""
        path = resource.path(manifest["metadata"]["namespace"])
        return await self._call("POST", path, resource, [], manifest, "application/json")

    async def replace(self, resource: Resource, live: Manifest) -> Manifest:
        """Write an object whole; raises Conflict when it has changed since ``live`` was read, NotFound when it is gone."""
        meta = live["metadata"]
        path = resource.path(meta["namespace"], meta["name"])
        return await self._call("PUT", path, resource, [], live, "application/json")

    async def create_event(self, about: Manifest, kind: str, reason: str, message: str) -> None:
        """One Event (``kind`` Normal or Warning) about an object."""
        meta = about["metadata"]
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        # Named as client-go's recorder names them: the object and the moment.
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{meta['name'][:200]}.{int(now * 1e9):x}",
                "namespace": meta["namespace"],
            },
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": FIELD_MANAGER},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        await self._call("POST", EVENTS.path(meta["namespace"]), EVENTS, [], body, "application/json")

    async def _call(
        self, verb: str, path: str, resource: Resource, query: Iterable[tuple[str, str]] = (), body: Any = None,
        content_type: str = "",
    ) -> Manifest:  # fmt: skip
        call = self._threads.submit(self._send, verb, path, resource, list(query), body, content_type)
        self._under_way.add(call)
        call.add_done_callback(self._under_way.discard)
        return await asyncio.wrap_future(call)

    def _send(
        self, verb: str, path: str, resource: Resource, query: list[tuple[str, str]], body: Any, content_type: str
    ) -> Manifest:  # fmt: skip
        headers = {"Accept": "application/json", **({"Content-Type": content_type} if content_type else {})}
        request = self._api.param_serialize(
            verb, path, query_params=query, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        if verb != "GET" and not self._may_write():
            raise NotLeading(f"this operator does not lead any more; not sent: {verb} {path}")
        code = 0
        try:
            timeouts = (CONNECT_SECONDS, self._read_seconds or READ_SECONDS)
            answer = self._api.call_api(*request, _request_timeout=timeouts)
            data, code = answer.read(), answer.status
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise ClusterUnavailable(f"the API server did not answer {verb} {path}: {error}") from error
        finally:
            API_CALLS.labels(verb, resource.plural, str(code)).inc()
        if code >= 300:
            raise error_of(code, data, answer.getheader("Retry-After"), verb, path)
        try:
            parsed = json.loads(data)
        except ValueError as error:
            raise ClusterUnavailable(f"the answer to {verb} {path} is not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise ClusterUnavailable(f"the answer to {verb} {path} is not an object")
        return parsed


def _check_owner(wanted: Manifest, live: Manifest) -> None:
    """Never take over what is somebody else's; wait for what is on its way out."""
    kind, meta = wanted["kind"], wanted["metadata"]
    theirs = live["metadata"]
    what = f"{kind} {meta['namespace']}/{meta['name']}"
    ours = next((ref for ref in meta.get("ownerReferences", ()) if ref.get("controller")), None)
    holder = next((ref for ref in theirs.get("ownerReferences") or () if ref.get("controller")), None)
    if holder is not None and ours is not None and holder.get("uid") != ours["uid"]:
        if holder.get("kind") == ours["kind"] and holder.get("name") == ours["name"]:
            raise Conflict(f"{what} of a former {ours['kind']} {ours['name']} is still being removed")
        raise NotOurs(
            f"{what} belongs to {holder.get('kind')} {holder.get('name')}; rename this {ours['kind']}, or delete that object"
        )
    mine = meta["labels"].get(SAMPLER_LABEL)
    if holder is None and (theirs.get("labels") or {}).get(SAMPLER_LABEL) != mine:
        raise NotOurs(
            f"{what} exists and was not made by FluxSampler; delete or rename it, or rename the FluxSampler"
        )
    if theirs.get("deletionTimestamp"):
        raise Conflict(f"{what} is being deleted; it is made again when it is gone")
