"""Log lines: one JSON object each, with a trace where code is at fault and only there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In a process of its own: logging is set up once for a whole process.
SPEAKER = """
import logging, structlog
from kopf._cogs.clients.errors import APINotFoundError
from fluxsampler_operator import logs

logs.set_up()
structlog.get_logger("ours").info("transition", sampler="a/b")
for error in (APINotFoundError("404 page not found", status=404, headers={}), KeyError("missing")):
    try:
        raise error
    except Exception:
        logging.getLogger("kopf.reactor").exception("watcher has failed")
        structlog.get_logger("ours").exception("watch ended", watch="kuberay")
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, str]]:
    ended = subprocess.run(
        [sys.executable, "-c", SPEAKER], capture_output=True, text=True, timeout=60, check=True
    )
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_a_line_says_what_it_was_told(lines: list[dict[str, str]]) -> None:
    line = lines[0]
    assert (line["event"], line["level"], line["sampler"]) == ("transition", "info", "a/b")
    assert "error" not in line


def test_an_answer_of_the_api_server_leaves_no_trace(lines: list[dict[str, str]]) -> None:
    kopfs, ours = lines[1:3]
    assert "404 page not found" in kopfs["error"]
    assert "404 page not found" in ours["error"]
    assert ours["watch"] == "kuberay"
    assert "exception" not in kopfs
    assert "exception" not in ours


def test_a_fault_of_code_does(lines: list[dict[str, str]]) -> None:
    kopfs, ours = lines[3:]
    assert "KeyError: 'missing'" in kopfs["exception"]
    assert "KeyError: 'missing'" in ours["exception"]
