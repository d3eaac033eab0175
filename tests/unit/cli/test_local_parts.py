"""Ports, locks, states and processes of local instances."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fluxsampler_cli import processes
from fluxsampler_cli.errors import AlreadyRunning, InputError, LocalError, PortInUse
from fluxsampler_cli.local_ray import instance_folder, new_instance, serve_environment, service_url
from fluxsampler_cli.ports import PortReservation, check_port
from fluxsampler_cli.runner import _ANY_OURS, _FINAL
from fluxsampler_cli.state import StateFolder


def test_reserved_ports_are_kept_from_others_and_usable_by_their_user() -> None:
    with PortReservation() as reservation:
        ports = reservation.take(3)
        assert ports == list(range(ports[0], ports[0] + 3))
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", ports[0]))
        with socket.socket() as user:
            user.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            user.bind(("127.0.0.1", ports[0]))
            user.listen()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", ports[1]))


def test_a_listener_is_seen_and_an_ended_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is in use"):
            check_port("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()  # closed by the server first: its side stays in TIME_WAIT
    check_port("127.0.0.1", port)
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1"):
        check_port("192.0.2.1", port)


def test_two_reservations_never_share_a_port() -> None:
    with PortReservation() as one, PortReservation() as other:
        assert not set(one.take(50)) & set(other.take(50))


def test_instances_have_names_of_their_own_and_short_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {new_instance("Flux_Dev.on-Eight-Cards") for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"[a-z0-9-]{1,19}", name) for name in names)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/a/very/long/folder/for/temporary/things")
    # HAProxy's longest socket: folder/h/<56>/a.sock, with at most 97 bytes.
    assert all(len(f"{instance_folder(name)}/h/{'x' * 56}/a.sock") <= 97 for name in names)


def test_every_process_of_an_instance_gets_ports_of_its_own(tmp_path: Path) -> None:
    with PortReservation() as reservation:
        one = serve_environment("one", tmp_path, reservation)
        other = serve_environment("other", tmp_path, reservation)
    ports = [name for name in one if "PORT" in name and "INGRESS" not in name]
    assert len(ports) == 4
    taken = [one[name] for name in ports] + [other[name] for name in ports]
    assert len(set(taken)) == len(taken)
    assert one["RAY_AUTH_TOKEN"] != other["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::1", "http://[::1]:1")],
)
def test_urls(host: str, url: str) -> None:
    assert service_url(host, 1) == url


def test_a_lock_is_held_once_and_leaves_no_file(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    lock = folder.take_lock("a")
    with pytest.raises(AlreadyRunning, match="a is up or starting already"):
        folder.take_lock("a")
    folder.take_lock("b").release()
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    folder.take_lock("a").release()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from fluxsampler_cli.state import StateFolder\n"
        f"lock = StateFolder(pathlib.Path({str(tmp_path)!r})).take_lock('a'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning):
            StateFolder(tmp_path).take_lock("a")
    finally:
        holder.kill()
        holder.communicate(timeout=30)
    StateFolder(tmp_path).take_lock("a", wait=10).release()


def test_a_state_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocalError, match="cannot be written: Not a directory; set XDG_STATE_HOME"):
        StateFolder(tmp_path / "file" / "below").take_lock("a")


def test_a_damaged_state_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(LocalError, match=r"a\.json is damaged; remove it"):
        StateFolder(tmp_path).all()


def test_an_instance_is_found_whatever_became_of_its_processes(tmp_path: Path) -> None:
    instance = f"test-{secrets.token_hex(4)}"
    environment = os.environ | processes.marker_environment(instance)
    # A grandchild in a session of its own, its parent gone; and one that renamed itself.
    orphan = "import subprocess; subprocess.Popen(['sleep', '300'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", orphan], env=environment, check=True, timeout=60)
    shared = Path("/dev/shm") / f"torch_{instance}"
    folder = tmp_path / "folder"
    folder.mkdir()
    code = f"import mmap; f = open({str(shared)!r}, 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.close(); print(); input()"
    mapper = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert mapper.stdout is not None
    mapper.stdout.readline()
    assert len(processes.of_instance(instance)) == 2
    assert processes.shared_memory_of([mapper.pid]) == {shared}
    assert processes.of_instance(instance[:-1]) == []
    assert processes.end_instance(instance, folder) == 2
    mapper.communicate(timeout=30)
    assert processes.of_instance(instance) == []
    assert not shared.exists()
    assert not folder.exists()
    assert processes.end_instance(instance, folder) == 0


def test_shared_memory_of_others_survives_an_instance() -> None:
    instance = f"test-{secrets.token_hex(4)}"
    ours, shared, foreign = (
        Path("/dev/shm") / name for name in (f"psm_{instance}", f"torch_{instance}", instance)
    )
    files = (ours, shared, foreign)
    code = f"held = [open(path, 'w+b') for path in {[str(path) for path in files]!r}]; print(); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | processes.marker_environment(instance),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with shared.open("rb"):  # as another program, which is not of the instance
            assert processes.end_instance(instance, None) == 1
        holder.communicate(timeout=30)
        # Ours by name and held by nobody else; held by this process too; somebody's model, by its name.
        assert [path.exists() for path in files] == [False, True, True]
    finally:
        processes.end_instance(instance, None)
        holder.communicate(timeout=30)
        for path in files:
            path.unlink(missing_ok=True)


def test_a_process_is_named_by_its_id_and_its_start() -> None:
    deaf = 'trap "" TERM; echo deaf; exec sleep 300'
    child = subprocess.Popen(["sh", "-c", deaf], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    started = processes.started_at(child.pid)
    assert started is not None
    processes.end_one(child.pid, started + 1, 0)  # another process of the same id
    assert child.poll() is None
    processes.end_one(child.pid, started, 0.2)
    assert child.wait(30) == -9
    child.stdout.close()
    assert processes.started_at(child.pid) is None


def test_causes_are_found_in_what_serve_reports() -> None:
    message = (
        "Failed to update the deployments ['FallbackSampler'].\nTraceback (most recent call last):\n"
        "  File ...\nfluxsampler_serve.errors.ModelCorrupt: vae/x.safetensors is cut off; download it again\n"
    )
    found = _FINAL.search(message)
    assert found is not None
    assert (found[1], found["message"]) == ("ModelCorrupt", "vae/x.safetensors is cut off; download it again")
    started = "x\nfluxsampler_serve.errors.EngineStartFailed: rank 1 ended with signal 9\n"
    assert _FINAL.search(started) is None
    other = _ANY_OURS.search(started)
    assert other is not None
    assert other["message"] == "rank 1 ended with signal 9"
