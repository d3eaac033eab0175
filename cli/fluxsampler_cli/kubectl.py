"""The user's own `kubectl`: its contexts, its namespace, its way to log in.

What the CLI wants of a cluster is little, and kubectl knows every kubeconfig, exec plugin and proxy.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from fluxsampler_cli.errors import InputError, LocalError, NotRunning

if TYPE_CHECKING:
    from collections.abc import Iterator

_CALL_SECONDS = 30
_FORWARD_SECONDS = 30
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One cluster and namespace, chosen as kubectl chooses; None is its own default."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None

    @property
    def chosen(self) -> bool:
        """Whether an option named the cluster."""
        return any((self.namespace, self.context, self.kubeconfig))

    def command(self, *words: str) -> list[str]:
        """The command line. Raises :class:`LocalError` where there is no kubectl."""
        program = shutil.which("kubectl")
        if program is None:
            raise LocalError("kubectl is not on the PATH; install it to reach a cluster")
        options = [
            f"--{name}={value}"
            for name, value in (
                ("namespace", self.namespace),
                ("context", self.context),
                ("kubeconfig", self.kubeconfig),
            )
            if value is not None
        ]
        return [program, *options, *words]

    def run(self, *words: str) -> str:
        """Standard output. Raises :class:`NotRunning` with kubectl's own sentence when it fails."""
        try:
            done = subprocess.run(  # noqa: S603  (kubectl with our own words, no shell)
                self.command(*words), capture_output=True, text=True, timeout=_CALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NotRunning(
                f"the cluster does not answer within {_CALL_SECONDS} s; see `kubectl cluster-info`"
            ) from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            raise NotRunning(f"kubectl {' '.join(words[:3])}: {lines[-1]}", *lines[:-1][-5:])
        return done.stdout

    def get(self, *words: str) -> Any:
        """`kubectl get … -o json`."""
        return json.loads(self.run("get", *words, "-o", "json"))

    def sampler(self, name: str) -> dict[str, Any]:
        """The FluxSampler ``name``. Raises :class:`NotRunning` when it is not there."""
        found: dict[str, Any] = self.get("fluxsamplers.fluxsampler.io", name)
        return found

    def secret(self, name: str, key: str) -> str:
        """One value of a Secret, decoded. Raises :class:`InputError` when the key is missing."""
        from base64 import b64decode

        data = self.get("secret", name).get("data") or {}
        if key not in data:
            raise InputError(
                f"the Secret {name} has no key {key}; it has {', '.join(sorted(data)) or 'none'}"
            )
        return b64decode(data[key]).decode().strip()

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """URL of a local port that leads to ``port`` of ``target`` (such as service/tiny) while inside.

        Raises :class:`NotRunning` with kubectl's own sentence when it cannot.
        """
        process = subprocess.Popen(  # noqa: S603  (kubectl with our own words, no shell)
            self.command("port-forward", "--address=127.0.0.1", target, f":{port}"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        lines: Queue[str | None] = Queue()

        def read() -> None:
            # Until the end, so that kubectl never blocks on a full pipe.
            assert process.stdout is not None  # noqa: S101  (for the type checker)
            for line in process.stdout:
                lines.put(line.strip())
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield f"http://127.0.0.1:{_local_port(lines, target)}"
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join(5)


def _local_port(lines: Queue[str | None], target: str) -> int:
    said = []
    try:
        while (line := lines.get(timeout=_FORWARD_SECONDS)) is not None:
            if match := _FORWARDING.search(line):
                return int(match[1])
            said.append(line)
    except Empty:
        said.append(f"no connection within {_FORWARD_SECONDS} s")
    raise NotRunning(f"kubectl port-forward {target}: {said[-1] if said else 'it ended without a word'}")
