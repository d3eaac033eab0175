"""Errors of the planner.

::

    PlanError
    ├── UnknownModel           no model facts for spec.model.source
    ├── UnknownGpu             no such card in the catalogue
    ├── ManualLayoutRefused    mode Manual names degrees that break a rule
    └── Infeasible             no layout fits what was asked for

Each carries :class:`fluxsampler_api.errors.Problem` objects, so that a person reads the field's path and the fix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.errors import Problem

if TYPE_CHECKING:
    from fluxsampler_api.plan import Rejection


class PlanError(Exception):
    """Base of the errors of this package; ``problems`` name field paths as a user writes them."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class UnknownModel(PlanError):
    """The source names a model that the catalogue does not hold; pass its configuration."""


class UnknownGpu(PlanError):
    """The card is not in the catalogue, or nothing says which one it is."""


class ManualLayoutRefused(PlanError):
    """The degrees of mode Manual break a rule of the model, of xfuser or of the node."""


class Infeasible(PlanError):
    """Nothing fits; ``problems`` say what would make it fit, ``rejected`` what was tried."""

    def __init__(self, *problems: Problem, rejected: tuple[Rejection, ...] = ()) -> None:
        super().__init__(*problems)
        self.rejected = rejected


def problem(path: str, message: str) -> Problem:
    """A problem at ``path`` below the document, such as ``spec.parallelism.ulysses``."""
    return Problem(path=path, message=message)
