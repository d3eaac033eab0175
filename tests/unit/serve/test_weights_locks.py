"""The lock between processes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from fluxsampler_serve.gang.linux import die_with_parent
from fluxsampler_serve.weights.locks import exclusive


def _hold_in_child(path: Path) -> int:
    """A forked process that holds the lock until it is killed; returns once it does."""
    reader, writer = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        die_with_parent(parent)
        with exclusive(path):
            os.write(writer, b"held")
            signal.pause()
    os.close(writer)
    assert os.read(reader, 4) == b"held"
    os.close(reader)
    return child


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "one.lock"
    child = _hold_in_child(path)
    entered = threading.Event()

    def wait_for_it() -> None:
        with exclusive(path):
            entered.set()

    waiter = threading.Thread(target=wait_for_it)
    waiter.start()
    try:
        assert not entered.wait(0.2)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert entered.wait(30)
    waiter.join()


def test_threads_of_one_process_exclude_each_other_and_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with exclusive(path):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not path.exists()
