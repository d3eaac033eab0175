"""Questions to parts of the cluster that answer only when they are ready."""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import struct
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from tools.cluster.commands import run
from tools.cluster.errors import CommandFailed

_TIMEOUT = 3.0


def http_ok(url: str) -> bool:
    """Whether ``url`` answers with success."""
    try:
        with _direct().open(url, timeout=_TIMEOUT) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def http_json(url: str) -> Any:
    """What ``url`` answers, as JSON; None when it does not."""
    try:
        with _direct().open(url, timeout=_TIMEOUT) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


@cache
def _direct() -> urllib.request.OpenerDirector:
    # Parts with self-made certificates are asked for health only, so theirs is not checked; no proxy knows them.
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )


def resolves(server: str, name: str) -> bool:
    """Whether DNS server ``server`` knows an IPv4 address of ``name``."""
    identity = secrets.token_bytes(2)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    # Header: recursion wanted, one question. Question: name, type A, class IN.
    query = identity + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_TIMEOUT)
        try:
            client.sendto(query, (server, 53))
            answer = client.recv(4096)
        except OSError:
            return False
    flags, _, answers = struct.unpack(">HHH", answer[2:8])
    return answer[:2] == identity and flags & 0x000F == 0 and answers > 0


def containerd_answers(address: Path) -> bool:
    """Whether containerd and its CRI service answer on socket ``address``."""
    try:
        plugins = run(["ctr", "--address", address, "plugins", "ls"], timeout=10)
    except CommandFailed:
        return False
    return any(
        line.split()[:2] == ["io.containerd.grpc.v1", "cri"] and line.split()[-1] == "ok"
        for line in plugins.splitlines()
    )
