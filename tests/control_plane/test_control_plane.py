"""The control plane that all tests here stand on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tools.cluster.errors import CommandFailed
from tools.cluster.processes import marked

from tests.support.cluster import ControlPlane, wait_for


def test_a_service_account_may_do_what_rbac_says_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    kubectl = control_plane.kubectl_as(control_plane.service_account(namespace, "reader"))
    with pytest.raises(CommandFailed, match=r"cannot list resource \"configmaps\""):
        kubectl("-n", namespace, "get", "configmaps")
    admin = control_plane.kubectl
    admin("-n", namespace, "create", "role", "reader", "--verb=list", "--resource=configmaps")
    admin(
        "-n",
        namespace,
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        f"--serviceaccount={namespace}:reader",
    )
    kubectl("-n", namespace, "get", "configmaps")
    with pytest.raises(CommandFailed, match="cannot create"):
        kubectl("-n", namespace, "create", "configmap", "one")


def test_the_audit_log_tells_writes_from_reads_and_whose_they_are(
    control_plane: ControlPlane, namespace: str
) -> None:
    mark = control_plane.audit.mark()
    control_plane.kubectl("-n", namespace, "create", "configmap", "one")
    control_plane.kubectl("-n", namespace, "create", "configmap", "two", "--dry-run=server")
    control_plane.kubectl("-n", namespace, "get", "configmap", "one")
    mine = [event for event in control_plane.audit.events(mark) if event.namespace == namespace]
    assert [(event.verb, event.code) for event in mine if event.name == "one"] == [
        ("create", 201),
        ("get", 200),
    ]
    writes = control_plane.audit.writes(mark, user="fluxsampler-admin")
    assert [event.name for event in writes if event.namespace == namespace] == ["one"]


def test_two_control_planes_know_nothing_of_each_other(control_plane: ControlPlane) -> None:
    with ControlPlane(audited=False) as other:
        other.kubectl("create", "namespace", "only-there")
        assert other.endpoint.url != control_plane.endpoint.url
        with pytest.raises(CommandFailed, match="not found"):
            control_plane.kubectl("get", "namespace", "only-there")
        folder = other.folder
    assert not folder.exists()


def test_controllers_make_deletion_complete() -> None:
    with ControlPlane(audited=False) as plane:
        for name in ("one", "two"):
            plane.kubectl("create", "namespace", name)
        # The namespace controller lets a deleted one rest for five seconds.
        plane.kubectl("delete", "namespace", "two", "--wait=false")
        plane.kubectl("-n", "one", "create", "configmap", "owner")
        owner = json.loads(plane.kubectl("-n", "one", "get", "configmap", "owner", "-o", "json"))
        reference = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": "owner",
            "uid": owner["metadata"]["uid"],
        }
        child = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "child", "ownerReferences": [reference]},
        }
        plane.kubectl("-n", "one", "create", "-f", "-", stdin=json.dumps(child))
        plane.run_controllers()
        plane.kubectl("-n", "one", "delete", "configmap", "owner")
        wait_for(
            lambda: not plane.kubectl("-n", "one", "get", "configmap", "child", "--ignore-not-found"),
            60,
            "the owned object to go",
        )
        plane.kubectl("wait", "--for=delete", "namespace/two", "--timeout=60s")


def test_one_whose_caller_was_killed_ends_and_its_folder_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A place of its own, since the next of another test process would remove it as well.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "from tools.cluster.control_plane import ControlPlane\nwith ControlPlane() as plane:\n    print(plane.folder, flush=True)\n    input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as caller:
        assert caller.stdout is not None
        folder = Path(caller.stdout.readline().strip())
        assert folder.parent == tmp_path
        assert marked(folder)
        caller.kill()
    wait_for(lambda: not marked(folder), 60, "its daemons to end")
    assert folder.exists()
    with ControlPlane(audited=False):
        assert not folder.exists()
