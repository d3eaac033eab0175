"""The operator as a process of its own, against any API server; run as a module, it draws canaries without a service.

Only the picture is not real then: a test without pods has no Service to ask.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster import ports
from tools.cluster.waiting import wait_for

PREFIX = "FLUXSAMPLER_OPERATOR_"
START_SECONDS = 90


@dataclass(frozen=True)
class OperatorProcess:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log: Path
    health_port: int
    metrics_port: int
    temporary: Path
    """Its folder for temporary files."""

    @property
    def healthy(self) -> bool:
        """Whether its liveness endpoint answers well."""
        return _answers(self.health_port, "/healthz")

    @property
    def resident_mib(self) -> float:
        """Memory as the kernel counts it."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [
            json.loads(line)
            for line in self.log.read_text(encoding="utf-8").splitlines()
            if line.startswith("{")
        ]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's series that carry ``labels``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        series = re.findall(rf"^{name}(?:\{{(.*?)\}})? (\S+)$", text, re.MULTILINE)
        return sum(
            float(value)
            for found, value in series
            if all(f'{label}="{wanted}"' in found for label, wanted in labels.items())
        )

    def stop(self) -> float:
        """Send SIGTERM; seconds until it was gone."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        return time.monotonic() - started


@contextmanager
def operator_process(
    kubeconfig: Path, log: Path, namespaces: Sequence[str] = (), *, paints: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator[OperatorProcess]:  # fmt: skip
    """Start it and wait until it lives; it is ended afterwards whatever happened."""
    health, metrics = ports.free(2)
    wanted = {
        "WATCH_NAMESPACES": ",".join(namespaces),
        "READ_NODES": "true",
        "HEALTH_PORT": str(health),
        "METRICS_PORT": str(metrics),
        **(environment or {}),
    }
    module = "tests.support.operator_process" if paints else "fluxsampler_operator"
    # A killed one leaves copies of the kubeconfig's private key; they go with the folder.
    with tempfile.TemporaryDirectory(prefix="operator-") as temporary:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env={
                    **os.environ,
                    "KUBECONFIG": str(kubeconfig),
                    "TMPDIR": temporary,
                    **{PREFIX + name: value for name, value in wanted.items()},
                },
                stdout=sink,
                stderr=sink,
                cwd=Path(__file__).parents[2],
            )
        running = OperatorProcess(process, log, health, metrics, Path(temporary))
        try:
            wait_for(
                lambda: process.poll() is not None or running.healthy,
                START_SECONDS,
                f"the operator to live ({log})",
            )
            assert process.poll() is None, (
                f"the operator has ended: {log.read_text(encoding='utf-8')[-3000:]}"
            )
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=30)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _paint() -> None:
    from fluxsampler_operator.main import main
    from fluxsampler_operator.observed import PictureResult
    from fluxsampler_operator.picture import PictureRequest

    async def ask(_: PictureRequest) -> PictureResult:
        return PictureResult(True, "parallel", "drawn in 0.1 s", 0.1)

    main(ask)


if __name__ == "__main__":
    _paint()
