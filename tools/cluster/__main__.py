"""`python -m tools.cluster`: see --help."""

from __future__ import annotations

import argparse
import signal
import sys

from tools.cluster import binaries
from tools.cluster.cluster import Cluster
from tools.cluster.control_plane import ControlPlane
from tools.cluster.errors import ClusterError
from tools.cluster.say import say


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0; 1 with the reason on standard error; 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["image"]:
        from tools.cluster import image

        return image.main(words[1:])
    arguments = _parser().parse_args(words)
    try:
        return _COMMANDS[arguments.command](arguments)
    except ClusterError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next up or down cleans up")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.cluster", description="A real Kubernetes on this machine, without Docker."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the cluster up (as root); soon done when it is")
    up.add_argument(
        "--nodes",
        type=int,
        help="how many nodes with eight fake cards each (default: as many as have a kubelet)",
    )
    up.add_argument("--kubelets", type=int, help="how many of them have a kubelet (default: one)")
    up.add_argument(
        "--without-kuberay", action="store_true", help="leave KubeRay out (later: kuberay install)"
    )
    commands.add_parser("down", help="take everything of it away (as root)")
    commands.add_parser("status", help="how it is; exit status 1 when it is not up")
    commands.add_parser("build", help="build and fetch what is missing, and start nothing")
    commands.add_parser("control-plane", help="etcd and an API server only, until Ctrl-C")
    ray = commands.add_parser("kuberay", help="bring KubeRay into the running cluster, or take it away")
    ray.add_argument("action", choices=["install", "remove"])
    restart = commands.add_parser("restart", help="kill one part and start it again")
    restart.add_argument("part")
    commands.add_parser("image", help="build images for it; see image --help", add_help=False)
    return parser


def _up(arguments: argparse.Namespace) -> int:
    cluster = Cluster()
    cluster.up(nodes=arguments.nodes, kubelets=arguments.kubelets, with_kuberay=not arguments.without_kuberay)
    say(f"The cluster is up; logs in {cluster.state.logs}. For your shell:\n")
    print(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.binaries.clients}:$PATH")
    return 0


def _down(_: argparse.Namespace) -> int:
    Cluster().down()
    return 0


def _status(_: argparse.Namespace) -> int:
    cluster = Cluster()
    report = cluster.report()
    for name, runs in report.parts.items():
        print(f"{name:20} {'runs' if runs else 'does not run'}")
    for line in report.nodes:
        print(line)
    print(f"KubeRay {'is installed' if report.kuberay else 'is not installed'}")
    if report.up:
        print(f"\nexport KUBECONFIG={report.kubeconfig} PATH={cluster.binaries.clients}:$PATH")
    return 0 if report.up else 1


def _build(_: argparse.Namespace) -> int:
    print(binaries.ensure().cache)
    return 0


def _control_plane(_: argparse.Namespace) -> int:
    with ControlPlane() as plane:
        say(f"Ready; audit log in {plane.endpoint.audit_log}. Ctrl-C ends it. For another shell:\n")
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


def _kuberay(arguments: argparse.Namespace) -> int:
    cluster = Cluster()
    if arguments.action == "install":
        cluster.install_kuberay()
    else:
        cluster.remove_kuberay()
    return 0


def _restart(arguments: argparse.Namespace) -> int:
    Cluster().restart(arguments.part)
    return 0


_COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "build": _build,
    "control-plane": _control_plane,
    "kuberay": _kuberay,
    "restart": _restart,
}

if __name__ == "__main__":
    sys.exit(main())
