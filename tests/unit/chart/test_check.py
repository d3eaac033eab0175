"""What `helm test` runs, against an API server that is scripted."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.unit.chart.values_table import CHART


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_check", CHART / "files" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "healthy", lambda: (True, "200"))
    return module


ACCEPTED, REFUSED = (201, "accepted"), (422, "spec.replicas: Invalid value: -1")


@pytest.mark.parametrize(
    ("good", "bad", "failed"),
    [
        (ACCEPTED, REFUSED, []),
        ((404, "not found"), (404, "not found"), ["a valid FluxSampler", "replicas: -1"]),
        (ACCEPTED, ACCEPTED, ["replicas: -1"]),
        ((403, "forbidden"), REFUSED, ["a valid FluxSampler"]),
        (ACCEPTED, (422, "something else"), ["replicas: -1"]),
    ],
)
def test_says_what_fails(
    check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    good: tuple[int, str],
    bad: tuple[int, str],
    failed: list[str],
) -> None:
    monkeypatch.setattr(check, "dry_run", lambda replicas: good if replicas >= 0 else bad)
    assert check.main() == (1 if failed else 0)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("FAILED")] == [
        line for line in lines if any(words in line for words in failed)
    ]
    assert len(lines) == 3


def test_an_operator_that_is_down_fails(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "dry_run", lambda replicas: ACCEPTED if replicas >= 0 else REFUSED)
    monkeypatch.setattr(check, "healthy", lambda: (False, "connection refused"))
    assert check.main() == 1
    assert "FAILED the operator's health: connection refused" in capsys.readouterr().out
