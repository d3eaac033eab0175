"""What differs by device, and the guard around xfuser."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch

from fluxsampler_serve import devices, xfuser_adapter
from fluxsampler_serve.errors import AdapterMismatch
from fluxsampler_serve.gang import linux
from fluxsampler_serve.gang.linux import describe_exit, process_state


def test_each_rank_has_its_card_or_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [devices.place("cuda", rank, 3).index for rank in range(3)] == [0, 1, 2]
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    assert devices.place("cpu", 2, 4) == devices.RankPlace("cpu", 0, threads=2)
    assert devices.place("cpu", 0, 16).threads == 1


def test_thread_limit_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert devices.usable_cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert devices.usable_cores() >= 1


def test_forkserver_is_held_single_threaded_and_on_loopback() -> None:
    environment = devices.forkserver_environment({"OMP_NUM_THREADS": "8", "PATH": "/bin"})
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert environment["PATH"] == "/bin"
    assert devices.forkserver_environment({"GLOO_SOCKET_IFNAME": "eth7"})["GLOO_SOCKET_IFNAME"] == "eth7"


def test_backends() -> None:
    assert devices.collective_backend("cuda") == "nccl"
    assert devices.collective_backend("cpu") == "gloo"
    assert devices.attention_backend(ring=1) == "SDPA"
    assert devices.attention_backend(ring=2) == "SDPA_FLASH"


def test_ring_attention_on_cuda_needs_half_precision() -> None:
    assert devices.refuses_ring("cuda", 2, "float32") is not None
    assert devices.refuses_ring("cuda", 2, "bfloat16") is None
    assert devices.refuses_ring("cuda", 1, "float32") is None
    assert devices.refuses_ring("cpu", 2, "float32") is None


def test_the_cpu_needs_neither_caps_nor_waiting() -> None:
    device = torch.device("cpu")
    devices.limit_memory(device, 0.5)
    devices.synchronize(device)
    assert devices.memory_facts(device) == {}


@pytest.mark.parametrize(("name", "found"), [("xfuser", "0.8.0"), ("yunchang", None)])
def test_another_version_is_refused_by_name(
    name: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.metadata.version

    def version(asked: str) -> str:
        if asked != name:
            return installed(asked)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(asked)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(AdapterMismatch, match=rf"{name}.*install {name}=="):
        xfuser_adapter.check_versions()


def test_installed_versions_are_those_of_the_adapter() -> None:
    xfuser_adapter.check_versions()


@pytest.mark.parametrize(
    ("texts", "kills"),
    [
        (("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",), 2),  # cgroup v2, memory.events
        (("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",), 5),  # cgroup v1, memory.oom_control
        (("low 0\n",), None),
        ((), None),
    ],
)
def test_kills_for_memory_are_counted_by_the_cgroup(
    texts: tuple[str, ...], kills: int | None, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    files = tuple(tmp_path / str(number) for number, _ in enumerate(texts))
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    assert linux.oom_kills((absent, *files)) == kills


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [(None, 1, " (out of memory?)"), (1, None, " (out of memory?)"), (1, 1, ""), (1, 2, ": out of memory at the container's limit")],
)  # fmt: skip
def test_a_kill_for_memory_is_told_from_another(
    before: int | None, now: int | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "oom_kills", lambda: now)
    assert describe_exit(9, before) == f"was killed by SIGKILL{words}"
    assert describe_exit(6, before) == "was killed by SIGABRT"


def test_ends_of_processes_in_words() -> None:
    assert describe_exit(9) == "was killed by SIGKILL (out of memory?)"
    assert describe_exit(6) == "was killed by SIGABRT"
    assert describe_exit(3 << 8) == "exited with code 3"
    assert process_state(2**22 + 1) == "gone"
    assert process_state(1) in "RSDI"
