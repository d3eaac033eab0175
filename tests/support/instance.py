"""`fluxsampler` in a process of its own whose runner is a stand-in: ``python -m tests.support.instance up …``.

The stand-in takes the job and reports as the real one does, but starts no Ray: it leaves what Ray
leaves when it is killed (a daemon of its own session that holds shared memory), and answers /readyz.
FXS_TEST_HALT names the step at which it stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

STEPS = ("ray", "app", "load", "ready")
HALT = "FXS_TEST_HALT"


def shared_memory(instance: str) -> Path:
    """What the stand-in leaves in /dev/shm."""
    return Path("/dev/shm") / f"fxs-test-{instance}"


def main() -> None:
    """The command line, with the stand-in."""
    from fluxsampler_cli import keeper
    from fluxsampler_cli.main import main as command

    keeper.RUNNER = ("-P", __file__, "runner")
    command()


def runner() -> None:
    """Instead of `fluxsampler_cli.runner`."""
    job = json.loads(sys.stdin.readline())
    events = os.fdopen(int(os.environ["FLUXSAMPLER_EVENTS"]), "w", buffering=1)

    def report(kind: str, step: str = "", detail: str = "") -> None:
        events.write(json.dumps({"kind": kind, "step": step, "detail": detail}) + "\n")

    halt = os.environ.get(HALT, "")
    with shared_memory(job["instance"]).open("w+b") as file:
        subprocess.Popen(["sleep", "600"], stdin=file, start_new_session=True)
    for step in STEPS:
        report("step", step)
        if step == halt:
            time.sleep(600)
        if halt == f"fail-{step}":
            report("failed", detail="ModelCorrupt: the file is damaged")
            return
        if halt == f"die-{step}":
            os.kill(os.getpid(), 9)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = HTTPServer((job["host"], job["port"]), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    report("ready")
    time.sleep(600)


if __name__ == "__main__":
    if sys.argv[1] == "runner":
        runner()
    else:
        main()
