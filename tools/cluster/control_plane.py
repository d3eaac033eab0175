"""etcd and an API server of one's own, ready in seconds: for tests of everything that needs no kubelet.

    with ControlPlane() as plane:
        plane.kubectl("apply", "-f", "crds/")

Any number of them run beside each other and beside the whole cluster (free ports, a temporary
folder). They need no root, and end with the process that started them, however that ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tools.cluster import api_server, packages, ports, probes, recipes
from tools.cluster.api import Api
from tools.cluster.api_server import Endpoint
from tools.cluster.audit import AuditLog
from tools.cluster.binaries import ensure
from tools.cluster.certificates import Authority
from tools.cluster.commands import Kubectl
from tools.cluster.errors import NotReady
from tools.cluster.files import publish
from tools.cluster.processes import Processes, boot_id, started

_ATTEMPTS = 3
_PREFIX = "fluxsampler-control-plane-"
_OWNER = "owner"
# Without these controllers deletion stops halfway: owned objects stay, namespaces stay terminating.
DELETION_CONTROLLERS = ("garbage-collector-controller", "namespace-controller", "serviceaccount-controller")
# ServiceAccount would refuse every pod, as nobody makes the "default" account here.
_FLAGS = (
    "--authorization-mode=RBAC",
    "--endpoint-reconciler-type=none",
    "--disable-admission-plugins=ServiceAccount",
)


class ControlPlane:
    """A context manager; use it inside ``with``.

    Attributes:
        kubeconfig: of a member of system:masters.
        audit: every request, if ``audited``.
    """

    def __init__(self, *, audited: bool = True, extra: Sequence[str] = ()) -> None:
        self._audited = audited
        self._extra = tuple(extra)
        self._started: list[str] = []

    def __enter__(self) -> Self:
        packages.require(["etcd-server"])
        self._binaries = ensure(recipes.CONTROL_PLANE)
        _remove_abandoned()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        publish(self.folder / _OWNER, f"{os.getpid()} {started(os.getpid())} {boot_id()}")
        self._processes = Processes(self.folder)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> Endpoint:
        """Addresses and files."""
        return self._endpoint

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator."""
        return self._endpoint.kubeconfig("admin")

    @property
    def audit(self) -> AuditLog:
        """Every answered request so far."""
        return AuditLog(self._endpoint.audit_log)

    @property
    def api(self) -> Api:
        """A JSON client, as administrator."""
        return Api(self.kubeconfig)

    @property
    def kubectl(self) -> Kubectl:
        """kubectl, as administrator."""
        return Kubectl(self._binaries.path("kubectl"), self.kubeconfig)

    def client(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for ``user`` in ``groups``, who may do what RBAC says."""
        name = "".join(letter if letter.isalnum() else "-" for letter in user)
        return api_server.make_user(self._endpoint, self._authority, f"user-{name}", user, groups)

    def service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with the identity that pods of service account ``name`` have."""
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
        return self.client(f"system:serviceaccount:{namespace}:{name}", groups)

    def kubectl_as(self, kubeconfig: Path) -> Kubectl:
        """kubectl, as the user of ``kubeconfig``."""
        return Kubectl(self._binaries.path("kubectl"), kubeconfig)

    def run_controllers(self, controllers: Sequence[str] = DELETION_CONTROLLERS) -> None:
        """Start a controller manager with ``controllers``; the default ones make deletion complete."""
        user = "system:kube-controller-manager"
        api_server.make_user(self._endpoint, self._authority, "controller-manager", user)
        (port,) = ports.free(1)
        argv = api_server.controller_manager(self._endpoint, self._binaries, port, controllers)
        self._daemon("controller-manager", argv)
        self._processes.await_ready(
            "controller-manager", lambda: probes.http_ok(f"https://127.0.0.1:{port}/healthz")
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it the API server takes connections and answers nothing."""
        record = self._processes.record("apiserver")
        if record is None:
            raise NotReady("there is no API server to freeze")
        os.kill(record.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(record.pid, signal.SIGCONT)

    def close(self) -> None:
        """End everything and remove its folder."""
        # The last one started first: a server that outlives its clients logs no errors.
        for name in reversed(self._started):
            self._processes.stop(name)
        self._started.clear()
        shutil.rmtree(self.folder)

    def _start(self) -> None:
        # A port may be taken between choosing and binding it; then the daemon ends, and others are tried.
        for attempt in range(1, _ATTEMPTS + 1):
            api_port, etcd_port, peer_port = ports.free(3)
            self._endpoint = Endpoint(self.folder, "127.0.0.1", api_port, etcd_port, peer_port)
            self._authority: Authority = api_server.make_keys(self._endpoint)
            try:
                self._daemon("etcd", api_server.etcd(self._endpoint))
                self._processes.await_ready("etcd", lambda: api_server.etcd_healthy(self._endpoint))
                argv = api_server.api_server(
                    self._endpoint, self._binaries, audited=self._audited, extra=[*_FLAGS, *self._extra]
                )
                self._daemon("apiserver", argv)
                self._processes.await_ready("apiserver", self.api.ready)
            except NotReady as error:
                taken = "address already in use" in str(error)
                if attempt == _ATTEMPTS or not taken:
                    raise
                for name in reversed(self._started):
                    self._processes.stop(name)
                self._started.clear()
                shutil.rmtree(self.folder / "etcd", ignore_errors=True)
            else:
                return

    def _daemon(self, name: str, argv: Sequence[str]) -> None:
        # setpriv asks the kernel to end the daemon together with the thread that started it.
        self._processes.start(name, ["setpriv", "--pdeathsig", "KILL", "--", *argv])
        self._started.append(name)


def _remove_abandoned() -> None:
    """Remove the folders of callers that were killed; their daemons ended with them."""
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        try:
            pid, ticks, boot = owner.read_text(encoding="ascii").split()
        except FileNotFoundError:  # just closed
            continue
        if boot != boot_id() or str(started(int(pid))) != ticks:
            shutil.rmtree(owner.parent, ignore_errors=True)  # of another user, perhaps
