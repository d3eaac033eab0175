"""How the operator ends when something in it fails that nobody expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs
from tools.cluster import ports

from fluxsampler_operator import logs
from fluxsampler_operator import main as program
from fluxsampler_operator.errors import Forbidden, OperatorError
from fluxsampler_operator.leader import Candidate
from tests.unit.operator.test_leader import LEASE, Store


class _Left(BaseException):
    """Instead of the process's end."""


class _Cluster:
    def __init__(self, **_: object) -> None:
        self.rests = True

    async def serves(self, _: object) -> bool:
        return True

    async def at_rest(self, seconds: float) -> bool:
        return self.rests


def _fails_with(error: BaseException) -> Callable[..., Any]:
    class Failing:
        def __init__(self, *_: object) -> None:
            pass

        async def run(self) -> None:
            raise error

    return Failing


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """Of the Lease that the operator wants; logging, signals and the process's end are the test's own."""
    made = Store()
    (port,) = ports.free(1)
    monkeypatch.setenv("FLUXSAMPLER_OPERATOR_HEALTH_PORT", str(port))
    monkeypatch.setenv("FLUXSAMPLER_OPERATOR_METRICS_PORT", "0")
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    monkeypatch.setattr(program, "Cluster", _Cluster)
    monkeypatch.setattr(program, "_candidate", lambda _: Candidate(made, "ns", "fx", LEASE, identity="a"))

    def leave(code: int) -> NoReturn:
        raise _Left(code)

    monkeypatch.setattr(program, "_leave", leave)
    return made


def _ended() -> tuple[int, list[Any]]:
    with capture_logs() as said, pytest.raises(_Left) as left:
        program.main()
    return left.value.args[0], said


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ExceptionGroup("tasks", [ValueError("a watch broke")]), "the operator ends by an error"),
        (BaseExceptionGroup("tasks", [GeneratorExit()]), "the operator ends by an error"),
        (RuntimeError("a bug"), "the operator ends by an error"),
        (OperatorError("known"), "the operator cannot run"),
    ],
)
def test_an_operator_that_fails_says_so_gives_its_lease_back_and_is_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: BaseException, told: str
) -> None:
    monkeypatch.setattr(program, "Operator", _fails_with(error))
    code, said = _ended()
    assert code == 1
    assert store.writes == ["a", ""], "taken, and given back"
    (line,) = [line for line in said if line["log_level"] == "error"]
    assert line["event"] == told


def test_one_that_may_not_have_the_lease_gives_nothing_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = Candidate(store, "ns", "fx", LEASE, identity="a")

    async def refused() -> None:
        raise Forbidden("no right to leases")

    monkeypatch.setattr(candidate, "acquire", refused)
    monkeypatch.setattr(program, "_candidate", lambda _: candidate)
    code, said = _ended()
    assert code == 1
    assert [entry["event"] for entry in said] == ["operator starts", "the operator cannot run"]
    assert said[1]["error"] == "no right to leases"
    assert store.asked == 0
