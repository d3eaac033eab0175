"""What may happen to the operator's pod in a cluster: killed, stopped, gone, back; and what it left in its log."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tools.cluster.commands import Kubectl
from tools.cluster.errors import CommandFailed
from tools.cluster.waiting import wait_for

from tests.support.installation import Installation

Json = dict[str, Any]

SECONDS = 120.0
# Holds a deleted pod's object, so that it can still be asked how its container ended.
HELD = "fluxsampler.io/test"


@dataclass(frozen=True, slots=True)
class OperatorPod:
    """The pod of one release's operator, whichever it is at the moment."""

    installation: Installation

    @property
    def _kubectl(self) -> Kubectl:
        return self.installation.cluster.kubectl

    @property
    def _labels(self) -> tuple[str, str]:
        return (
            "-l",
            f"app.kubernetes.io/instance={self.installation.release},app.kubernetes.io/component=operator",
        )

    @property
    def running(self) -> Json | None:
        """The pod with a running container that is not being deleted; None while there is none."""
        query = urlencode({"labelSelector": self._labels[1]})
        path = f"/api/v1/namespaces/{self.installation.namespace}/pods?{query}"
        for pod in self.installation.cluster.read(path)["items"]:
            if "deletionTimestamp" not in pod["metadata"] and self._container(pod):
                found: Json = pod
                return found
        return None

    @staticmethod
    def _container(pod: Json) -> str:
        """Id of its running container, bare; empty while none runs."""
        for one in pod["status"].get("containerStatuses", ()):
            if "running" in one["state"]:
                return str(one["containerID"]).rpartition("/")[2]
        return ""

    def wait_running(self, other_than: str = "") -> str:
        """The id of the running container once there is one, and it is not ``other_than``."""
        found = ""

        def runs() -> bool:
            nonlocal found
            pod = self.running
            found = self._container(pod) if pod else ""
            return found not in ("", other_than)

        wait_for(runs, SECONDS, "the operator's container runs", interval=0.25)
        return found

    def delete_at_once(self) -> str:
        """Delete the pod without any grace, as a lost node does; its container's id."""
        container = self.wait_running()
        pod = self.running
        assert pod is not None
        self._kubectl(
            "delete", "pod", pod["metadata"]["name"], "-n", self.installation.namespace,
            "--grace-period=0", "--force", "--wait=false",
        )  # fmt: skip
        return container

    def kill_process(self) -> str:
        """`kill -9` of all in its container, which is on this machine; the container's id."""
        container = self.wait_running()
        own = [process for process in Path("/proc").glob("[0-9]*") if container in _cgroups(process)]
        assert own, f"no process of container {container} on this machine"
        for process in own:
            try:
                os.kill(int(process.name), signal.SIGKILL)
            except ProcessLookupError:
                continue  # tini went with its child
        return container

    def stop(self) -> tuple[int, float]:
        """Delete the pod as Kubernetes always does, by SIGTERM: its exit code, and the seconds it took (in whole ones)."""
        self.wait_running()
        pod = self.running
        assert pod is not None
        where = (pod["metadata"]["name"], "-n", self.installation.namespace)
        self._kubectl(
            "patch", "pod", *where, "--type=merge", "-p", json.dumps({"metadata": {"finalizers": [HELD]}})
        )
        ended: Json = {}
        try:
            self._kubectl("delete", "pod", *where, "--wait=false")

            def over() -> bool:
                nonlocal ended
                ended = json.loads(self._kubectl("get", "pod", *where, "-o", "json"))
                return "terminated" in ended["status"]["containerStatuses"][0]["state"]

            wait_for(over, SECONDS, "the operator's container ends", interval=0.25)
        finally:
            self._kubectl(
                "patch", "pod", *where, "--type=merge", "-p", json.dumps({"metadata": {"finalizers": None}})
            )
        meta, last = ended["metadata"], ended["status"]["containerStatuses"][0]["state"]["terminated"]
        asked = _time(meta["deletionTimestamp"]) - timedelta(seconds=meta["deletionGracePeriodSeconds"])
        return int(last["exitCode"]), (_time(last["finishedAt"]) - asked).total_seconds()  # fmt: skip

    @contextmanager
    def away(self) -> Iterator[None]:
        """No operator meanwhile; it is ready again afterwards."""
        self._scale(0)
        wait_for(lambda: not self._pods(), SECONDS, "the operator is gone", interval=0.5)
        try:
            yield
        finally:
            self._scale(1)
            self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the Deployment is as it should be."""
        self._kubectl(
            "rollout", "status", "deployment", *self._labels, "-n", self.installation.namespace, f"--timeout={SECONDS:.0f}s", timeout=SECONDS + 10,
        )  # fmt: skip

    def assert_clean_log(self, *secrets: str) -> None:
        """No traceback, and none of ``secrets``, in what the container says, and said before it last started."""
        logs: list[str] = []

        def spoke() -> bool:
            # A container runs a moment before it has said anything.
            logs[:] = self._logs()
            return any("operator starts" in text for text in logs)

        wait_for(spoke, SECONDS, "the operator's first line", interval=0.25)
        for text in logs:
            bad = [line for line in text.splitlines() if "Traceback" in line or '"exception"' in line]
            assert not bad, bad[:3]
            assert not [secret for secret in secrets if secret in text]

    def _logs(self) -> list[str]:
        """What the container says, and said before it last started; empty while there is none to ask."""
        pod = self.running
        if pod is None:
            return []
        words = ["logs", "-n", self.installation.namespace, pod["metadata"]["name"]]
        try:
            logs = [self._kubectl(*words)]
            if any(one["restartCount"] for one in pod["status"]["containerStatuses"]):
                logs.append(self._kubectl(*words, "--previous"))
        except CommandFailed:
            return []  # it is being started again
        return logs

    def _scale(self, replicas: int) -> None:
        self._kubectl(
            "scale", "deployment", *self._labels, "-n", self.installation.namespace, f"--replicas={replicas}"
        )

    def _pods(self) -> str:
        return self._kubectl(
            "get", "pods", "-n", self.installation.namespace, "-o", "name", *self._labels,
        )  # fmt: skip


def _cgroups(process: Path) -> str:
    try:
        return (process / "cgroup").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
