"""Every field of spec with values that somebody might write: the API server and pydantic take the same ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tools.cluster.api import Api

from fluxsampler_api import crd
from fluxsampler_api.errors import SpecError
from fluxsampler_api.loading import parse
from fluxsampler_api.sampler import GROUP, PLURAL
from tests.support.cluster import ControlPlane, wait_for
from tests.support.dry_run import refusal
from tests.support.kube import Kube
from tests.support.spec_cases import BASE

COMMITTED = Path(__file__).parents[2] / "crds" / f"{PLURAL}.{GROUP}.yaml"
SPEC = crd.build()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
ODD: tuple[Any, ...] = ("", "x", "Auto", "auto", "true", "8", "64Gi", "1e3", "5.", ".5Gi", "+1Gi", "1Gi ", "1Gi\n", "a" * 600, "é",
       0, 1, -1, 1.5, 10**12, 2**63 - 1, 75 * 2**20 - 1, 75 * 2**20, True, False, None, [], {}, ["x"], {"x": 1})  # fmt: skip

# 2.0 is not among them: kubectl sends it as 2, and pydantic reads it so.

Path_ = tuple[str, ...]


def fields(node: dict[str, Any], path: Path_ = ()) -> Iterator[tuple[Path_, dict[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        yield (*path, name), child
        yield from fields(child, (*path, name))


def values(node: dict[str, Any]) -> Iterator[Any]:
    yield from ODD
    for bound in ("minimum", "maximum"):
        if bound in node:
            yield from (node[bound] - 1, node[bound], node[bound] + 1)
    for bound in ("minLength", "maxLength"):
        if bound in node:
            yield from (
                "a" * (node[bound] - 1),
                "a" * node[bound],
                "é" * node[bound],
                "a" * (node[bound] + 1),
            )
    yield from node.get("enum", ())


def document(path: Path_, value: Any) -> dict[str, Any]:
    """A valid object with ``value`` at ``path`` of spec."""
    made = copy.deepcopy(BASE)
    if path[0] == "model":
        made["spec"]["model"]["source"] = "hf://owner/name"  # takes a revision and a token
    place = made["spec"]
    for name in path[:-1]:
        place = place.setdefault(name, {"name": "one"} if name.endswith("SecretRef") else {})
    place[path[-1]] = value
    return made


def taken_by_pydantic(made: dict[str, Any]) -> str:
    try:
        parse(copy.deepcopy(made))
    except SpecError as error:
        return f"refused: {error}"
    return "taken"


def taken_by_server(api: Api, made: dict[str, Any]) -> str:
    refused = refusal(api, made)
    return "taken" if refused is None else f"refused: {refused}"


@pytest.mark.timeout(900)
def test_server_and_pydantic_take_the_same_values(control_plane: ControlPlane) -> None:
    kube = Kube(control_plane.kubeconfig)
    kube.must("apply", "--server-side", "--force-conflicts", "-f", str(COMMITTED))
    api = control_plane.api
    wait_for(lambda: kube.apply(BASE, "--dry-run=server").ok, 60, "FluxSamplers to be served")
    tried = [
        (".".join(path), value, document(path, value))
        for path, node in fields(SPEC)
        for value in values(node)
    ]
    assert len(tried) > 1500
    with ThreadPoolExecutor(4) as pool:
        theirs = list(pool.map(lambda one: taken_by_server(api, one[2]), tried))
    different = []
    for (path, value, made), server in zip(tried, theirs, strict=True):
        ours = taken_by_pydantic(made)
        if (ours == "taken") != (server == "taken"):
            different.append(f"{path}: {value!r:.40}\n  pydantic {ours:.200}\n  server   {server:.200}")
    assert different == [], "\n".join(different)
    # Both sides have something to say: neither takes or refuses everything.
    assert 200 < sum(server == "taken" for server in theirs) < len(tried) - 500
