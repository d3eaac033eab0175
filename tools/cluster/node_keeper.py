"""`python -m tools.cluster.node_keeper KUBECONFIG CARDS`: keeps the cards of nodes, and nodes without a kubelet, as they should be.

One level-based round after the other: read what is wanted, read what is, send the difference. So it
does not matter what was changed by whom (a kubelet that starts sets unknown resources to zero, a test
deletes a node), nor when this process itself was away.
"""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
import time
from pathlib import Path
from threading import Event

from tools.cluster import cards
from tools.cluster.api import APPLY_PATCH, MERGE_PATCH, Api
from tools.cluster.errors import ApiFailure

_NODES = "/api/v1/nodes"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_MANAGER = "fieldManager=fluxsampler-node-keeper&force=true"
_PERIOD = 1.0
# Leases last 40 s.
_HEARTBEAT = 10.0


class Keeper:
    """One cluster's nodes."""

    def __init__(self, api: Api, wanted: Path) -> None:
        self._api = api
        self._wanted = wanted
        self._renewed: dict[str, float] = {}

    def round(self) -> None:
        """Send what differs.

        Raises:
            ApiFailure, OSError: the API server refused, or did not answer; the next round tries again.
        """
        nodes = cards.Nodes.read(self._wanted)
        for name in nodes.real:
            node = self._api.find(f"{_NODES}/{name}")
            if node is not None:  # its kubelet has registered
                self._patch(name, cards.label_patch(node, nodes.cards))
                self._patch(f"{name}/status", cards.status_patch(node, nodes.cards))
        for name in nodes.registered:
            self._keep(name, nodes.cards)
        self._forget(nodes)

    def _keep(self, name: str, wanted: cards.Cards) -> None:
        node = self._api.find(f"{_NODES}/{name}")
        if node is None:
            node = self._api.call("POST", _NODES, cards.registered_node(name, wanted))
        if time.monotonic() - self._renewed.get(name, -_HEARTBEAT) >= _HEARTBEAT:
            self._api.call(
                "PATCH", f"{_LEASES}/{name}?{_MANAGER}", cards.lease(name, _now("microseconds")), APPLY_PATCH
            )
            self._renewed[name] = time.monotonic()
        self._patch(name, cards.label_patch(node, wanted))
        self._patch(f"{name}/status", cards.registered_status_patch(node, wanted, _now("seconds")))
        self._finish_deletions(name)

    def _finish_deletions(self, name: str) -> None:
        # A pod's deletion waits for its kubelet to say that it ended; there is none.
        pods = self._api.call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")
        for pod in pods["items"]:
            metadata = pod["metadata"]
            if "deletionTimestamp" in metadata:
                path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
                self._delete(f"{path}?gracePeriodSeconds=0")

    def _forget(self, nodes: cards.Nodes) -> None:
        present = self._api.call("GET", f"{_NODES}?labelSelector={cards.REGISTERED_LABEL}%3Dtrue")
        for node in present["items"]:
            name = node["metadata"]["name"]
            if name not in nodes.registered:
                self._delete(f"{_NODES}/{name}")
                self._renewed.pop(name, None)

    def _patch(self, path: str, patch: dict[str, object] | None) -> None:
        if patch is not None:
            self._api.call("PATCH", f"{_NODES}/{path}", patch, MERGE_PATCH)

    def _delete(self, path: str) -> None:
        try:
            self._api.call("DELETE", path)
        except ApiFailure as failure:
            if failure.status != 404:
                raise


def _now(precision: str) -> str:
    text = datetime.datetime.now(datetime.UTC).isoformat(timespec=precision)
    return text.replace("+00:00", "Z")


def main() -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tools.cluster.node_keeper", description=__doc__)
    parser.add_argument("kubeconfig", type=Path, metavar="KUBECONFIG")
    parser.add_argument("cards", type=Path, metavar="CARDS")
    arguments = parser.parse_args()
    end = Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    keeper = Keeper(Api(arguments.kubeconfig), arguments.cards)
    said = ""
    while not end.is_set():
        try:
            keeper.round()
            said = ""
        except (ApiFailure, OSError) as error:
            if str(error) != said:  # once per trouble, not once per second
                said = str(error)
                print(said, file=sys.stderr, flush=True)
        end.wait(_PERIOD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
