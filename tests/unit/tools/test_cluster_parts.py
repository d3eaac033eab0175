"""The pure parts of the cluster: certificates, cards, packet filter rules, audit log, ports."""

from __future__ import annotations

import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID
from tools.cluster import cards, kubeconfig, network, packages, ports, registry, strays
from tools.cluster.audit import AuditLog
from tools.cluster.certificates import Authority
from tools.cluster.errors import CannotRun
from tools.cluster.state import Memory, State


def test_certificates_name_user_and_groups_and_are_signed_by_their_authority(tmp_path: Path) -> None:
    Authority.create().write(tmp_path)
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    authority = Authority.load(tmp_path)
    identity = authority.issue("jane", ["painters", "readers"], dns=["localhost"], ips=["10.97.0.1"])
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    names = certificate.subject
    assert [name.value for name in names.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["jane"]
    assert [name.value for name in names.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == [
        "painters",
        "readers",
    ]
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in alternative.get_values_for_type(x509.IPAddress)] == ["10.97.0.1"]
    # Certificate and key belong together.
    ssl.create_default_context().load_cert_chain(*identity.write(tmp_path, "jane"))


def test_a_kubeconfig_needs_no_other_file_and_is_its_owners(tmp_path: Path) -> None:
    authority = Authority.create()
    path = kubeconfig.write(tmp_path / "jane", "https://127.0.0.1:6443", authority, authority.issue("jane"))
    assert path.stat().st_mode & 0o777 == 0o600
    document = yaml.safe_load(path.read_text())
    assert set(document["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}


def node(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "node-1", "labels": {"kubernetes.io/hostname": "node-1"}}, "status": status}


def test_cards_that_a_kubelet_forgot_are_given_back_and_kept_ones_cause_no_write() -> None:
    eight = cards.Cards()
    forgotten = node(
        capacity={"cpu": "2", cards.RESOURCE: "0"}, allocatable={"cpu": "2", cards.RESOURCE: "8"}
    )
    assert cards.status_patch(forgotten, eight) == {"status": {"capacity": {cards.RESOURCE: "8"}}}
    assert cards.status_patch(node(), eight) is not None
    kept = node(capacity={cards.RESOURCE: "8"}, allocatable={cards.RESOURCE: "8"})
    assert cards.status_patch(kept, eight) is None
    patch = cards.label_patch(kept, eight)
    assert patch is not None
    kept["metadata"]["labels"] |= patch["metadata"]["labels"]
    assert cards.label_patch(kept, eight) is None
    assert cards.label_patch(kept, cards.Cards(count=4)) == {
        "metadata": {"labels": {"nvidia.com/gpu.count": "4"}}
    }


def test_a_registered_node_is_ready_big_and_tainted_and_then_left_alone() -> None:
    made = cards.registered_node("node-2", cards.Cards())
    assert made["spec"]["taints"] == [cards.REGISTERED_TAINT]
    patch = cards.registered_status_patch(made, cards.Cards(), "2026-01-01T00:00:00Z")
    assert patch is not None
    made["status"] = patch["status"]
    assert made["status"]["allocatable"][cards.RESOURCE] == "8"
    assert cards.registered_status_patch(made, cards.Cards(), "2026-01-01T00:00:10Z") is None
    made["status"]["conditions"][0]["status"] = "Unknown"  # the controllers lost its heartbeat
    assert cards.registered_status_patch(made, cards.Cards(), "2026-01-01T00:00:20Z") is not None


def test_what_is_wanted_of_nodes_survives_its_file(tmp_path: Path) -> None:
    wanted = cards.Nodes(("node-1",), cards.Cards(count=2, product="X", memory=1), ("node-2",))
    wanted.write(tmp_path / "cards.json")
    assert cards.Nodes.read(tmp_path / "cards.json") == wanted


SAVED = r"""*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:CNI-0123456789abcdef01234567 - [0:0]
:CNI-76543210fedcba9876543210 - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.98.0.2/32 -m comment --comment "name: \"fluxsampler\" id: \"49\"" -j CNI-0123456789abcdef01234567
-A POSTROUTING -s 10.88.0.2/32 -m comment --comment "name: \"podman\" id: \"50\"" -j CNI-76543210fedcba9876543210
-A CNI-0123456789abcdef01234567 -d 10.98.0.0/16 -m comment --comment "name: \"fluxsampler\" id: \"49\"" -j ACCEPT
-A CNI-76543210fedcba9876543210 -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SVC-NPX46M4PTMTKRN6Y
COMMIT
"""


def test_only_our_rules_are_taken_out_of_a_table() -> None:
    script = network.removal("nat", SAVED.splitlines()).splitlines()
    assert script == [
        "*nat",
        ":CNI-0123456789abcdef01234567 - [0:0]",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        r'-D POSTROUTING -s 10.98.0.2/32 -m comment --comment "name: \"fluxsampler\" id: \"49\"" -j CNI-0123456789abcdef01234567',
        "-X CNI-0123456789abcdef01234567",
        "-X KUBE-SERVICES",
        "-X KUBE-SVC-NPX46M4PTMTKRN6Y",
        "COMMIT",
    ]
    assert (
        network.removal(
            "nat", [line for line in SAVED.splitlines() if "KUBE" not in line and "fluxsampler" not in line]
        )
        == ""
    )


def test_the_audit_log_is_read_from_a_mark_and_half_a_line_is_not_read(tmp_path: Path) -> None:
    def line(verb: str, uri: str = "/api/v1/namespaces/x/pods/p") -> str:
        target = {"resource": "pods", "namespace": "x", "name": "p", "apiVersion": "v1"}
        document = {"verb": verb, "user": {"username": "jane", "groups": ["readers"]}, "requestURI": uri, "objectRef": target,
                    "responseStatus": {"code": 200}, "stageTimestamp": "2026-01-01T00:00:00.000000Z"}  # fmt: skip
        return json.dumps(document) + "\n"

    log = AuditLog(tmp_path / "audit.log")
    assert log.mark() == 0
    assert list(log.events()) == []
    log.path.write_text(line("create"))
    mark = log.mark()
    log.path.write_text(
        line("create") + line("get") + line("patch", "/x?dryRun=All") + line("update") + line("delete")[:30]
    )
    assert [event.verb for event in log.events(mark)] == ["get", "patch", "update"]
    assert [event.verb for event in log.writes(mark, "jane")] == ["update"]
    assert log.writes(mark, "joe") == []


def test_free_ports_are_free_and_a_taken_one_names_its_holder() -> None:
    found = ports.free(3)
    assert len(set(found)) == 3
    with socket.create_server(("127.0.0.1", found[0])):
        assert not ports.is_free("127.0.0.1", found[0])
        assert f"(process {os.getpid()})" in (ports.holder(found[0]) or "")
    assert ports.holder(found[0]) is None


def test_missing_packages_are_named_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_there", lambda program: program != "etcd")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(
        CannotRun, match=r"etcd not found; on Debian, as root: apt-get install .* etcd-server$"
    ):
        packages.require()
    packages.require(["runc"])


def test_the_same_program_is_the_same_layer(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"program")
    (tmp_path / "b").write_bytes(b"program")
    assert registry._layer(tmp_path / "a", "run") == registry._layer(tmp_path / "b", "run")


def test_only_folders_that_were_made_and_are_empty_are_pruned(tmp_path: Path) -> None:
    (tmp_path / "empty/below").mkdir(parents=True)
    (tmp_path / "full/below").mkdir(parents=True)
    (tmp_path / "full/below/of-someone").touch()
    strays._prune(tmp_path / "empty")
    strays._prune(tmp_path / "full")
    strays._prune(tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "full", "of-someone"]


def test_memory_of_a_start_survives_its_file(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    assert state.recall() is None
    state.remember(Memory("starting", "boot", {"net.ipv4.ip_forward": "0"}, ("/var/lib/kubelet",)))
    state.finished()
    assert state.recall() == Memory("up", "boot", {"net.ipv4.ip_forward": "0"}, ("/var/lib/kubelet",))
