"""A local Ray whose raylet is killed while it starts comes up all the same, and leaves nothing."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from fluxsampler_cli import processes
from fluxsampler_cli.local_ray import instance_folder

SCRIPT = """
import os, sys, threading, time
from fluxsampler_cli import processes
from fluxsampler_cli.local_ray import LocalRay

def kill_the_first_raylet():
    while not (found := processes.named(sys.argv[1], "raylet")):
        time.sleep(0.02)
    os.kill(found[0], 9)

thread = threading.Thread(target=kill_the_first_raylet, daemon=True)
thread.start()
with LocalRay.start("test", 80 << 20, instance=sys.argv[1]) as local:
    assert not thread.is_alive()
    import ray
    print(ray.get(ray.remote(lambda: 40 + 2).remote()), local.url)
assert "RAY_AUTH_TOKEN" not in os.environ
"""


@pytest.mark.timeout(600)
def test_a_raylet_that_gives_up_is_started_again() -> None:
    instance = f"test-{secrets.token_hex(3)}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, instance],
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "42 http://127.0.0.1:" in done.stdout
        assert "Ray's node ended while it started" in done.stdout + done.stderr
        assert processes.of_instance(instance) == []
        assert not instance_folder(instance).exists()
    finally:
        processes.end_instance(instance, Path(instance_folder(instance)))
