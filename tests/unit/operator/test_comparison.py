from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxsampler_operator.comparison import differences, digest

WANTED: dict[str, Any] = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {
        "replicas": 1,
        "containers": [{"name": "a", "resources": {"limits": {"cpu": "1000m", "memory": "2Gi"}}}],
        "emptyDir": {},
    },
}


def test_defaults_and_other_peoples_fields_are_no_difference() -> None:
    live = copy.deepcopy(WANTED)
    live["metadata"]["labels"]["team"] = "y"
    live["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
    live["status"] = {"phase": "Running"}
    assert differences(WANTED, live) == ()


@pytest.mark.parametrize(
    ("wanted", "live", "path"),
    [
        ({"selector": {"a": "1"}}, {"selector": {"a": "1", "b": "2"}}, "selector.b"),
        ({"podSelector": {"matchLabels": {"a": "1"}}}, {"podSelector": {"matchLabels": {"a": "1", "b": "2"}}},
         "podSelector.matchLabels.b"),
        ({"selector": {"matchLabels": {"a": "1"}}},
         {"selector": {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}},
         "selector.matchExpressions"),
        ({"namespaceSelector": {}}, {"namespaceSelector": {"matchLabels": {"a": "1"}}}, "namespaceSelector.matchLabels"),
    ],
)  # fmt: skip
def test_a_selector_that_somebody_narrowed_is_a_difference(wanted: Any, live: Any, path: str) -> None:
    assert differences(wanted, live) == (path,)
    assert differences(wanted, wanted) == ()


def test_a_quantity_may_be_written_otherwise() -> None:
    live = copy.deepcopy(WANTED)
    live["spec"]["containers"][0]["resources"]["limits"] = {"cpu": 1, "memory": "2048Mi"}
    assert differences(WANTED, live) == ()
    live["spec"]["containers"][0]["resources"]["limits"]["memory"] = "2047Mi"
    assert differences(WANTED, live) == ("spec.containers[0].resources.limits.memory",)


def test_elsewhere_text_is_text() -> None:
    assert differences(
        {"env": [{"name": "N", "value": "1000m"}]}, {"env": [{"name": "N", "value": "1"}]}
    ) == ("env[0].value",)


@pytest.mark.parametrize("empty", [None, {}, []])
def test_an_empty_field_may_be_left_out_by_the_server(empty: Any) -> None:
    assert differences({"a": empty}, {}) == ()


@pytest.mark.parametrize("value", [False, 0, ""])
def test_a_false_or_zero_may_not(value: Any) -> None:
    assert differences({"a": value}, {}) == ("a",)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda live: live["metadata"].pop("labels"), "metadata.labels"),
        (lambda live: live["metadata"]["labels"].update(app="z"), "metadata.labels.app"),
        (lambda live: live["spec"].update(replicas="1"), "spec.replicas"),
        (lambda live: live["spec"]["containers"].append({"name": "sidecar"}), "spec.containers[#]"),
        (lambda live: live["spec"].update(containers={}), "spec.containers"),
    ],
)
def test_what_lacks_is_named(change: Any, path: str) -> None:
    live = copy.deepcopy(WANTED)
    change(live)
    assert differences(WANTED, live) == (path,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(JSON)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert differences(value, copy.deepcopy(value)) == ()


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_the_order_of_keys_does_not_change_the_digest(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_a_digest_tells_that_a_field_went() -> None:
    assert digest({"a": 1, "b": 2}) != digest({"a": 1})
