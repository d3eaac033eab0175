"""A model on a PersistentVolumeClaim, mounted read-only, and a cache on another; both are the user's and stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluxsampler_api.mounts import CACHE_FOLDER, CLAIMS_FOLDER
from tests.support.cluster import LiveCluster, fresh_namespace
from tests.support.installation import KIND, RESTRICTED, Installation, Sampler, tiny
from tests.support.model_folders import BUILTIN
from tests.support.shape_checker import matches

USER = 1000
CLAIMS = ("models", "cache")


@dataclass(frozen=True, slots=True)
class Kept:
    """A FluxSampler, and the node's folders behind its claims."""

    sampler: Sampler
    folders: dict[str, Path]


def claim(name: str, folder: Path, namespace: str) -> list[dict[str, Any]]:
    """A volume that is a folder of the node, and the claim that is bound to it."""
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = f"{namespace}-{name}"
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**spec, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}, "claimRef": {"namespace": namespace, "name": name}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**spec, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
        },
    ]  # fmt: skip


@pytest.fixture(scope="module")
def kept(
    installed: Installation, cluster: LiveCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kept]:
    """Ready; needs a node that is this machine."""
    cluster.ours()
    top = tmp_path_factory.mktemp("volumes")
    folders = {name: top / name for name in CLAIMS}
    shutil.copytree(BUILTIN, folders["models"] / "tiny-shapes", ignore=shutil.ignore_patterns("__pycache__"))
    folders["cache"].mkdir()
    shutil.chown(folders["cache"], USER, USER)
    with fresh_namespace(cluster.kubectl, RESTRICTED) as namespace:
        volumes = [one for name in CLAIMS for one in claim(name, folders[name], namespace)]
        try:
            cluster.kubectl(
                "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": volumes})
            )
            sampler = Sampler(cluster, namespace, "on-claims")
            model = {"source": "pvc://models/tiny-shapes", "dtype": "float32", "cache": {"claim": "cache"}}
            sampler.apply(tiny(sampler.name, model=model))
            sampler.wait_ready()
            yield Kept(sampler, folders)
        finally:
            cluster.kubectl(
                "delete", "pv", *(f"{namespace}-{name}" for name in CLAIMS), "--wait=false", "--ignore-not-found"
            )  # fmt: skip


def test_it_draws_with_the_model_of_the_claim(kept: Kept) -> None:
    drawn = kept.sampler.draw("a green triangle")
    assert drawn.engine == "parallel"
    assert matches(drawn.image, "a green triangle")


def test_the_model_cannot_be_written_and_the_cache_can(kept: Kept) -> None:
    """By every pod that draws, as the user that it runs as."""
    sampler = kept.sampler
    workers = [pod for pod in sampler.pods if pod["metadata"]["labels"]["ray.io/node-type"] == "worker"]
    assert workers
    for pod in workers:
        said = sampler.cluster.kubectl(
            "exec", "-n", sampler.namespace, pod["metadata"]["name"], "-c", pod["spec"]["containers"][0]["name"], "--",
            "bash", "-c", f"touch {CLAIMS_FOLDER}/models/tiny-shapes/mine 2>&1; touch {CACHE_FOLDER}/$HOSTNAME && echo written",
        )  # fmt: skip
        assert "Read-only file system" in said
        assert said.splitlines()[-1] == "written"
    assert {pod["metadata"]["name"] for pod in workers} <= {
        one.name for one in kept.folders["cache"].iterdir()
    }


def test_deletion_leaves_the_claims_and_what_they_hold(kept: Kept) -> None:
    sampler = kept.sampler
    sampler.cluster.kubectl("delete", KIND, sampler.name, "-n", sampler.namespace, "--timeout=60s")
    sampler.wait(lambda: not sampler.get("pods")["items"], "its pods gone", 120)
    assert [one["metadata"]["name"] for one in sampler.get("pvc")["items"]] == sorted(CLAIMS)
    assert (kept.folders["models"] / "tiny-shapes" / "model_index.json").exists()
    assert any(kept.folders["cache"].iterdir())
