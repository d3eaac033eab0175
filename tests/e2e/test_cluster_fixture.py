"""What every end-to-end test takes for granted, on our cluster and on the caller's."""

from __future__ import annotations

import json

from tests.support.cluster import LABEL, LiveCluster, fresh_namespace


def test_the_cluster_has_ready_nodes_kuberay_and_our_programs(cluster: LiveCluster) -> None:
    items = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    conditions = [condition for item in items for condition in item["status"]["conditions"]]
    assert "True" in [condition["status"] for condition in conditions if condition["type"] == "Ready"]
    assert "rayservices" in cluster.kubectl("api-resources", "--api-group=ray.io", "-o", "name")
    assert cluster.helm("version", "--short").startswith("v")


def test_a_namespace_is_fresh_and_goes_afterwards(cluster: LiveCluster) -> None:
    with fresh_namespace(cluster.kubectl, {"one": "two"}) as name:
        labels = json.loads(cluster.kubectl("get", "namespace", name, "-o", "json"))["metadata"]["labels"]
        assert (labels[LABEL], labels["one"]) == ("true", "two")
    cluster.kubectl("wait", "--for=delete", f"namespace/{name}", "--timeout=300s", timeout=310)


def test_our_cluster_has_cards_and_an_audit_log(cluster: LiveCluster) -> None:
    tool = cluster.ours()
    assert any("8 cards" in line for line in tool.report().nodes)
    mark = cluster.audit.mark()
    with fresh_namespace(cluster.kubectl) as name:
        assert ("create", name) in [(event.verb, event.name) for event in cluster.audit.writes(mark)]
