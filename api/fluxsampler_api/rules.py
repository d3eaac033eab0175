"""Rules between fields: one definition serves pydantic and, as CEL, the API server.

A model lists its :class:`Rule` objects in ``RULES``. :class:`RuledModel` checks them after the
fields; the CRD generator writes the same list as ``x-kubernetes-validations``. The message is one
text for both, so that a dry run on a laptop and the API server say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on one model.

    ``cel`` and ``holds`` state the same condition, in CEL over the API object and in Python over the
    model. ``message`` is one text for both: the API server prices a message that quotes a value beyond
    its budget. ``quote`` puts the value before it where Python speaks. ``field`` is the path below the
    model that is to blame, as a user writes it.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str = ""
    quote: Callable[[Any], str] | None = None

    def text(self, model: BaseModel) -> str:
        """The message for this very model."""
        return self.message if self.quote is None else f"{self.quote(model)} {self.message}"

    def validation(self) -> dict[str, str]:
        """The rule as an entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field:
            entry["fieldPath"] = f".{self.field}"
        return entry


@dataclass(frozen=True, slots=True)
class TransitionRule:
    """A condition on an update: ``holds(new, old)``. CEL sees them as ``self`` and ``oldSelf``."""

    cel: str
    holds: Callable[[Any, Any], bool]
    message: str
    field: str = ""

    def validation(self) -> dict[str, str]:
        """The rule as an entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field:
            entry["fieldPath"] = f".{self.field}"
        return entry


def _is_whole(field: FieldInfo) -> bool:
    return field.annotation is int or int in get_args(field.annotation)


class RuledModel(BaseModel):
    """Base of everything under `spec`: camelCase outside, frozen, nothing unknown, rules checked last."""

    # strict: the API server takes no "8" for 8 either
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=to_camel, populate_by_name=True
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
    TRANSITIONS: ClassVar[tuple[TransitionRule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, data: Any) -> Any:
        """As the API server reads JSON: null where there is a default means the default, and 2.0 is the whole number 2."""
        if not isinstance(data, dict):
            return data
        fields = {key: field for name, field in cls.model_fields.items() for key in (name, field.alias)}
        stored = {}
        for key, value in data.items():
            field = fields.get(key)
            if field is not None and value is None and not field.is_required():
                continue
            if field is not None and isinstance(value, float) and value.is_integer() and _is_whole(field):
                stored[key] = int(value)
            else:
                stored[key] = value
        return stored

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule for rule in self.RULES if not rule.holds(self)]
        if broken:
            # All broken rules at once, each at its own field: a person mends a file in one go.
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(
                            "rule", "{text}", {"text": rule.text(self), "field": rule.field}
                        ),
                        loc=tuple(rule.field.split(".")) if rule.field else (),
                        input=None,
                    )
                    for rule in broken
                ],
            )
        return self
