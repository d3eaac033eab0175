"""A release's life beside FluxSamplers that go on drawing: test, upgrade, rollback, uninstall, another one in its place."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from tools.cluster.errors import CommandFailed
from tools.cluster.waiting import wait_for

from tests.support.cluster import fresh_namespace
from tests.support.installation import CHART, KIND, RESTRICTED, Installation, Sampler, tiny
from tests.support.operator_pod import OperatorPod
from tests.support.shape_checker import matches

DEFINITION = f"crd/{KIND}"
NOTE = "A field of the next version."
SECONDS = 60.0


@pytest.fixture
def main_release(installed: Installation, shared: Sampler) -> Iterator[Installation]:
    """The release as all other tests want it, before and after."""
    shared.wait_ready()
    yield installed
    installed.install("--take-ownership")
    shared.wait_ready()


def untouched(sampler: Sampler) -> tuple[object, ...]:
    """What stays the same of a FluxSampler that nobody touches: its spec's generation, that it is Ready, its pods."""
    sampler.wait_ready()
    return sampler.live["metadata"]["generation"], sampler.pod_uids


def test_helm_test_passes(installed: Installation) -> None:
    start = time.monotonic()
    said = installed.cluster.helm(
        "test", installed.release, "-n", installed.namespace, "--logs", "--timeout", "120s"
    )
    print(f"\nhelm test: {time.monotonic() - start:.1f} s")
    assert "replicas: -1 is refused: 422" in said
    assert "FAILED" not in said


def test_an_upgrade_brings_the_new_definition_and_a_rollback_the_old(
    main_release: Installation, shared: Sampler, tmp_path: Path
) -> None:
    cluster, before = main_release.cluster, untouched(shared)
    revision = json.loads(cluster.helm("status", main_release.release, "-n", main_release.namespace, "-o", "json"))["version"]  # fmt: skip

    main_release.install(chart=_next_chart(tmp_path))
    wait_for(
        lambda: NOTE in _explained(main_release), SECONDS, "kubectl explain knows the new field", interval=0.5
    )
    assert untouched(shared) == before

    cluster.helm(
        "rollback",
        main_release.release,
        str(revision),
        "-n",
        main_release.namespace,
        "--wait",
        "--timeout",
        "180s",
    )
    wait_for(
        lambda: NOTE not in _explained(main_release),
        SECONDS,
        "kubectl explain has forgotten it",
        interval=0.5,
    )
    OperatorPod(main_release).wait_ready()
    shared.wait_ready()
    assert untouched(shared) == before
    OperatorPod(main_release).assert_clean_log()


def test_uninstalled_and_installed_again_under_the_same_name_and_another(
    main_release: Installation, shared: Sampler, namespace: str
) -> None:
    kubectl, pods = main_release.cluster.kubectl, shared.pod_uids
    main_release.uninstall()
    assert kubectl("get", "deployments,roles", "-n", main_release.namespace, "-o", "name").split() == []
    assert kubectl("get", DEFINITION, "-o", "name").split()
    assert matches(shared.draw("a blue square").image, "a blue square")
    assert shared.pod_uids == pods

    # What happens meanwhile is put right by the next one.
    kubectl("delete", "service", shared.name, "-n", shared.namespace)
    start = time.monotonic()
    main_release.install()
    print(f"\nhelm install to an operator that is ready: {time.monotonic() - start:.1f} s")
    named = f"--field-selector=metadata.name={shared.name}"
    took = shared.wait(lambda: shared.get("service", named)["items"], "its Service again", SECONDS)
    print(f"the Service that was deleted meanwhile is back {took:.1f} s later")
    shared.wait_ready()

    def drawn() -> bool:
        try:
            return shared.draw("a blue square").engine == "parallel"
        except (AssertionError, httpx.HTTPError) as error:
            print(f"the new Service does not answer yet: {error}")
            return False

    # A Service is there before every node leads to it.
    shared.wait(drawn, "a picture through the new Service", SECONDS)
    assert shared.pod_uids == pods

    main_release.uninstall()
    with fresh_namespace(kubectl, RESTRICTED) as home:
        painter = replace(main_release, release="painter", namespace=home)
        with pytest.raises(CommandFailed, match=r"(?s)ownership.*release-name"):
            painter.install(watchNamespaces=f"{{{shared.namespace}}}")
        try:
            painter.install("--take-ownership", watchNamespaces=f"{{{shared.namespace}}}")
            _serves_only_its_namespace(painter, shared, namespace)
            assert shared.pod_uids == pods
        finally:
            painter.uninstall()
    assert kubectl("get", DEFINITION, "-o", "name").split()
    assert shared.pod_uids == pods


def _serves_only_its_namespace(painter: Installation, shared: Sampler, elsewhere: str) -> None:
    cluster = painter.cluster
    own = cluster.kubectl(
        "get",
        "clusterroles,clusterrolebindings",
        "-l",
        f"app.kubernetes.io/instance={painter.release}",
        "-o",
        "name",
    )
    assert own.split() == []
    # Refused by arithmetic: known at once, and no pod is needed.
    large = tiny(
        "large", hardware={"device": "cpu", "gpusPerNode": 2, "memory": "4Gi"}, objectStore={"memory": "4Ti"}
    )
    other = Sampler(cluster, elsewhere, "large")
    other.apply(large)
    watched = Sampler(cluster, shared.namespace, "large")
    watched.apply(large)
    watched.wait(lambda: watched.condition("Accepted").get("status") == "False", "not accepted", SECONDS)
    assert other.status == {}
    watched.cluster.kubectl("delete", KIND, "large", "-n", watched.namespace, "--timeout=60s")
    shared.patch({"serving": {"maxQueuedRequests": 7}})
    shared.wait_ready()
    shared.patch({"serving": None})
    shared.wait_ready()
    operator = OperatorPod(painter)
    code, seconds = operator.stop()
    print(f"namespaced operator, SIGTERM to its end: {seconds:.0f} s, exit code {code}")
    assert (code, seconds <= 5) == (0, True)
    operator.assert_clean_log()


def _next_chart(folder: Path) -> Path:
    """A copy of the chart, one version on, whose definition has one more optional field."""
    chart = folder / "fluxsampler"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "99.0.0"}), encoding="utf-8")
    file = chart / "files" / "fluxsamplers.fluxsampler.io.yaml"
    definition = yaml.safe_load(file.read_text(encoding="utf-8"))
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["note"] = {"type": "string", "description": NOTE}
    file.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return chart


def _explained(installation: Installation) -> str:
    return installation.cluster.kubectl("explain", "fluxsampler.spec")
