"""Strategic merge: what Kubernetes documents, and what must hold for any patch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxsampler_operator.builders.strategic_merge import merge
from fluxsampler_operator.errors import WrongPatch

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}, "finalizers": ["one"]},
    "spec": {
        "containers": [
            {
                "name": "ray",
                "image": "serve:1",
                "command": ["a", "b"],
                "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
                "ports": [{"containerPort": 8000, "name": "serve"}],
                "volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsUser": 1000},
            },
            {"name": "logs", "image": "logs:1"},
        ],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "nodeSelector": {"zone": "a"},
        "terminationGracePeriodSeconds": 40,
    },
}


def ray(merged: dict[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in merged["spec"]["containers"] if one["name"] == "ray"]
    assert isinstance(found, dict)
    return found


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "ray", **fields}]}}


def test_maps_merge_field_by_field_and_null_deletes() -> None:
    merged = merge(
        BASE,
        {"metadata": {"labels": {"b": "2", "a": None}}, "spec": {"terminationGracePeriodSeconds": None}},
    )
    assert merged["metadata"]["labels"] == {"b": "2"}
    assert "terminationGracePeriodSeconds" not in merged["spec"]
    assert merged["spec"]["nodeSelector"] == {"zone": "a"}


def test_containers_merge_by_name_and_keep_their_order() -> None:
    merged = merge(
        BASE,
        {"spec": {"containers": [{"name": "new", "image": "n"}, {"name": "ray", "image": "serve:2"}]}},
    )
    assert [one["name"] for one in merged["spec"]["containers"]] == ["ray", "logs", "new"]
    assert ray(merged)["image"] == "serve:2"
    assert ray(merged)["command"] == ["a", "b"]


def test_lists_inside_containers_merge_by_their_own_keys() -> None:
    merged = ray(
        merge(
            BASE,
            container(
                env=[{"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}],
                ports=[{"containerPort": 8000, "name": "api"}, {"containerPort": 9}],
                volumeMounts=[{"mountPath": "/tmp", "name": "other"}],
            ),
        )
    )
    assert merged["env"] == [
        {"name": "X", "value": "1"},
        {"name": "Y", "value": "3"},
        {"name": "Z", "value": "4"},
    ]
    assert merged["ports"] == [{"containerPort": 8000, "name": "api"}, {"containerPort": 9}]
    assert merged["volumeMounts"] == [{"mountPath": "/tmp", "name": "other"}]


@pytest.mark.parametrize(
    ("patch", "path", "expected"),
    [
        ({"spec": {"tolerations": [{"key": "x"}]}}, ("tolerations",), [{"key": "x"}]),
        (container(command=["c"]), ("containers", 0, "command"), ["c"]),
        (
            container(securityContext={"capabilities": {"drop": []}}),
            ("containers", 0, "securityContext", "capabilities", "drop"),
            [],
        ),
    ],
)
def test_lists_without_a_merge_key_are_replaced(
    patch: dict[str, Any], path: tuple[Any, ...], expected: Any
) -> None:
    found: Any = merge(BASE, patch)["spec"]
    for step in path:
        found = found[step]
    assert found == expected


def test_patch_delete_takes_a_list_item_away() -> None:
    merged = merge(BASE, container(env=[{"name": "X", "$patch": "delete"}]))
    assert ray(merged)["env"] == [{"name": "Y", "value": "2"}]
    gone = merge(BASE, {"spec": {"containers": [{"name": "logs", "$patch": "delete"}]}})
    assert [one["name"] for one in gone["spec"]["containers"]] == ["ray"]
    nothing = merge(BASE, container(env=[{"name": "absent", "$patch": "delete"}]))
    assert nothing == BASE


def test_patch_delete_takes_a_field_away() -> None:
    assert "nodeSelector" not in merge(BASE, {"spec": {"nodeSelector": {"$patch": "delete"}}})["spec"]


def test_patch_replace_replaces_a_map_an_item_or_a_list() -> None:
    assert merge(BASE, {"spec": {"nodeSelector": {"$patch": "replace", "b": "c"}}})["spec"][
        "nodeSelector"
    ] == {"b": "c"}
    assert ray(merge(BASE, container(**{"$patch": "replace", "image": "only"}))) == {
        "name": "ray",
        "image": "only",
    }
    listed = merge(BASE, container(env=[{"$patch": "replace"}, {"name": "ONLY", "value": "1"}]))
    assert ray(listed)["env"] == [{"name": "ONLY", "value": "1"}]


def test_another_source_takes_the_place_of_a_volumes_first_one() -> None:
    patch = {"spec": {"volumes": [{"name": "tmp", "hostPath": {"path": "/fast"}}]}}
    assert merge(BASE, patch)["spec"]["volumes"][1] == {"name": "tmp", "hostPath": {"path": "/fast"}}


def test_the_same_source_of_a_volume_merges() -> None:
    patch = {"spec": {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "2Gi"}}]}}
    assert merge(BASE, patch)["spec"]["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}


def test_retain_keys_keeps_only_those() -> None:
    patch = {"spec": {"nodeSelector": {"$retainKeys": ["b"], "b": "2"}}}
    assert merge(BASE, patch)["spec"]["nodeSelector"] == {"b": "2"}


def test_finalizers_are_a_set() -> None:
    assert merge(BASE, {"metadata": {"finalizers": ["two", "one"]}})["metadata"]["finalizers"] == [
        "one",
        "two",
    ]
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["one"]}}
    assert merge(BASE, patch)["metadata"]["finalizers"] == []


@pytest.mark.parametrize(
    ("patch", "path", "words"),
    [
        (
            {"spec": {"containers": {"name": "ray"}}},
            "spec.podTemplate.spec.containers",
            "belongs to be a list",
        ),
        ({"spec": {"containers": "ray"}}, "spec.podTemplate.spec.containers", "is a text"),
        ({"spec": {"containers": ["ray"]}}, "spec.podTemplate.spec.containers[0]", "belongs to be a map"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.podTemplate.spec.containers[0]", "has no name"),
        (container(env={"A": "1"}), "spec.podTemplate.spec.containers[0].env", "belongs to be a list"),
        (container(env=[{"value": "1"}]), "spec.podTemplate.spec.containers[0].env[0]", "has no name"),
        (
            container(**{"$patch": "remove"}),
            "spec.podTemplate.spec.containers[0]",
            "unknown $patch 'remove'",
        ),
        (
            {"spec": {"$setElementOrder/containers": []}},
            "spec.podTemplate.spec.$setElementOrder/containers",
            "is not known here",
        ),
        ({"spec": {"nodeSelector": []}}, "spec.podTemplate.spec.nodeSelector", "belongs to be a map"),
        ({"spec": "x"}, "spec.podTemplate.spec", "belongs to be a map"),
        (
            {"spec": {"terminationGracePeriodSeconds": {"a": 1}}},
            "spec.podTemplate.spec.terminationGracePeriodSeconds",
            "is a map, and belongs to be a number",
        ),
        ({"$patch": "delete"}, "spec.podTemplate", "to delete"),
        ({"spec": {"$retainKeys": "x"}}, "spec.podTemplate.spec.$retainKeys", "list of field names"),
        (
            {"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}},
            "spec.podTemplate.metadata.$deleteFromPrimitiveList/finalizers",
            "belongs to be a list",
        ),
    ],
)
def test_a_wrong_patch_is_named_with_its_path(patch: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(WrongPatch) as caught:
        merge(BASE, patch, at="spec.podTemplate")
    assert caught.value.path == path
    assert words in caught.value.detail


# Patches of any shape that no rule refuses; each item is named once, since one that is deleted and named again
# goes to the end of the list, each time.
SCALARS = st.one_of(st.none(), st.text(max_size=4), st.integers(), st.booleans())
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["ray", "logs", "new"])},
        optional={
            "image": st.one_of(st.none(), st.text(max_size=4)),
            "command": st.one_of(st.none(), st.lists(st.text(max_size=3), max_size=2)),
            "env": st.lists(
                st.fixed_dictionaries(
                    {"name": st.sampled_from("XYZ")},
                    optional={"value": st.text(max_size=2), "$patch": st.just("delete")},
                ),
                max_size=3,
                unique_by=lambda item: str(item["name"]),
            ),
            "$patch": st.sampled_from(["delete", "replace", "merge"]),
        },
    ),
    max_size=3,
    unique_by=lambda item: str(item["name"]),
)
PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {}, optional={"labels": st.dictionaries(st.sampled_from("ab"), SCALARS)}
        ),
        "spec": st.fixed_dictionaries(
            {}, optional={"containers": CONTAINERS, "hostNetwork": SCALARS, "nodeSelector": st.none()}
        ),
    },
)


@given(PATCHES)
def test_merging_twice_changes_nothing_more_and_no_argument(patch: dict[str, Any]) -> None:
    base, before = deepcopy(BASE), deepcopy(patch)
    once = merge(base, patch)
    assert base == BASE
    assert patch == before
    assert merge(once, patch) == once


@given(PATCHES)
def test_no_directive_and_no_null_is_left(patch: dict[str, Any]) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            assert not any(name.startswith("$") for name in value)
            assert all(one is not None for one in value.values())
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(merge(BASE, patch))


def test_an_empty_patch_and_the_base_itself_change_nothing() -> None:
    assert merge(BASE, {}) == BASE
    assert merge(BASE, BASE) == BASE
