"""Names and labels of what the operator makes."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from fluxsampler_operator.manifest import LONGEST_NAME, Owner, child_name, labels, metadata, selector

NAMES = st.from_regex(
    r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?){0,3}", fullmatch=True
)
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@given(NAMES)
@example("a" * 47)
@example("a" * 48)
@example("a" * 253)
@example("9")
@example("a.b")
def test_children_have_names_that_kuberay_takes(name: str) -> None:
    child = child_name(name)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child)
    assert len(child) <= LONGEST_NAME
    assert child_name(name) == child


def test_short_plain_names_stay() -> None:
    assert child_name("tiny") == "tiny"
    assert child_name("a" * LONGEST_NAME) == "a" * LONGEST_NAME


def test_different_names_have_different_children() -> None:
    names = ["a.b", "a-b", "9", "fxs-9", "x" * 48, "x" * 49, "x" * 47]
    assert len({child_name(name) for name in names}) == len(names)


@given(NAMES)
def test_labels_are_labels(name: str) -> None:
    made = labels(Owner(name, "default"), "head")
    assert all(LABEL_VALUE.fullmatch(value) for value in made.values())
    assert selector(Owner(name, "default")).items() <= made.items()


def test_children_belong_to_the_object_that_exists() -> None:
    assert "ownerReferences" not in metadata(Owner("tiny", "default"), "service")
    (reference,) = metadata(Owner("tiny", "default", "uid-1"), "service", "-x")["ownerReferences"]
    assert reference == {
        "apiVersion": "fluxsampler.io/v1alpha1",
        "kind": "FluxSampler",
        "name": "tiny",
        "uid": "uid-1",
        "controller": True,
    }
