"""What the command and the fixtures say where they cannot run."""

from __future__ import annotations

import pytest
from tools.cluster import __main__ as command
from tools.cluster import cluster, containers, ports
from tools.cluster.cluster import Cluster
from tools.cluster.errors import CannotRun

from tests.support import cluster as fixtures


@pytest.mark.parametrize("words", [["up"], ["down"]])
def test_without_root_the_command_says_so(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert command.main(words) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.endswith("run this as root\n")
    assert said.out == ""


def test_ctrl_c_says_what_comes_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Cluster, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cluster, "up", interrupted)
    assert command.main(["up"]) == 130
    assert capsys.readouterr().err == "interrupted; the next up or down cleans up\n"


def test_no_start_beside_another_kubernetes_or_on_taken_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "pod_processes", lambda: [17])
    with pytest.raises(CannotRun, match="another Kubernetes"):
        cluster._check_alone()
    monkeypatch.setattr(containers, "pod_processes", list)
    monkeypatch.setattr(ports, "holder", lambda port: "docker-proxy (process 17)" if port == 5000 else None)
    with pytest.raises(
        CannotRun, match=r"port 5000 is the registry's and docker-proxy \(process 17\) has it"
    ):
        cluster._check_alone()


def test_a_skip_says_why_and_required_makes_it_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fixtures.MODE, raising=False)
    reason = CannotRun("etcd not found; on Debian, as root: apt-get install etcd-server")
    with pytest.raises(pytest.skip.Exception, match="no Kubernetes for this test: etcd not found; on Debian"):
        fixtures.cannot_run(reason)
    monkeypatch.setenv(fixtures.MODE, "required")
    with pytest.raises(pytest.fail.Exception, match="etcd not found"):
        fixtures.cannot_run(reason)


def test_the_callers_cluster_needs_a_kubeconfig_and_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fixtures.MODE, "existing")
    monkeypatch.setattr("shutil.which", lambda name: None if name == "helm" else f"/bin/{name}")
    monkeypatch.setenv("KUBECONFIG", "/somewhere/config")
    with pytest.raises(pytest.skip.Exception, match="needs KUBECONFIG set and on PATH: helm"):
        fixtures._existing()
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setenv(fixtures.REGISTRY, "registry.local:5000")
    live = fixtures._existing()
    assert (str(live.kubeconfig), live.registry) == ("/somewhere/config", "registry.local:5000")
    with pytest.raises(pytest.skip.Exception, match="changes the cluster itself"):
        live.ours()
