"""What is missing is built once, whole or not at all. A shell script plays Go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tools.cluster import binaries, recipes
from tools.cluster.errors import BuildFailed, CannotRun
from tools.cluster.recipes import Binary, GoRecipe

from tests.support.waiting import until

RECIPE = GoRecipe("pause", "1", (Binary("pause", "."),), main="package main\n")
# Says its version, notes each build beside itself, waits while a file named `hold` lies there, makes the output.
GO = """#!/bin/bash
here=$(dirname "$0")
case "$1" in
  env) echo "${FAKE_GO_VERSION:-go1.99.1}" ;;
  build)
    echo built >> "$here/builds"
    while [ -e "$here/hold" ]; do sleep 0.02; done
    if [ -e "$here/fail" ]; then echo "main.go:1: no such thing"; exit 1; fi
    while [ "$1" != -o ]; do shift; done
    echo program > "$2" ;;
esac
"""
BUILD = """
import sys
from pathlib import Path
from tests.unit.tools.test_cluster_binaries import RECIPE
from tools.cluster.binaries import ensure
print(ensure([RECIPE], Path(sys.argv[1])).path("pause"))
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the fake Go, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "go").write_text(GO)
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def builds(go: Path) -> int:
    path = go / "builds"
    return len(path.read_text().splitlines()) if path.exists() else 0


def caller(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(cache)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_built_once_then_found(go: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = binaries.ensure([RECIPE], cache).path("pause")
    assert program.read_text() == "program\n"
    assert program.parent.name == RECIPE.key
    binaries.ensure([RECIPE], cache)
    assert builds(go) == 1
    assert binaries.missing([RECIPE], cache) == []
    assert (cache / "logs" / f"{RECIPE.key}.log").read_text().startswith("$ go mod tidy\n$ go build ")


def test_a_failed_build_tells_its_log_and_leaves_nothing_that_looks_built(go: Path, tmp_path: Path) -> None:
    (go / "fail").touch()
    with pytest.raises(BuildFailed, match=r"pause 1: (?s:.*)main.go:1: no such thing(?s:.*)whole log: "):
        binaries.ensure([RECIPE], tmp_path / "cache")
    assert binaries.missing([RECIPE], tmp_path / "cache") == [RECIPE]
    (go / "fail").unlink()
    assert binaries.ensure([RECIPE], tmp_path / "cache").path("pause").exists()


def test_a_killed_build_leaves_nothing_and_the_next_one_succeeds(go: Path, tmp_path: Path) -> None:
    (go / "hold").touch()
    cache = tmp_path / "cache"
    killed = caller(cache)
    until(lambda: builds(go) == 1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert binaries.missing([RECIPE], cache) == [RECIPE]
    (go / "hold").unlink()
    assert binaries.ensure([RECIPE], cache).path("pause").exists()
    assert sorted(path.name for path in cache.iterdir()) == sorted([".lock", "logs", RECIPE.key])


def test_of_two_callers_one_builds_and_both_find_it(go: Path, tmp_path: Path) -> None:
    (go / "hold").touch()
    first = caller(tmp_path / "cache")
    until(lambda: builds(go) == 1)
    second = caller(tmp_path / "cache")
    (go / "hold").unlink()
    found = [one.communicate(timeout=60)[0] for one in (first, second)]
    assert found[0] == found[1] != ""
    assert builds(go) == 1


def test_an_old_go_and_no_go_are_told_before_anything_is_built(
    go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_VERSION", "go1.19.8")
    with pytest.raises(CannotRun, match=r"is go1\.19\.8\. Go 1\.\d+ or newer is needed"):
        binaries.ensure([RECIPE], tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="go is not on PATH"):
        binaries.ensure([RECIPE], tmp_path / "cache")
    assert builds(go) == 0


def test_the_key_follows_versions_flags_and_sources() -> None:
    changed = [
        GoRecipe("pause", "2", RECIPE.binaries, main=RECIPE.main),
        GoRecipe("pause", "1", (Binary("pause", ".", "-s"),), main=RECIPE.main),
        GoRecipe("pause", "1", RECIPE.binaries, main="package main // changed\n"),
    ]
    assert len({recipe.key for recipe in [RECIPE, *changed]}) == 4
    assert GoRecipe("pause", "1", (Binary("pause", "."),), main="package main\n").key == RECIPE.key


def test_libraries_that_a_module_replaces_by_folders_are_required_as_published() -> None:
    go_mod = "module k8s.io/kubernetes\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tother => example.com/other v1.0.0\n)\n"
    replaces = binaries.replaced_by_folders(go_mod)
    assert replaces == ("k8s.io/api",)
    assert "\tk8s.io/api => k8s.io/api v0." in recipes.KUBERNETES.go_mod(replaces)


def test_every_program_has_one_recipe() -> None:
    outputs = [name for recipe in recipes.ALL for name in recipe.outputs]
    assert len(outputs) == len(set(outputs))
    found = binaries.Binaries(Path("/cache"), recipes.ALL)
    assert found.path("kubelet").parent.name == recipes.KUBERNETES.key
    assert found.clients == found.path("helm").parent
    with pytest.raises(KeyError):
        found.path("dockerd")
