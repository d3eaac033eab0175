"""Errors of the contract.

::

    ContractError
    └── SpecError        one or more problems in a FluxSampler document
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where.

    ``path`` is the field as a user writes it (`spec.parallelism.ulysses`, empty for the whole
    document), ``message`` says what is wrong and what to write instead, ``source`` names the file,
    ``line`` counts from 1 (None when the document did not come from text).
    """

    path: str
    message: str
    source: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = (
            f"{self.source}:{self.line}: "
            if self.source and self.line
            else f"{self.source}: "
            if self.source
            else ""
        )
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class ContractError(Exception):
    """Base of the errors of this package."""


class SpecError(ContractError):
    """A document is not a valid FluxSampler; ``problems`` holds everything found, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
