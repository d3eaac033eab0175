"""One Ray with Serve in HAProxy mode for this folder, with two applications, and clients of them.

It ends with the folder: a Serve that nobody asks still takes its share of the two cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from tests.support.live_service import TOKEN, live_service

TIMEOUT = 120.0


@pytest.fixture(scope="package")
def tiny_url() -> Iterator[str]:
    """The built-in model on a gang of two ranks, with one fallback, behind two gateways; open."""
    with live_service() as url:
        yield url


@pytest.fixture(scope="package")
def scripted_url(tiny_url: str) -> str:
    """Engines that do what the prompt says, one request at a time and nobody waiting; wants the token."""
    return f"{tiny_url}/scripted"


@pytest.fixture
def tiny(tiny_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tiny_url, timeout=TIMEOUT) as client:
        yield client


@pytest.fixture
def scripted(scripted_url: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=scripted_url, timeout=TIMEOUT, headers=headers) as client:
        yield client


@pytest.fixture
def openai(tiny_url: str) -> Iterator[OpenAI]:
    """The unmodified client."""
    with OpenAI(base_url=f"{tiny_url}/v1", api_key="any", max_retries=0, timeout=TIMEOUT) as client:
        yield client
