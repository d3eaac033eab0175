"""Real Kubernetes for tests: fixtures, and the few questions that many tests ask.

A conftest takes the fixtures it wants by importing them:

    from tests.support.cluster import cluster, control_plane

``FLUXSAMPLER_TEST_CLUSTER`` says which cluster: unset, ours (made when there is none; what cannot run
here skips and says what is missing); ``required``, ours, and what cannot run fails; ``existing``, the one
of the caller's KUBECONFIG.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import pytest
from tools.cluster.commands import Kubectl
from tools.cluster.control_plane import ControlPlane
from tools.cluster.errors import BuildFailed, CannotRun
from tools.cluster.waiting import wait_for

__all__ = ["ControlPlane", "Kubectl", "control_plane", "fresh_namespace", "wait_for"]

MODE = "FLUXSAMPLER_TEST_CLUSTER"
LABEL = "fluxsampler.io/test"


def cannot_run(error: Exception) -> NoReturn:
    """Skip, or fail where the caller has said that these tests must run."""
    text = f"no Kubernetes for this test: {error}"
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
