"""Tests on the whole cluster, with FluxSampler installed as a user installs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.cluster.errors import BuildFailed, CannotRun

from tests.support.cluster import NOT_RUN, LiveCluster, cannot_run, cluster, fresh_namespace
from tests.support.installation import RESTRICTED, Installation, Sampler, build_images, tiny

__all__ = ["cluster", "images", "installed", "namespace", "shared"]

# Four rank processes a node and two a gang, so that there is room for a second gang.
SHARED = tiny(
    "shared",
    hardware={"device": "cpu", "gpusPerNode": 4},
    parallelism={"exact": True, "gpusPerReplica": 2},
    canary={"prompt": "a red circle"},
)


# Includes what the session's first test waits for: the cluster, and images that are pushed and pulled.
_SECONDS = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests here a limit that fits them, unless they set one."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say in the last lines, after the list of skips, what was not run and how to get it."""
    yield
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    absent = sorted({why.partition(NOT_RUN)[2].strip(": ") for why in reasons if NOT_RUN in why})
    if absent:
        count = sum(NOT_RUN in why for why in reasons)
        terminalreporter.section(f"{count} tests on a real cluster were not run")
        for why in absent:
            terminalreporter.line(f"Missing here: {why}")
        terminalreporter.line(
            "To run them: a Debian machine as root, or a cluster of yours (FLUXSAMPLER_TEST_CLUSTER=existing); see docs/dev/cluster.md"
        )


@pytest.fixture
def namespace(cluster: LiveCluster) -> Iterator[str]:
    """A namespace of the test's own, at Pod Security level restricted."""
    with fresh_namespace(cluster.kubectl, RESTRICTED) as name:
        yield name


@pytest.fixture(scope="session")
def images(cluster: LiveCluster) -> dict[str, str]:
    """Both images, as the working tree is, in the cluster's registry; the chart's values that name them."""
    try:
        return build_images(cluster)
    except (CannotRun, BuildFailed) as error:
        cannot_run(error)


@pytest.fixture(scope="session")
def installed(cluster: LiveCluster, images: dict[str, str]) -> Installation:
    """The chart, installed; whoever changes the release puts it back by ``installed.install()``."""
    release = Installation(cluster, images)
    started = time.monotonic()
    release.install()
    print(f"\nhelm to operator Ready: {time.monotonic() - started:.1f} s")
    return release


@pytest.fixture(scope="session")
def shared(installed: Installation, cluster: LiveCluster) -> Iterator[Sampler]:
    """One Ready FluxSampler for many tests: whoever changes it puts it back."""
    with fresh_namespace(cluster.kubectl, RESTRICTED) as name:
        sampler = Sampler(cluster, name, SHARED["metadata"]["name"])
        sampler.apply(SHARED)
        print(f"\napply to Ready: {sampler.wait_ready():.1f} s")
        yield sampler
