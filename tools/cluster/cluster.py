"""The whole cluster: up, down, what is the matter with it.

``up`` and ``down`` hold one lock per machine. ``up`` remembers in its state folder what it will have to
undo before it does it, so that the next ``up`` or ``down`` can clean up after one that was killed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tools.cluster import (
    api_server,
    binaries,
    containers,
    kuberay,
    network,
    node,
    packages,
    ports,
    probes,
    recipes,
    registry,
    strays,
)
from tools.cluster.api import Api
from tools.cluster.api_server import Endpoint
from tools.cluster.audit import AuditLog
from tools.cluster.binaries import Binaries
from tools.cluster.cards import REGISTERED_LABEL, RESOURCE, Nodes
from tools.cluster.certificates import Authority
from tools.cluster.commands import Kubectl
from tools.cluster.errors import CannotRun, ClusterError, NotReady
from tools.cluster.locks import exclusive
from tools.cluster.processes import Processes, boot_id
from tools.cluster.say import say, step
from tools.cluster.state import LOCK, Memory, State, state_folder
from tools.cluster.waiting import wait_for
from tools.cluster.worker import Worker

_API_PORT, _ETCD_PORT, _ETCD_PEER_PORT = 6443, 12379, 12380
_CONTROLLER_PORT, _SCHEDULER_PORT = 10257, 10259
_PORTS = {_API_PORT: "the API server", _ETCD_PORT: "etcd", _ETCD_PEER_PORT: "etcd", 5000: "the registry", 10250: "the kubelet",
          10248: "the kubelet", 10256: "kube-proxy", 10249: "kube-proxy", _CONTROLLER_PORT: "the controller manager",
          _SCHEDULER_PORT: "the scheduler"}  # fmt: skip
_PAUSE = f"{registry.ADDRESS}/pause:{recipes.PAUSE.version}"
_NODE_SECONDS = 180.0
_REPOSITORY = Path(__file__).parents[2]
# In the order of their start.
PARTS = ("etcd", "apiserver", "controller-manager", "scheduler", "registry", "containerd", "kubelet", "proxy", "coredns",
         "node-keeper")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """How the cluster is: parts by name, and whether each runs."""

    kubeconfig: Path
    parts: dict[str, bool]
    ready: bool
    nodes: tuple[str, ...]
    kuberay: bool

    @property
    def up(self) -> bool:
        """Whether everything runs and answers."""
        return self.ready and all(self.parts.values())


class Cluster:
    """The machine's cluster, whether it is up or not."""

    def __init__(self, folder: Path | None = None) -> None:
        self.state = State(folder or state_folder())
        self._processes = Processes(self.state.folder)
        self._at = Endpoint(self.state.folder, network.API_ADDRESS, _API_PORT, _ETCD_PORT, _ETCD_PEER_PORT)

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.state.kubeconfig

    @property
    def binaries(self) -> Binaries:
        """The programs it runs."""
        return Binaries(binaries.cache_folder(), recipes.ALL)

    @property
    def kubectl(self) -> Kubectl:
        """kubectl, as administrator."""
        return Kubectl(self.binaries.path("kubectl"), self.kubeconfig)

    @property
    def audit(self) -> AuditLog:
        """Every answered request."""
        return AuditLog(self._at.audit_log)

    def client(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for ``user`` in ``groups``, who may do what RBAC says."""
        name = "".join(letter if letter.isalnum() else "-" for letter in user)
        return api_server.make_user(self._at, Authority.load(self._at.pki), f"user-{name}", user, groups)

    def report(self) -> Report:
        """How it is now.

        Raises:
            CannotRun: it is there, and another user's.
        """
        if self.kubeconfig.exists() and not os.access(self.kubeconfig, os.R_OK):
            raise CannotRun("the cluster on this machine is root's: run this as root")
        running = {}
        for name in PARTS:
            record = self._processes.record(name)
            running[name] = record is not None and record.alive()
        running |= {record.name: record.alive() for record in self._processes.records()}
        ready = self.kubeconfig.exists() and Api(self.kubeconfig).ready()
        nodes: tuple[str, ...] = ()
        if ready:
            items = Api(self.kubeconfig).call("GET", "/api/v1/nodes")["items"]
            nodes = tuple(_describe(item) for item in items)
        return Report(self.kubeconfig, running, ready, nodes, ready and kuberay.installed(self.kubectl))

    def up(self, *, nodes: int | None = None, kubelets: int | None = None, with_kuberay: bool = True) -> None:
        """Bring it up; returns soon when it is.

        Args:
            nodes: how many in all; None: as many as there are, or have a kubelet.
            kubelets: how many of them have a kubelet; None: as many as do, or one. They only become more.
            with_kuberay: whether KubeRay is to be there in the end.

        Raises:
            CannotRun: the machine lacks something.
            NotReady: a part did not become ready; the text ends with its log.
        """
        if os.geteuid() != 0:
            raise CannotRun("a cluster needs root (kubelet, containers, packet filter): run this as root")
        packages.require()
        programs = binaries.ensure()
        with exclusive(
            LOCK, lambda holder: say(f"== Waiting for {holder}, which starts or stops the cluster")
        ):
            self._up(programs, nodes, kubelets, with_kuberay)

    def down(self) -> None:
        """Take everything away that a cluster made, however far it came."""
        if os.geteuid() != 0:
            raise CannotRun("only root can stop a cluster: run this as root")
        with exclusive(
            LOCK, lambda holder: say(f"== Waiting for {holder}, which starts or stops the cluster")
        ):
            if self._exists():
                self._clean()
            else:
                say("== No cluster of this tool is here")

    def install_kuberay(self) -> None:
        """Bring KubeRay into the running cluster."""
        kuberay.install(self.kubectl, self.binaries, self.state.folder / "kuberay")

    def remove_kuberay(self, *, kinds: bool = True) -> None:
        """Take it out again; with ``kinds`` also its CRDs and all Ray objects."""
        kuberay.remove(self.kubectl, self.binaries, kinds=kinds)

    def keep(self, nodes: Nodes) -> None:
        """Change what the nodes are to be; returns when the API server shows it."""
        nodes.write(self.state.cards)
        wait_for(lambda: self._kept(nodes), _NODE_SECONDS, "nodes with their cards")

    def restart(self, part: str) -> None:
        """Kill one part and start it again, as its supervisor on a real node would."""
        record = self._processes.record(part)
        if record is None:
            raise ClusterError(f"{part} was never started; parts: {', '.join(PARTS)}")
        self._processes.stop(part)
        self._start(part, record.argv)

    def _up(self, programs: Binaries, nodes: int | None, kubelets: int | None, with_kuberay: bool) -> None:
        memory = self.state.recall()
        fresh = memory is None or memory.phase != "up" or memory.boot != boot_id()
        if fresh:
            if self._exists():
                say("== An earlier start did not come to its end: cleaning up after it")
                self._clean()
            _check_alone()
            self._fresh_start(programs)
        else:
            self._revive()
        self._set_nodes(programs, nodes, kubelets)
        if with_kuberay and (fresh or not kuberay.installed(self.kubectl)):
            with step("KubeRay"):
                self.install_kuberay()
        self.state.finished()

    def _set_nodes(self, programs: Binaries, nodes: int | None, kubelets: int | None) -> None:
        present = Nodes.read(self.state.cards)
        real = max(kubelets or 1, len(present.real))
        workers = [Worker(self._at, number) for number in range(1, real + 1)]
        names = tuple(worker.name for worker in workers)
        all_names = dict.fromkeys((*names, *present.registered))
        if nodes is not None:
            all_names = dict.fromkeys(f"node-{number}" for number in range(1, max(nodes, real) + 1))
        wanted = replace(
            present, real=names, registered=tuple(name for name in all_names if name not in names)
        )
        # A node that was only registered goes before its kubelet comes.
        wanted.write(self.state.cards)
        authority = Authority.load(self._at.pki)
        for worker in workers[len(present.real) :]:
            with step(f"{worker.name} with a kubelet of its own"):
                self._forget_registered(worker.name)
                worker.prepare(authority)
                containerd, kubelet = worker.parts
                self._start(containerd, worker.containerd(_PAUSE))
                self._start(kubelet, worker.kubelet(programs))
        self.keep(wanted)

    def _forget_registered(self, name: str) -> None:
        api = Api(self.kubeconfig)

        def gone() -> bool:
            found = api.find(f"/api/v1/nodes/{name}")
            if found is not None and REGISTERED_LABEL in found["metadata"].get("labels", {}):
                api.call("DELETE", f"/api/v1/nodes/{name}")
            return found is None

        wait_for(gone, _NODE_SECONDS, f"the registration of {name} to go")

    def _exists(self) -> bool:
        return self.state.folder.exists() or bool(self._processes.all_alive())

    def _fresh_start(self, programs: Binaries) -> None:
        state, at = self.state, self._at
        state.folder.mkdir(parents=True, mode=0o755)
        state.remember(Memory("starting", boot_id(), network.sysctls(), strays.absent()))
        first = Worker(at, 1)
        containerd, kubelet = first.parts
        authority = api_server.make_keys(at)
        first.prepare(authority)
        for name, user, groups in _USERS:
            api_server.make_user(at, authority, name, user, groups)
        authority.issue("fluxsampler-apiserver", ["system:masters"]).write(at.pki, "kubelet-client")
        registry_config = str(registry.write_config(state.folder / "registry"))
        with step("etcd, API server, registry, containerd"):
            self._start("etcd", api_server.etcd(at))
            self._start_together(
                {
                    "apiserver": api_server.api_server(at, programs, extra=_api_flags(at)),
                    containerd: first.containerd(_PAUSE),
                    "registry": ["docker-registry", "serve", registry_config],
                }
            )
            registry.push_program("pause", recipes.PAUSE.version, programs.path("pause"), "pause")
        with step("Controllers, scheduler, kubelet, kube-proxy, DNS"):
            Nodes((first.name,)).write(state.cards)
            self.kubectl("apply", "--server-side", "-f", "-", stdin=node.dns_objects())
            scheduler = str(at.kubeconfig("scheduler"))
            keeper = [str(at.kubeconfig("keeper")), str(state.cards)]
            self._start_together(
                {
                    "controller-manager": api_server.controller_manager(at, programs, _CONTROLLER_PORT),
                    "scheduler": [
                        str(programs.path("kube-scheduler")),
                        f"--kubeconfig={scheduler}",
                        f"--authentication-kubeconfig={scheduler}",
                        f"--authorization-kubeconfig={scheduler}",
                        "--bind-address=127.0.0.1",
                        "--leader-elect=false",
                    ],
                    kubelet: first.kubelet(programs),
                    "proxy": node.proxy(at, programs, first.name),
                    "coredns": node.dns(at, programs),
                    "node-keeper": [sys.executable, "-m", "tools.cluster.node_keeper", *keeper],
                }
            )

    def _start_together(self, commands: Mapping[str, Sequence[str]]) -> None:
        with ThreadPoolExecutor() as pool:
            for future in [pool.submit(self._start, name, argv) for name, argv in commands.items()]:
                future.result()

    def _revive(self) -> None:
        """Start those parts again that ended by themselves."""
        for name in dict.fromkeys((*PARTS, *(record.name for record in self._processes.records()))):
            record = self._processes.record(name)
            if record is None:
                raise NotReady(f"{self.state.folder} lacks {name}: stop the cluster, and start it again")
            if not record.alive():
                with step(f"{name} had ended; starting it again"):
                    self._start(name, record.argv)

    def _start(self, name: str, argv: Sequence[str]) -> None:
        self._processes.start(name, argv, {"PYTHONPATH": str(_REPOSITORY)})
        self._processes.await_ready(name, self._ready(name))

    def _ready(self, name: str) -> Callable[[], object]:
        """The question that says whether part ``name`` works."""
        questions: dict[str, Callable[[], object]] = {
            "etcd": lambda: api_server.etcd_healthy(self._at),
            "apiserver": lambda: Api(self.kubeconfig).ready(),
            "controller-manager": lambda: probes.http_ok(f"https://127.0.0.1:{_CONTROLLER_PORT}/healthz"),
            "scheduler": lambda: probes.http_ok(f"https://127.0.0.1:{_SCHEDULER_PORT}/healthz"),
            "registry": lambda: probes.http_ok(f"http://{registry.ADDRESS}/v2/"),
            "proxy": lambda: probes.http_ok(node.PROXY_HEALTH),
            "coredns": lambda: probes.resolves(network.API_ADDRESS, f"kubernetes.default.svc.{node.DOMAIN}"),
            "node-keeper": lambda: self._kept(Nodes.read(self.state.cards)),
        }
        part, _, number = name.partition("-")
        worker = Worker(self._at, int(number) if number.isdigit() else 1)
        if part == "containerd":
            return lambda: probes.containerd_answers(worker.socket)
        if part == "kubelet":
            return lambda: probes.http_ok(worker.health) and self._node_ready(worker.name)
        return questions[name]

    def _node_ready(self, name: str) -> bool:
        found = Api(self.kubeconfig).find(f"/api/v1/nodes/{name}")
        return found is not None and _is_ready(found)

    def _kept(self, wanted: Nodes) -> bool:
        items = Api(self.kubeconfig).call("GET", "/api/v1/nodes")["items"]
        names = {*wanted.real, *wanted.registered}
        cards = str(wanted.cards.count)
        return {item["metadata"]["name"] for item in items} == names and all(
            _is_ready(item) and item["status"].get("allocatable", {}).get(RESOURCE) == cards for item in items
        )

    def _clean(self) -> None:
        state = self.state
        memory = state.recall()
        with step("Stopping the cluster"):
            self._processes.kill_all()
            containers.kill_pods()
            containers.unmount_below(state.folder)
            network.remove_links()
            network.remove_rules()
            containers.remove_cgroups()
            if memory is not None:
                network.restore_sysctls(memory.sysctls)
            strays.remove(state.folder, memory.made if memory is not None else ())
            # Last: what it remembers is needed until everything else is gone.
            containers.remove_tree(state.folder)


def _api_flags(at: Endpoint) -> list[str]:
    return [
        f"--advertise-address={at.address}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-certificate-authority={at.pki / 'ca.crt'}",
        f"--kubelet-client-certificate={at.pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={at.pki / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


_USERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("controller-manager", "system:kube-controller-manager", ()),
    ("scheduler", "system:kube-scheduler", ()),
    ("proxy", "system:kube-proxy", ()),
    ("coredns", "system:coredns", ()),
    ("keeper", "fluxsampler-node-keeper", ("system:masters",)),
)


def _is_ready(item: dict[str, object]) -> bool:
    status = item["status"]
    assert isinstance(status, dict)
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))


def _describe(item: dict[str, object]) -> str:
    metadata, status = item["metadata"], item["status"]
    assert isinstance(metadata, dict)
    assert isinstance(status, dict)
    cards = status.get("allocatable", {}).get(RESOURCE, "0")
    return f"{metadata['name']}: {'Ready' if _is_ready(item) else 'not ready'}, {cards} cards"


def _check_alone() -> None:
    # What is found here later would be taken for ours.
    if containers.pod_processes():
        raise CannotRun("pods of another Kubernetes run on this machine: stop that first")
    for port, part in _PORTS.items():
        holder = ports.holder(port)
        if holder:
            raise CannotRun(f"port {port} is {part}'s and {holder} has it: stop that first")
