"""Real Kubernetes for tests: fixtures, and the few questions that many tests ask.

A conftest takes the fixtures it wants by importing them:

    from tests.support.cluster import cluster, control_plane

``FLUXSAMPLER_TEST_CLUSTER`` says which cluster: unset, ours (made when there is none; what cannot run
here skips and says what is missing); ``required``, ours, and what cannot run fails; ``existing``, the one
of the caller's KUBECONFIG, which needs KubeRay and, in ``FLUXSAMPLER_TEST_REGISTRY``, a registry that its
nodes pull from; ``FLUXSAMPLER_TEST_TAG`` names images that already are there, where this machine cannot build them.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tools.cluster.api import Api
from tools.cluster.audit import AuditLog
from tools.cluster.cluster import Cluster
from tools.cluster.commands import Kubectl, run
from tools.cluster.control_plane import ControlPlane
from tools.cluster.errors import BuildFailed, CannotRun
from tools.cluster.registry import ADDRESS
from tools.cluster.waiting import wait_for

__all__ = [
    "ControlPlane",
    "Kubectl",
    "LiveCluster",
    "cluster",
    "control_plane",
    "fresh_namespace",
    "wait_for",
]

Json = dict[str, Any]

MODE = "FLUXSAMPLER_TEST_CLUSTER"
REGISTRY = "FLUXSAMPLER_TEST_REGISTRY"
TAG = "FLUXSAMPLER_TEST_TAG"
LABEL = "fluxsampler.io/test"
NOT_RUN = "no Kubernetes for this test"
_HELM_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class LiveCluster:
    """A whole cluster: nodes, KubeRay, a registry.

    Attributes:
        registry: where its nodes pull from, as ``host:port``.
        tool: the handle of our own cluster; None for the caller's.
    """

    kubectl: Kubectl
    helm_program: Path
    registry: str
    tool: Cluster | None

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator."""
        return self.kubectl.kubeconfig

    def helm(self, *arguments: str | Path, timeout: float = _HELM_SECONDS) -> str:
        """Standard output of ``helm ARGUMENTS``."""
        return run([self.helm_program, "--kubeconfig", self.kubeconfig, *arguments], timeout=timeout)

    def read(self, path: str) -> Json:
        """What the API server has at ``path``: cheap enough to be asked again and again, which kubectl is not (0.1 s of a processor)."""
        if self.tool is not None:
            return _api(self.kubeconfig).call("GET", path)
        found: Json = json.loads(self.kubectl("get", "--raw", path))
        return found

    def ours(self) -> Cluster:
        """The tool's handle, for tests that change the cluster itself; on the caller's own they skip."""
        if self.tool is None:
            pytest.skip(f"changes the cluster itself, so it needs our own: unset {MODE}")
        return self.tool

    @property
    def audit(self) -> AuditLog:
        """The API server's audit log; tests that read it skip on the caller's own cluster."""
        return self.ours().audit


@cache
def _api(kubeconfig: Path) -> Api:
    return Api(kubeconfig)


def cannot_run(error: Exception | str) -> NoReturn:
    """Skip, or fail where the caller has said that these tests must run."""
    text = f"{NOT_RUN}: {error}"
    if os.environ.get(MODE) == "required":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and an API server for this session alone. Nothing runs pods or deletes owned objects; see ``run_controllers``."""
    plane = ControlPlane()
    try:
        plane.__enter__()
    except (CannotRun, BuildFailed) as error:
        cannot_run(error)
    try:
        yield plane
    finally:
        plane.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[LiveCluster]:
    """The whole cluster, left as it was found: one that was up stays up."""
    if os.environ.get(MODE) == "existing":
        yield _existing()
        return
    ours = Cluster()
    try:
        was_up = ours.report().up
        ours.up()
    except (CannotRun, BuildFailed) as error:
        cannot_run(error)
    try:
        yield LiveCluster(ours.kubectl, ours.binaries.path("helm"), ADDRESS, ours)
    finally:
        if not was_up:
            ours.down()


def _existing() -> LiveCluster:
    given = os.environ.get("KUBECONFIG")
    programs = {name: shutil.which(name) for name in ("kubectl", "helm")}
    absent = [name for name, path in programs.items() if path is None]
    if not given or absent:
        cannot_run(
            f"{MODE}=existing needs KUBECONFIG set and on PATH: {', '.join(absent) or 'kubectl, helm'}"
        )
    kubectl = Kubectl(Path(programs["kubectl"] or ""), Path(given))
    return LiveCluster(kubectl, Path(programs["helm"] or ""), os.environ.get(REGISTRY, ADDRESS), None)


@contextmanager
def fresh_namespace(kubectl: Kubectl, labels: Mapping[str, str] | None = None) -> Iterator[str]:
    """A namespace of one's own, labelled as a test's, removed afterwards without waiting for it."""
    name = f"fxs-test-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    try:
        words = [f"{key}={value}" for key, value in {LABEL: "true", **(labels or {})}.items()]
        kubectl("label", "namespace", name, *words)
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
