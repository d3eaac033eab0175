"""The chart against a real API server, by helm itself. What needs a kubelet (a running operator, `helm test`) is in tests/e2e."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.cluster.control_plane import DELETION_CONTROLLERS
from tools.cluster.errors import BuildFailed, CannotRun

from fluxsampler_operator.settings import Settings
from tests.support.cluster import ControlPlane, cannot_run, wait_for
from tests.support.kube import CHART, Kube, wait_established
from tests.support.spec_cases import BASE

CRD = "fluxsamplers.fluxsampler.io"
RELEASE = ("fluxsampler", str(CHART), "-n", "fx", "--create-namespace")
FULL = Path(__file__).parent / "data" / "chart_values.yaml"
OFFLINE = Kube(None)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane that only this module writes to: the definition exists once in a cluster."""
    try:
        with ControlPlane() as made:
            made.run_controllers((*DELETION_CONTROLLERS, "clusterrole-aggregation-controller"))
            yield made
    except (CannotRun, BuildFailed) as error:
        cannot_run(error)


@pytest.fixture
def kube(plane: ControlPlane) -> Iterator[Kube]:
    """An administrator of a cluster without FluxSampler, before and after the test."""
    user = Kube(plane.kubeconfig)
    yield user
    for release in json.loads(user.must_helm("list", "-A", "-o", "json")):
        user.must_helm("uninstall", release["name"], "-n", release["namespace"])
    user.must("delete", "crd", CRD, "--ignore-not-found", "--timeout=60s")


def rendered(*arguments: str, tests: bool = False) -> list[dict[str, Any]]:
    """The objects of the release; those of `helm test` only on request."""
    skipped = () if tests else ("--skip-tests",)
    text = OFFLINE.must_helm("template", "fluxsampler", str(CHART), "-n", "fx", *skipped, *arguments)
    return [document for document in yaml.safe_load_all(text) if document]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def operator(documents: list[dict[str, Any]]) -> dict[str, Any]:
    container: dict[str, Any] = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(
    "values",
    [(), ("-f", str(FULL)), ("--set", "watchNamespaces={a,b}"), ("--set", "replicas=2")],
    ids=["default", "full", "namespaced", "two"],
)
def test_lint(values: tuple[str, ...]) -> None:
    ran = OFFLINE.helm("lint", "--strict", str(CHART), *values)
    assert ran.ok, ran.text
    assert "0 chart(s) failed" in ran.out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("replicas=-1", "at '/replicas': minimum: got -1, want 0"),
        ("image.repo=x", "at '/image': additional properties 'repo' not allowed"),
        ("serve.image.name=x", "at '/serve/image': additional properties 'name' not allowed"),
        ("image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("rbac.nodes=true", "'/rbac/nodes': value must be one of 'Auto', 'Enabled', 'Disabled'"),
        ("image.digest=abc", "at '/image/digest': 'abc' does not match pattern"),
        ("imageRegistry=https://r.example", "at '/imageRegistry'"),
        ("watchNamespaces=default", "at '/watchNamespaces': got string, want array"),
        ("watchNamespaces={Team_A}", "at '/watchNamespaces/0': 'Team_A' does not match pattern"),
        ("imagePullSecrets={regcred}", "at '/imagePullSecrets/0': got string, want object"),
        ("resyncSeconds=0", "at '/resyncSeconds': minimum: got 0, want 1"),
        ("retrySeconds=0", "at '/retrySeconds': minimum: got 0, want 1"),
        ("crds.install=perhaps", "at '/crds/install': got string, want boolean"),
        ("resources.limit.memory=1Gi", "at '/resources': additional properties 'limit' not allowed"),
        ("extraEnv[0].value=x", "at '/extraEnv/0': missing property 'name'"),
        ("fullnameOverride=Big", "at '/fullnameOverride': 'Big' does not match pattern"),
        ("serviceAccount.create=false", "name an existing ServiceAccount in serviceAccount.name"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(setting: str, message: str) -> None:
    ran = OFFLINE.helm("template", "fluxsampler", str(CHART), "--set", setting)
    assert not ran.ok
    assert message in ran.err


def test_an_older_kubernetes_is_refused() -> None:
    ran = OFFLINE.helm("template", "fluxsampler", str(CHART), "--kube-version", "1.28.15")
    assert "chart requires kubeVersion: >=1.29.0-0" in ran.err


def test_what_the_chart_sets_is_what_the_operator_reads() -> None:
    given = ("-f", str(FULL), "--set", "watchNamespaces={team-a,team-b}", "--set", "rbac.nodes=Enabled")
    environment = {
        entry["name"]: entry.get("value", "key of the Secret") for entry in operator(rendered(*given))["env"]
    }
    ours = {name for name in environment if name.startswith("FLUXSAMPLER_OPERATOR_")}
    settings = Settings.from_environment(environment)
    assert settings.serve_image == "127.0.0.1:5000/mirror/fluxsampler-serve@sha256:" + "b" * 64
    assert settings.image_pull_policy == "Always"
    assert settings.image_pull_secrets == ("serve-pull", "other-pull")
    assert settings.watch_namespaces == ("team-a", "team-b")
    assert (settings.resync_seconds, settings.retry_seconds) == (120, 60)
    assert settings.lease == ("fx", "atelier")
    assert settings.log_level == "DEBUG"
    assert settings.read_nodes
    assert settings.probe_key == b"key of the Secret"
    for name in ours:  # each is read: without it, something else comes out
        rest = {key: value for key, value in environment.items() if key != name}
        assert Settings.from_environment(rest) != settings, name


def test_defaults_are_the_operators() -> None:
    environment = {entry["name"]: entry.get("value", "") for entry in operator(rendered())["env"]}
    settings, own = Settings.from_environment(environment), Settings()
    assert (settings.image_pull_policy, settings.image_pull_secrets, settings.watch_namespaces, settings.resync_seconds,
            settings.retry_seconds) == (
        own.image_pull_policy, own.image_pull_secrets, own.watch_namespaces, own.resync_seconds, own.retry_seconds,
    )  # fmt: skip


def test_every_value_arrives() -> None:
    documents = rendered("-f", str(FULL))
    values = yaml.safe_load(FULL.read_text(encoding="utf-8"))
    assert one(documents, "Deployment")["spec"]["replicas"] == 3
    template = one(documents, "Deployment")["spec"]["template"]
    pod, container = template["spec"], template["spec"]["containers"][0]
    for name in ("imagePullSecrets", "nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "priorityClassName",
                 "terminationGracePeriodSeconds"):  # fmt: skip
        assert pod[name] == values[name], name
    assert pod["securityContext"]["runAsUser"] == 2000
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["image"] == "127.0.0.1:5000/mirror/operator:1.2.3"
    assert container["imagePullPolicy"] == "Never"
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert values["extraEnv"][0] in container["env"]
    assert values["extraVolumeMounts"][0] in container["volumeMounts"]
    assert values["extraVolumes"][0] in pod["volumes"]
    liveness = {"periodSeconds": 30, "timeoutSeconds": 5, "failureThreshold": 9}
    assert container["livenessProbe"] == liveness | {"httpGet": {"path": "/healthz", "port": "health"}}
    assert container["readinessProbe"]["periodSeconds"] == 3
    assert template["metadata"]["annotations"]["team"] == "pictures"
    assert template["metadata"]["labels"]["tier"] == "control"
    account = one(documents, "ServiceAccount")["metadata"]
    assert (account["name"], account["annotations"]) == ("painter", {"role": "painter"})
    assert pod["serviceAccountName"] == "painter"
    crd = one(documents, "CustomResourceDefinition")["metadata"]
    assert crd["annotations"] == {"helm.sh/resource-policy": "keep", "owner": "platform"}
    assert not [d for d in documents if d["kind"] == "Secret"], "probe.existingSecret takes its place"
    key = next(e for e in container["env"] if e["name"].endswith("PROBE_KEY"))["valueFrom"]["secretKeyRef"]
    assert key == {"name": "mine", "key": "hmac"}
    monitor = one(documents, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "15s"}]
    policy = one(documents, "NetworkPolicy")["spec"]["ingress"]
    assert policy[1] == {"ports": [{"port": "metrics"}], "from": values["networkPolicy"]["metricsFrom"]}
    for document in documents:
        assert document["metadata"]["labels"]["cost"] == "gpu", document["kind"]


def test_one_operator_needs_no_lease_and_a_paused_one_none() -> None:
    for replicas in (1, 0):
        documents = rendered("--set", f"replicas={replicas}")
        assert "lease" not in json.dumps(documents).lower().replace("release", "")
        assert not [document for document in documents if document["kind"] == "PodDisruptionBudget"]
        deployment = one(documents, "Deployment")["spec"]
        assert (deployment["replicas"], deployment["strategy"]) == (replicas, {"type": "Recreate"})
        assert "topologySpreadConstraints" not in deployment["template"]["spec"]


@pytest.mark.parametrize("watched", [(), ("--set", "watchNamespaces={fx,fx-b}")], ids=["all", "namespaced"])
def test_two_operators_get_a_lease_a_budget_and_room(watched: tuple[str, ...]) -> None:
    documents = rendered("--set", "replicas=2", *watched)
    roles = [each for each in documents if each["kind"] == "Role" and "leases" in json.dumps(each["rules"])]
    assert [each["metadata"]["namespace"] for each in roles] == ["fx"]
    assert roles[0]["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["fluxsampler"], "verbs": ["get", "update"]},
    ]  # fmt: skip
    labels = one(documents, "Deployment")["spec"]["selector"]["matchLabels"]
    budget = one(documents, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    assert {each["topologyKey"] for each in pod["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname", "topology.kubernetes.io/zone",
    }  # fmt: skip
    for each in pod["topologySpreadConstraints"]:
        assert each["whenUnsatisfiable"] == "ScheduleAnyway", "one node is enough"
        assert each["labelSelector"]["matchLabels"] == labels
    anti = '{"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}'
    own = one(rendered("--set", "replicas=2", "--set-json", f"affinity={anti}"), "Deployment")
    assert "topologySpreadConstraints" not in own["spec"]["template"]["spec"], "the user's own word counts"


def test_operators_without_a_lease_and_with_one_never_stand_side_by_side(kube: Kube) -> None:
    """Whichever of the two came first is gone before the other comes; electing ones roll."""
    strategies = []
    for replicas in (1, 2, 3, 1):
        kube.must_helm("upgrade", "--install", *RELEASE, "--set", f"replicas={replicas}")
        live = kube.get("deployment", "fluxsampler", "-n", "fx")
        assert live["spec"]["replicas"] == replicas
        elects = any(entry["name"].endswith("_LEASE") for entry in operator([live])["env"])
        assert elects is (replicas > 1)
        assert (kube.get("poddisruptionbudget", "fluxsampler", "-n", "fx") is not None) is elects
        strategies.append(live["spec"]["strategy"]["type"])
    assert strategies == ["Recreate", "Recreate", "RollingUpdate", "Recreate"]


def test_the_server_takes_every_object_of_every_value(kube: Kube) -> None:
    kube.must("create", "namespace", "fx-dry")
    for document in rendered("-f", str(FULL), "-n", "fx-dry", tests=True):
        if document["kind"] != "PodMonitor":  # needs the Prometheus Operator's definitions
            ran = kube.apply(document, "--dry-run=server", "--validate=strict")
            assert ran.ok, ran.text
    kube.must("delete", "namespace", "fx-dry", "--wait=false")


@pytest.mark.parametrize("kind", ["Deployment", "Pod"])
def test_pods_pass_the_restricted_level(kube: Kube, kind: str) -> None:
    """The API server itself judges them: Pod Security admission, enforced by a namespace's label."""
    namespace = f"fx-restricted-{kind.lower()}"
    kube.must("create", "namespace", namespace)
    kube.must("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    found = one(rendered("-n", namespace, tests=True), kind)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": namespace}}
    spec = found["spec"]["template"]["spec"] if kind == "Deployment" else found["spec"]
    ran = kube.apply({**pod, "spec": spec}, "--dry-run=server")
    assert ran.ok, ran.text
    assert "Warning" not in ran.err
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = kube.apply({**pod, "spec": spec}, "--dry-run=server")
    assert 'violates PodSecurity "restricted' in refused.err
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    kube.must("delete", "namespace", namespace, "--wait=false")


def sampler(kube: Kube) -> dict[str, Any]:
    assert kube.apply(BASE).ok
    stored: dict[str, Any] = kube.get("fxs", "case")
    return stored


def probe_key(kube: Kube) -> bytes:
    secret = kube.get("secret", "fluxsampler-probe", "-n", "fx")
    return base64.b64decode(secret["data"]["probe-key"])


def newer_chart(folder: Path) -> Path:
    """The chart of a later release, whose definition knows one more field."""
    chart = folder / "fluxsampler"
    shutil.copytree(CHART, chart)
    settings = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    settings["version"] = settings["appVersion"] = "9.9.9"
    (chart / "Chart.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    definition = chart / "files" / f"{CRD}.yaml"
    crd = yaml.safe_load(definition.read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["colour"] = {"type": "string"}
    definition.write_text(yaml.safe_dump(crd), encoding="utf-8")
    return chart


def knows_colour(kube: Kube) -> bool:
    ran = kube.kubectl(
        "patch", "fxs", "case", "--type=merge", "--dry-run=server", "-p", '{"spec": {"colour": "red"}}'
    )
    return ran.ok and "no change" not in ran.out


def test_install_upgrade_rollback_uninstall_and_back(kube: Kube, tmp_path: Path) -> None:
    notes = kube.must_helm("install", *RELEASE)
    assert "serves all namespaces" in notes
    assert "KubeRay is missing" in notes
    wait_established(kube.must, CRD)
    stored, key = sampler(kube), probe_key(kube)
    assert len(key) == 48
    assert not knows_colour(kube)

    newer = newer_chart(tmp_path)
    kube.must_helm("upgrade", "fluxsampler", str(newer), "-n", "fx")
    wait_for(lambda: knows_colour(kube), 30, "the upgraded definition to be served")
    assert probe_key(kube) == key, "an upgrade keeps the key"
    image = operator([kube.get("deployment", "fluxsampler", "-n", "fx")])["image"]
    assert image == "fluxsampler-operator:9.9.9"

    kube.must_helm("rollback", "fluxsampler", "1", "-n", "fx")
    wait_for(lambda: not knows_colour(kube), 30, "the definition to be the first one again")
    assert probe_key(kube) == key
    assert kube.get("fxs", "case") == stored

    kube.must_helm("uninstall", "fluxsampler", "-n", "fx")
    assert kube.get("fxs", "case") == stored, "uninstall leaves the definition and the samplers"
    assert kube.get("deployment", "fluxsampler", "-n", "fx") is None
    assert kube.must("get", "clusterrole,clusterrolebinding", "-l", "app.kubernetes.io/instance=fluxsampler", "-o", "name") == ""  # fmt: skip
    left = kube.must("get", "all,secret,serviceaccount,role,rolebinding", "-n", "fx", "-o", "name").split()
    assert set(left) <= {"serviceaccount/default"}

    kube.must_helm("install", *RELEASE)
    assert kube.get("fxs", "case") == stored, "a new installation of that name takes them over"
    assert kube.get("crd", CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"] == "fluxsampler"


def test_another_release_takes_over_when_told_to(kube: Kube) -> None:
    kube.must_helm("install", *RELEASE)
    stored = sampler(kube)
    kube.must_helm("uninstall", "fluxsampler", "-n", "fx")
    other = ("painter", str(CHART), "-n", "fx-other", "--create-namespace")
    refused = kube.helm("install", *other)
    assert not refused.ok
    assert CRD in refused.err
    assert "release-name" in refused.err
    kube.helm("uninstall", "painter", "-n", "fx-other")
    kube.must_helm("install", *other, "--take-ownership")
    assert kube.get("crd", CRD)["metadata"]["annotations"]["meta.helm.sh/release-namespace"] == "fx-other"
    assert kube.get("fxs", "case") == stored


def test_a_second_operator_for_all_namespaces_is_refused(kube: Kube) -> None:
    kube.must_helm("install", *RELEASE)
    second = ("second", str(CHART), "-n", "fx-second", "--create-namespace", "--set", "crds.install=false")
    refused = kube.helm("install", *second)
    assert "ClusterRole" in refused.err
    assert "fluxsampler-operator" in refused.err
    kube.helm("uninstall", "second", "-n", "fx-second")


def test_namespaced_without_any_cluster_role(kube: Kube) -> None:
    for name in ("fx-a", "fx-b", "fx-c"):
        kube.must("create", "namespace", name)
    notes = kube.must_helm("install", "one", str(CHART), "-n", "fx-a", "--set", "watchNamespaces={fx-a,fx-b}")
    assert "serves the namespaces fx-a, fx-b" in notes
    assert "cannot read the cluster's nodes" in notes
    labels = ("-l", "app.kubernetes.io/name=fluxsampler", "-A", "-o", "name")
    assert kube.must("get", "clusterroles,clusterrolebindings", *labels) == ""
    assert len(kube.must("get", "roles,rolebindings", *labels).split()) == 4
    account = "--as=system:serviceaccount:fx-a:one-fluxsampler"
    assert (
        kube.kubectl("auth", "can-i", "patch", "poddisruptionbudgets.policy", "-n", "fx-b", account).out
        == "yes\n"
    )
    for asked in (
        ("list", "pods", "-n", "fx-c"),
        ("list", "nodes"),
        ("list", "fluxsamplers.fluxsampler.io", "-A"),
    ):
        assert kube.kubectl("auth", "can-i", *asked, account).out == "no\n", asked
    # On request it may list nodes, and nothing else of the cluster.
    kube.must_helm(
        "upgrade", "one", str(CHART), "-n", "fx-a", "--reuse-values", "--set", "rbac.nodes=Enabled"
    )
    assert (
        kube.must("get", "clusterroles", *labels)
        == "clusterrole.rbac.authorization.k8s.io/fluxsampler-operator-nodes:fx-a:one\n"
    )
    assert kube.kubectl("auth", "can-i", "list", "nodes", account).out == "yes\n"
    assert kube.kubectl("auth", "can-i", "list", "pods", "-n", "fx-c", account).out == "no\n"
    # Its own operator in another namespace, beside it; the definition stays with the first.
    both = kube.must_helm("install", "two", str(CHART), "-n", "fx-c", "--set", "watchNamespaces={fx-c}", "--set", "crds.install=false")  # fmt: skip
    assert "somebody else installs and upgrades" in both
    kube.must_helm("uninstall", "two", "-n", "fx-c")
    assert kube.get("crd", CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"] == "one"


def test_a_namespaced_release_needs_no_rights_in_the_cluster(kube: Kube, plane: ControlPlane) -> None:
    """Its installer rules one namespace, and has the rights there that the operator gets."""
    kube.must("apply", "-f", str(CHART.parents[1] / "crds" / f"{CRD}.yaml"))
    kube.must("create", "namespace", "fx-team")
    kube.must("create", "rolebinding", "lead", "--clusterrole=admin", "--user=lead", "-n", "fx-team")
    installer = Kube(plane.client("lead"))
    release = (
        "painter",
        str(CHART),
        "-n",
        "fx-team",
        "--set",
        "watchNamespaces={fx-team}",
        "--set",
        "crds.install=false",
    )
    wait_for(lambda: kube.kubectl("auth", "can-i", "create", "roles", "-n", "fx-team", "--as=lead").out == "yes\n", 60, "the admin role")  # fmt: skip
    refused = installer.helm("install", *release)
    assert "attempting to grant RBAC permissions not currently held" in refused.err
    installer.must_helm("uninstall", "painter", "-n", "fx-team")
    (role,) = (
        one
        for one in rendered("-n", "fx-team", "--set", "watchNamespaces={fx-team}")
        if one["kind"] == "Role"
    )
    role["metadata"] = {"name": "lead", "namespace": "fx-team"}
    assert kube.apply(role).ok
    kube.must("create", "rolebinding", "lead-more", "--role=lead", "--user=lead", "-n", "fx-team")
    installer.must_helm("install", *release)
    installer.must_helm("upgrade", *release, "--set", "logLevel=DEBUG")


def test_whoever_may_edit_a_namespace_may_edit_its_samplers(kube: Kube) -> None:
    kube.must_helm("install", *RELEASE)
    for role in ("view", "edit"):
        kube.must("create", "rolebinding", f"fx-{role}", f"--clusterrole={role}", f"--user={role}er")

    def may(user: str, verb: str, *more: str) -> bool:
        ran = kube.kubectl("auth", "can-i", verb, "fluxsamplers.fluxsampler.io", f"--as={user}", *more)
        return ran.out == "yes\n"

    wait_for(lambda: may("editer", "create"), 60, "Kubernetes' own edit role to take ours in")
    assert all(
        may("editer", verb) for verb in ("get", "list", "watch", "create", "update", "patch", "delete")
    )
    assert may("viewer", "get")
    assert may("viewer", "list")
    assert not may("viewer", "patch")
    assert not may("editer", "patch", "--subresource=status")
    assert may("editer", "patch", "--subresource=scale")
    kube.must("delete", "rolebinding", "fx-view", "fx-edit")


def test_the_definition_is_the_generated_one(kube: Kube) -> None:
    kube.must("apply", "--server-side", "-f", str(CHART.parents[1] / "crds" / f"{CRD}.yaml"))
    alone = kube.get("crd", CRD)["spec"]
    kube.must("delete", "crd", CRD)
    kube.must_helm("install", *RELEASE)
    assert kube.get("crd", CRD)["spec"] == alone


def test_kuberay_that_is_there_is_not_missed(kube: Kube) -> None:
    names = {
        "kind": "RayService",
        "listKind": "RayServiceList",
        "plural": "rayservices",
        "singular": "rayservice",
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object"}},
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "rayservices.ray.io"},
        "spec": {"group": "ray.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    assert kube.apply(definition).ok
    wait_established(kube.must, "rayservices.ray.io")
    assert "KubeRay is missing" not in kube.must_helm("install", *RELEASE)
    kube.must("delete", "crd", "rayservices.ray.io")
