"""Every exception of the CLI as one tree, each with the exit code it ends the command with.

::

    CliError                      1  anything below names its own
    ├── InputError                1  a file, spec, prompt or option value that cannot be right
    ├── InfeasiblePlan            3  the spec is valid, this hardware cannot run it
    ├── NotRunning                4  no service there, or it does not answer
    ├── ServiceError              5  the service answered with an error
    ├── LocalError                6  this machine refused: a port, a lock, a process that died
    │   ├── PortInUse
    │   ├── AlreadyRunning
    │   └── StartFailed
    └── FaultError               70  a fault of FluxSampler itself

2 is a wrong command line (typer's own), 130 an interrupted command. Messages are one line and
name the fix; ``details`` may add lines (every problem of a file, the end of a log).
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    INVALID = 1
    USAGE = 2
    INFEASIBLE = 3
    NOT_RUNNING = 4
    SERVICE = 5
    MACHINE = 6
    FAULT = 70
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 done, 1 invalid input, 2 wrong usage, 3 the plan does not fit, 4 not running, "
    "5 the service answered with an error, 6 this machine refused (port, lock, start), "
    "70 a fault of fluxsampler itself, 130 interrupted."
)


class CliError(Exception):
    """Base: ends the command with one clear line, its details and ``exit_code``."""

    exit_code = ExitCode.INVALID

    def __init__(self, message: str, *details: str) -> None:
        super().__init__(message)
        self.details = details


class InputError(CliError):
    """A file, spec, prompt or option value that cannot be right."""


class InfeasiblePlan(CliError):
    """The spec is valid, but does not fit the hardware."""

    exit_code = ExitCode.INFEASIBLE


class NotRunning(CliError):
    """No service there, or it does not answer."""

    exit_code = ExitCode.NOT_RUNNING


class ServiceError(CliError):
    """The service answered with an error."""

    exit_code = ExitCode.SERVICE


class LocalError(CliError):
    """This machine refused."""

    exit_code = ExitCode.MACHINE


class PortInUse(LocalError):
    """Another program listens on the port."""


class AlreadyRunning(LocalError):
    """An `up` of this name runs, or is starting."""


class StartFailed(LocalError):
    """The service did not come up."""


class FaultError(CliError):
    """A fault of FluxSampler itself."""

    exit_code = ExitCode.FAULT
