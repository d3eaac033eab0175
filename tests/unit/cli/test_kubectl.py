"""`status NAME` and `generate --sampler` through a stand-in for kubectl; tests/e2e has the real one."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.live_gateway import gateway
from tests.support.service import app_args

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Run

# Answers `get` from a file by its words, and says that a port is forwarded which is there already.
STAND_IN = """#!{python}
import json, sys, time
words = [word for word in sys.argv[1:] if not word.startswith("--")]
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
answers = json.load(open({answers!r}))
if words[0] == "port-forward":
    said = answers.get(" ".join(words[:2]))
    if said is None:
        print("error: no pod is ready")
        sys.exit(1)
    print(f"Forwarding from 127.0.0.1:{{said}} -> 8000", flush=True)
    time.sleep(600)
key = " ".join(words[1:3])
if key not in answers:
    print(f'Error from server (NotFound): {{key}} not found', file=sys.stderr)
    sys.exit(1)
print(json.dumps(answers[key]))
"""

TIME = "2026-11-22T10:00:00Z"


def sampler(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "tiny", "namespace": "art", "uid": "u1", "generation": 3},
        "spec": {"serving": {"authSecretRef": {"name": "token", "key": "token"}}},
        "status": status,
    }


READY = sampler(
    observedGeneration=3,
    phase="Ready",
    engine="parallel",
    replicas=1,
    fallbackReplicas=1,
    url="http://tiny.art.svc:8000",
    selector="fluxsampler.io/sampler=tiny",
    conditions=[
        {"type": "Ready", "status": "True", "reason": "Ready", "message": "draws", "lastTransitionTime": TIME},
        {"type": "Degraded", "status": "False", "reason": "AsExpected", "message": "", "lastTransitionTime": TIME},
    ],
)  # fmt: skip
POD = {
    "metadata": {"name": "tiny-worker-0", "uid": "p1", "creationTimestamp": TIME, "ownerReferences": [{"uid": "rc"}]},
    "spec": {"nodeName": "node-1", "containers": [{}]},
    "status": {
        "phase": "Running",
        "containerStatuses": [{"ready": False, "restartCount": 2, "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
    },
}  # fmt: skip


def event(uid: str, reason: str) -> dict[str, Any]:
    return {
        "metadata": {},
        "involvedObject": {"uid": uid, "kind": "Pod", "name": "tiny-worker-0"},
        "type": "Warning", "reason": reason, "message": f"{reason} happened", "lastTimestamp": TIME,
    }  # fmt: skip


class Cluster:
    """What the stand-in answers, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, Any] = {}
        self._file, self._log = folder / "answers.json", folder / "asked"
        program = folder / "kubectl"
        program.write_text(
            STAND_IN.format(python=sys.executable, log=str(self._log), answers=str(self._file))
        )
        program.chmod(0o755)
        self.write()

    def write(self, **answers: Any) -> None:
        self.answers |= {key.replace("__", " "): value for key, value in answers.items()}
        self._file.write_text(json.dumps(self.answers))

    def knows(self, found: dict[str, Any], *extra: tuple[str, Any]) -> None:
        self.answers |= {"fluxsamplers.fluxsampler.io tiny": found, **dict(extra)}
        self.write()

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Cluster(tmp_path)


def with_pods(cluster: Cluster) -> None:
    cluster.knows(
        READY,
        ("pods fluxsampler.io/sampler=tiny", {"items": [POD]}),
        (
            "events -o",
            {"items": [event("p1", "Failed"), event("rc", "FailedCreate"), event("other", "NotOurs")]},
        ),
    )


def test_status_shows_conditions_pods_and_events_of_a_sampler(run: Run, cluster: Cluster) -> None:
    with_pods(cluster)
    shown = run("status", "tiny", "-n", "art", "--context", "prod")
    assert shown.exit_code == 0, shown.stderr
    for word in (
        "art/tiny",
        "Ready",
        "parallel",
        "http://tiny.art.svc:8000",
        "ImagePullBackOff",
        "0/1",
        "node-1",
    ):
        assert word in shown.stdout, word
    assert "FailedCreate" in shown.stdout
    assert "NotOurs" not in shown.stdout
    assert all("--namespace=art" in words and "--context=prod" in words for words in cluster.asked)


def test_status_shows_other_peoples_brackets_as_they_are(run: Run, cluster: Cluster) -> None:
    said = "rank [0/2] found [/dev/shm] full"
    found = sampler(
        **READY["status"] | {"conditions": [READY["status"]["conditions"][0] | {"message": said}]}
    )
    with_pods(cluster)
    cluster.knows(found)
    shown = run("status", "tiny")
    assert shown.exit_code == 0, shown.stderr
    assert "[/dev/shm]" in shown.stdout


def test_status_as_json_is_data(run: Run, cluster: Cluster) -> None:
    with_pods(cluster)
    answer = json.loads(run("status", "tiny", "-n", "art", "-o", "json").stdout)
    assert answer["status"]["phase"] == "Ready"
    assert answer["pods"] == [
        {"name": "tiny-worker-0", "ready": "0/1", "status": "ImagePullBackOff", "restarts": "2", "node": "node-1"}
    ]  # fmt: skip
    assert [one["reason"] for one in answer["events"]] == ["Failed", "FailedCreate"]


def test_status_says_when_the_operator_is_behind(run: Run, cluster: Cluster) -> None:
    cluster.knows(sampler(observedGeneration=2, phase="Ready", conditions=[]), ("events -o", {"items": []}))
    shown = run("status", "tiny", "-n", "art")
    assert "generation 2 of 3" in shown.stderr
    cluster.knows(sampler())
    assert "is the operator running" in run("status", "tiny", "-n", "art").stderr


def test_status_of_what_is_nowhere_says_both(run: Run, cluster: Cluster) -> None:
    gone = run("status", "absent")
    assert gone.exit_code == 4
    assert "not up on this machine" in gone.stderr
    assert "NotFound" in gone.stderr
    assert "need a NAME" in run("status", "-n", "art").stderr


def test_no_kubectl_is_one_clear_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    gone = run("generate", "a cat", "--sampler", "tiny")
    assert gone.exit_code == 6
    assert "kubectl is not on the PATH" in gone.stderr


def test_generate_goes_through_a_port_forward_with_the_samplers_own_token(
    run: Run, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUXSAMPLER_API_TOKEN", "right")
    args = app_args()
    guarded = args.model_copy(
        update={"serving": args.serving.model_copy(update={"auth_token_env": "FLUXSAMPLER_API_TOKEN"})}
    )
    with gateway(guarded) as url:
        monkeypatch.delenv("FLUXSAMPLER_API_TOKEN")
        secret = {"data": {"token": b64encode(b"right\n").decode()}}
        cluster.knows(READY, ("secret token", secret), ("port-forward service/tiny", urlsplit(url).port))
        drawn = run("generate", "a cat", "--sampler", "tiny", "-o", str(tmp_path / "cat.png"))
        assert drawn.exit_code == 0, drawn.stderr
        assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")
        # The namespace is the one where the FluxSampler was found, also when the context named none.
        assert all("--namespace=art" in words for words in cluster.asked[1:])
        cluster.knows(READY, ("secret token", {"data": {"other": ""}}))
        assert "has no key token; it has other" in run("generate", "a cat", "--sampler", "tiny").stderr


def test_generate_says_what_is_missing(run: Run, cluster: Cluster) -> None:
    cluster.knows(sampler())
    assert "has no URL yet" in run("generate", "a cat", "--sampler", "tiny").stderr
    open_ = READY | {"spec": {}}
    cluster.knows(open_)
    refused = run("generate", "a cat", "--sampler", "tiny")
    assert refused.exit_code == 4
    assert "no pod is ready" in refused.stderr
    assert "need --sampler NAME" in run("generate", "a cat", "--namespace", "art").stderr
