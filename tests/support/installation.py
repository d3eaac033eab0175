"""FluxSampler as its users have it on a cluster: images in a registry, a helm release, objects applied by kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image
from tools.cluster.image import ImageBuilder
from tools.cluster.waiting import wait_for

from fluxsampler_api.sampler import API_VERSION
from fluxsampler_operator.manifest import child_name
from tests.support.cluster import TAG, LiveCluster

ROOT = Path(__file__).parents[2]
CLI = Path(sys.executable).with_name("fluxsampler")
CHART = ROOT / "charts" / "fluxsampler"
RELEASE = "fluxsampler"
SYSTEM = "fluxsampler-system"
KIND = "fluxsamplers.fluxsampler.io"
SAMPLER_LABEL = "fluxsampler.io/sampler"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

# A first pull of the serving image and its unpacking take a minute or two.
READY_SECONDS = 420.0

Json = dict[str, Any]


def build_images(cluster: LiveCluster) -> dict[str, str]:
    """Both images as the working tree is, where the cluster's nodes pull from; soon done when nothing changed.

    Returns the chart's values that name them, by digest: a tag that stays while its image changes would leave
    running what was built before. Where the caller has pushed both (``FLUXSAMPLER_TEST_TAG``), those are taken.

    Raises:
        CannotRun: this machine cannot build them.
    """
    if pushed := os.environ.get(TAG):
        return {"image.tag": pushed, "serve.image.tag": pushed}
    builder = ImageBuilder()
    with builder.alone():
        for target in ("operator", "serve"):
            builder.build(target)
            builder.push(target, registry=cluster.registry)
    return builder.values(cluster.registry)


@dataclass(frozen=True, slots=True)
class Installation:
    """A helm release of the operator; ``images`` is what :func:`build_images` returned."""

    cluster: LiveCluster
    images: Mapping[str, str]
    release: str = RELEASE
    namespace: str = SYSTEM

    def values(self, **more: str) -> list[str]:
        """`--set` of what names the images, and of ``more`` (dots written as __)."""
        given = {"imageRegistry": self.cluster.registry, **self.images}
        given |= {name.replace("__", "."): value for name, value in more.items()}
        return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]

    def install(self, *arguments: str, chart: Path = CHART, **values: str) -> None:
        """`helm upgrade --install` into a namespace of Pod Security level restricted; returns when the operator is ready."""
        kubectl = self.cluster.kubectl
        kubectl(
            "apply",
            "-f",
            "-",
            stdin=json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": self.namespace, "labels": RESTRICTED},
                }
            ),
        )
        self.cluster.helm(
            "upgrade", "--install", self.release, chart, "-n", self.namespace, "--wait", "--timeout", "180s",
            *self.values(**values), *arguments,
        )  # fmt: skip

    def uninstall(self) -> None:
        """`helm uninstall`, awaited."""
        self.cluster.helm("uninstall", self.release, "-n", self.namespace, "--wait", "--ignore-not-found")

    @property
    def pod(self) -> Json:
        """The operator's one running pod."""
        items = json.loads(
            self.cluster.kubectl(
                "get", "pods", "-n", self.namespace,
                "-l", f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component=operator", "-o", "json",
            )
        )["items"]  # fmt: skip
        running: list[Json] = [item for item in items if "deletionTimestamp" not in item["metadata"]]
        assert len(running) == 1, [item["metadata"]["name"] for item in items]
        return running[0]

    def logs(self) -> str:
        """What the operator's pod has logged."""
        return self.cluster.kubectl("logs", "-n", self.namespace, self.pod["metadata"]["name"])


def tiny(name: str, **spec: Any) -> Json:
    """A small FluxSampler: the built-in model, two ranks on CPU, one fallback; ``spec`` replaces whole parts of it."""
    return {
        "apiVersion": "fluxsampler.io/v1alpha1",
        "kind": "FluxSampler",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "builtin://tiny-shapes", "dtype": "float32"},
            "hardware": {"device": "cpu", "gpusPerNode": 2},
            "parallelism": {"exact": True},
            **spec,
        },
    }


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture that the service sent, and who drew it."""

    image: npt.NDArray[np.uint8]
    engine: str


@dataclass(frozen=True, slots=True)
class Sampler:
    """One FluxSampler on the cluster, by name."""

    cluster: LiveCluster
    namespace: str
    name: str

    def apply(self, document: Mapping[str, Any]) -> None:
        """`kubectl apply`."""
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=json.dumps(document))

    def patch(self, spec: Mapping[str, Any]) -> None:
        """`kubectl patch --type=merge` of spec."""
        self.cluster.kubectl(
            "patch", KIND, self.name, "-n", self.namespace, "--type=merge", "-p", json.dumps({"spec": spec})
        )

    def get(self, *words: str) -> Any:
        """`kubectl get … -o json` in its namespace."""
        return json.loads(self.cluster.kubectl("get", "-n", self.namespace, *words, "-o", "json"))

    @property
    def live(self) -> Json:
        """The FluxSampler itself."""
        kind = KIND.partition(".")[0]
        return self.cluster.read(f"/apis/{API_VERSION}/namespaces/{self.namespace}/{kind}/{self.name}")

    @property
    def status(self) -> Json:
        """Its status; empty before the operator has seen it."""
        found: Json = self.live.get("status") or {}
        return found

    def condition(self, kind: str) -> Json:
        """One condition; empty where it is not there, or about an older generation."""
        found = self.live
        for one in (found.get("status") or {}).get("conditions", ()):
            if one["type"] == kind and one["observedGeneration"] == found["metadata"]["generation"]:
                condition: Json = one
                return condition
        return {}

    @property
    def pods(self) -> list[Json]:
        """Its Ray pods that are not being deleted."""
        items: list[Json] = self._list("pods", labelSelector=f"{SAMPLER_LABEL}={self.child}")
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def events(self, **fields: str) -> list[Json]:
        """Events of its namespace whose fields are so (dots written as __)."""
        chosen = ",".join(f"{name.replace('__', '.')}={value}" for name, value in fields.items())
        return self._list("events", fieldSelector=chosen)

    def _list(self, kind: str, **query: str) -> list[Json]:
        items: list[Json] = self.cluster.read(
            f"/api/v1/namespaces/{self.namespace}/{kind}?{urlencode(query)}"
        )["items"]
        return items

    @property
    def child(self) -> str:
        """What its objects are called and labelled: its name, shortened where that is too long."""
        return child_name(self.name)

    @property
    def pod_uids(self) -> set[str]:
        """UIDs of its Ray pods."""
        return {pod["metadata"]["uid"] for pod in self.pods}

    @property
    def gang(self) -> set[str]:
        """Processes of the gangs' ranks and their forkservers, as worker pods number them."""
        # The brackets keep the search from finding itself.
        search = "grep -lz 'fluxsampler_serve[.]gang[.]server' /proc/[0-9]*/cmdline 2>/dev/null"
        workers = [
            pod["metadata"]["name"]
            for pod in self.pods
            if pod["metadata"]["labels"]["ray.io/node-type"] == "worker"
        ]
        return {
            f"{name}:{line}"
            for name in workers
            for line in self.cluster.kubectl("exec", "-n", self.namespace, name, "--", "bash", "-c", f"{search} || true").split()
        }  # fmt: skip

    @property
    def url(self) -> str:
        """Where this machine reaches its Service: by the cluster IP, since cluster names resolve in pods only."""
        host, _, port = self.status["url"].removeprefix("http://").partition(":")
        service = self.get("service", host.partition(".")[0])
        return f"http://{service['spec']['clusterIP']}:{port}"

    def draw(self, prompt: str, token: str | None = None, url: str | None = None) -> Drawn:
        """One picture through the Service, or from ``url``; fails the test with the service's own words."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = httpx.post(
            f"{url or self.url}/v1/images/generations",
            json={"prompt": prompt, "seed": 1},
            headers=headers,
            timeout=300,
            trust_env=False,
        )
        assert answer.status_code == 200, f"HTTP {answer.status_code} {dict(answer.headers)}: {answer.text!r}"
        data = BytesIO(b64decode(answer.json()["data"][0]["b64_json"]))
        return Drawn(np.asarray(Image.open(data).convert("RGB")), answer.headers["x-fluxsampler-engine"])

    def cli(self, *words: str | Path) -> str:
        """What `fluxsampler WORDS` prints, with the cluster's kubectl on its PATH."""
        path = f"{self.cluster.kubectl.program.parent}:{os.environ['PATH']}"
        ended = subprocess.run(
            [CLI, *words], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300, check=False
        )  # fmt: skip
        assert ended.returncode == 0, f"fluxsampler {' '.join(map(str, words))}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def wait(
        self, holds: Callable[[], object], what: str, seconds: float = READY_SECONDS, interval: float = 0.25
    ) -> float:
        """Seconds until ``holds``; fails with the status as it is then. What calls kubectl wants an ``interval`` of a second."""
        start = time.monotonic()
        try:
            wait_for(holds, seconds, f"{self.namespace}/{self.name}: {what}", interval=interval)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.told()}") from error
        return time.monotonic() - start

    def wait_ready(self, seconds: float = READY_SECONDS) -> float:
        """Seconds until it is Ready for its present generation."""
        return self.wait(lambda: self.condition("Ready").get("status") == "True", "Ready", seconds)

    def wait_reason(self, kind: str, reason: str, seconds: float = 120.0) -> float:
        """Seconds until condition ``kind`` names ``reason``."""
        return self.wait(
            lambda: self.condition(kind).get("reason") == reason, f"{kind} says {reason}", seconds
        )

    def told(self) -> str:
        """All that its conditions, pods and events say, for a failing test."""
        lines = [
            f"{one['type']}={one['status']} {one['reason']}: {one['message']}"
            for one in self.status.get("conditions", ())
        ]
        for words in (("pods", "-o", "wide"), ("events", "--sort-by=.lastTimestamp")):
            lines.append(self.cluster.kubectl("get", "-n", self.namespace, *words))
        return "\n".join(lines)
