"""Kubernetes quantities (`64Gi`, `500m`, `1e9`) as a value type.

Grammar: Kubernetes `apimachinery/pkg/api/resource/quantity.go`: a signed decimal number and one
suffix, either binary (Ki … Ei), decimal (n, u, m, k … E) or an exponent.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import total_ordering
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer, PlainValidator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# Unsigned here: no field of a FluxSampler can be negative, and a schema pattern that says so spares a rule.
PATTERN = r"^[0-9]+(\.[0-9]*)?(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SPLIT = re.compile(r"^([0-9]+(?:\.[0-9]*)?)(.*)$")


@total_ordering
class Quantity:
    """An amount as Kubernetes writes it. Keeps the text it was given; compares by value."""

    __slots__ = ("_text", "value")

    value: Decimal

    def __init__(self, text: str | int) -> None:
        self._text = str(text)
        if (
            not isinstance(text, str | int)
            or isinstance(text, bool)
            or not re.fullmatch(PATTERN, self._text)
            or self._text.endswith("\n")
        ):
            raise ValueError(
                f"{text!r} is not a quantity; write a number with a unit, such as 64Gi, 512Mi or 500m"
            )
        match = _SPLIT.match(self._text)
        assert match is not None, "PATTERN is stricter than _SPLIT"  # noqa: S101  (for the type checker)
        number, suffix = Decimal(match[1]), match[2]
        if suffix in _BINARY:
            self.value = number * (1 << _BINARY[suffix])
        elif suffix in _DECIMAL:
            self.value = number.scaleb(_DECIMAL[suffix])
        else:
            self.value = number.scaleb(int(suffix[1:]))

    @property
    def bytes(self) -> int:
        """The amount in whole bytes (or units), rounded up as Kubernetes rounds."""
        return int(self.value.to_integral_value(ROUND_CEILING))

    @property
    def gib(self) -> float:
        """The amount in GiB."""
        return float(self.value) / (1 << 30)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Quantity({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return self.value == other.value if isinstance(other, Quantity) else NotImplemented

    def __lt__(self, other: Quantity) -> bool:
        return self.value < other.value

    def __hash__(self) -> int:
        return hash(self.value)

    @classmethod
    def parse(cls, value: Any) -> Quantity:
        """For pydantic: a Quantity from whatever YAML gave, or an error that shows how to write one."""
        if isinstance(value, Quantity):
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 2e9 in YAML
        try:
            return cls(value)
        except ValueError as error:
            raise PydanticCustomError("quantity", "{text}", {"text": str(error)}) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                str, return_schema=core_schema.str_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"x-kubernetes-int-or-string": True, "pattern": PATTERN, "minimum": 0}


class _Node:
    """Gives a field one schema node of its own, in place of pydantic's `anyOf`, which is not structural."""

    def __init__(self, schema: JsonSchemaValue) -> None:
        self._schema = schema

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return dict(self._schema)


def _auto_or_quantity(value: Any) -> Any:
    return value if value == "Auto" else Quantity.parse(value)


AutoOrQuantity = Annotated[
    Literal["Auto"] | Quantity,
    PlainValidator(_auto_or_quantity),
    PlainSerializer(str, return_type=str),
    _Node({"x-kubernetes-int-or-string": True, "pattern": f"^Auto$|{PATTERN}", "minimum": 0}),
]
"""`Auto`, or a quantity."""


def auto_or_int(minimum: int, maximum: int) -> tuple[PlainValidator, _Node]:
    """Validator and schema node of an `Auto | int` field: one sentence from pydantic and from CEL."""
    message = f"write Auto or a whole number from {minimum} to {maximum}"

    def check(value: Any) -> Any:
        if value == "Auto" or (
            isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum
        ):
            return value
        raise PydanticCustomError(
            "auto_or_int", "{value} is neither; {message}", {"value": repr(value), "message": message}
        )

    rule = f"type(self) == int ? self >= {minimum} && self <= {maximum} : self == 'Auto'"
    schema = {
        "x-kubernetes-int-or-string": True,
        "x-kubernetes-validations": [{"rule": rule, "message": message}],
    }
    return PlainValidator(check), _Node(schema)
