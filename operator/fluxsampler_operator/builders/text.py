"""Manifests as YAML text that people like to read and that YAML 1.1 and 1.2 parsers read alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from fluxsampler_operator.manifest import Manifest

# Whatever any parser might take for a number: PyYAML leaves `12e3` or `0o17` unquoted, Go's parsers read numbers.
_LIKE_A_NUMBER = re.compile(r"[-+.0-9][-+.:_0-9a-fA-FxXoO]*")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's signature
        # `kubectl` indents lists below their field.
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else "'" if _LIKE_A_NUMBER.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_Dumper.add_representer(str, _text)


def as_yaml(value: Any) -> str:
    """One document."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def as_stream(manifests: Iterable[Manifest]) -> str:
    """Documents for `kubectl apply -f -`."""
    return "---\n".join(as_yaml(one) for one in manifests)
