"""From YAML text to FluxSamplers, with every problem named at its file, line and field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fluxsampler_api.errors import Problem, SpecError
from fluxsampler_api.messages import choices, closest
from fluxsampler_api.rules import RuledModel
from fluxsampler_api.sampler import API_VERSION, KIND, FluxSampler

# A FluxSampler is a page of text; more is a mistake, and YAML's aliases can blow a small file up.
MAX_CHARACTERS = 1 << 20
MAX_NODES = 50_000


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as kubectl reads it, but a key given twice is an error, not a surprise."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_file(path: str | Path) -> list[FluxSampler]:
    """All FluxSamplers of a YAML file (one or many documents, ``-`` is not read here).

    Raises :class:`SpecError` with every problem of every document, or with one saying that the file
    cannot be read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError((Problem("", f"cannot be read: {error.strerror or error}", str(path)),)) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            (Problem("", f"is not UTF-8 text (byte {error.start}); save it as UTF-8", str(path)),)
        ) from error
    return load_text(text, source=str(path))


def load_text(text: str, source: str = "") -> list[FluxSampler]:
    """As :func:`load_file`, from text; ``source`` names it in messages."""
    if len(text) > MAX_CHARACTERS:
        raise SpecError(
            (
                Problem(
                    "", f"has {len(text)} characters; a FluxSampler file has at most {MAX_CHARACTERS}", source
                ),
            )
        )
    samplers: list[FluxSampler] = []
    problems: list[Problem] = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
                continue  # an empty document between two `---`
            if _expanded(node, {}) > MAX_NODES:
                raise yaml.composer.ComposerError(
                    None, None, "aliases expand to too much; write the values out", node.start_mark
                )
            document = loader.construct_document(node)
            found = _check(document, source, node)
            if isinstance(found, FluxSampler):
                samplers.append(found)
            else:
                problems.extend(found)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(part for part in (error.problem, error.context) if part)
        problems.append(Problem("", f"is not valid YAML: {detail}", source, mark.line + 1 if mark else None))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.append(Problem("", f"is not valid YAML: {' '.join(str(error).split())}", source))
    if not samplers and not problems:
        problems.append(Problem("", f"holds no document; write a {KIND} (see examples/)", source))
    problems.extend(_same_names(samplers, source))
    if problems:
        raise SpecError(tuple(problems))
    return samplers


def parse(document: Any, source: str = "") -> FluxSampler:
    """One FluxSampler from plain data, such as an object of the API server. Raises :class:`SpecError`."""
    found = _check(document, source, None)
    if isinstance(found, FluxSampler):
        return found
    raise SpecError(tuple(found))


def check_update(new: FluxSampler, old: FluxSampler) -> tuple[Problem, ...]:
    """What forbids replacing ``old`` by ``new``: the transition rules that the API server holds too."""
    return tuple(_transitions(new.spec, old.spec, ("spec",)))


def _transitions(new: RuledModel, old: RuledModel, path: tuple[str, ...]) -> Iterable[Problem]:
    for rule in new.TRANSITIONS:
        if not rule.holds(new, old):
            yield Problem(".".join((*path, rule.field) if rule.field else path), rule.message)
    for name, field in type(new).model_fields.items():
        child, former = getattr(new, name), getattr(old, name)
        if isinstance(child, RuledModel) and isinstance(former, RuledModel):
            yield from _transitions(child, former, (*path, field.alias or name))


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes of a document with every alias written out."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # what an alias to its own parent counts
        children = (
            [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        )
        known[id(node)] = 1 + (
            0 if isinstance(children, str) else sum(_expanded(child, known) for child in children)
        )
    return known[id(node)]


def _check(document: Any, source: str, node: yaml.Node | None) -> FluxSampler | list[Problem]:
    line = node.start_mark.line + 1 if node else None
    if not isinstance(document, dict):
        return [Problem("", f"is a {type(document).__name__}, not a {KIND} object", source, line)]
    problems = [
        Problem(field, _wrong_type_meta(field, document.get(field), wanted), source, _line(node, (field,)))
        for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND))
        if document.get(field) != wanted
    ]
    if problems:
        return problems  # the rest of another kind's document would only be noise
    try:
        return FluxSampler.model_validate(document)
    except ValidationError as error:
        return [_problem(details, source, node) for details in error.errors()]


def _wrong_type_meta(field: str, value: Any, wanted: str) -> str:
    return (
        f"is missing; write {field}: {wanted}"
        if value is None
        else f"{value!r} is not known here; write {field}: {wanted}"
    )


def _problem(error: ErrorDetails, source: str, node: yaml.Node | None) -> Problem:
    path = error["loc"]
    return Problem(_dotted(path), _message(error), source, _line(node, path))


def _dotted(path: Sequence[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _line(node: yaml.Node | None, path: Sequence[int | str]) -> int | None:
    """Line of the deepest part of ``path`` that the document has."""
    if node is None:
        return None
    line = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _message(error: ErrorDetails) -> str:
    """pydantic's error as one sentence with the value and the fix."""
    value, context = error["input"], error.get("ctx", {})
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}…"
    match error["type"]:
        case "extra_forbidden":
            known = known_fields(error["loc"])
            return f"unknown field{closest(str(error['loc'][-1]), known)} known here: {', '.join(known)}".replace(
                "field known", "field; known"
            )
        case "missing":
            return "is required; write it"
        case "literal_error":
            return f"{shown} is not {str(context['expected']).replace(chr(39), '')}"
        case "greater_than_equal":
            bound = _plain(context["ge"])
            return f"{shown} is below {bound}; use {bound} or more"
        case "less_than_equal":
            bound = _plain(context["le"])
            return f"{shown} is above {bound}; use {bound} or less"
        case "string_pattern_mismatch":
            return f"{shown} does not match {context['pattern']}"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{shown} is not a whole number"
        case "string_type":
            return f"{shown} is not a string; put it in quotes"
        case "bool_type" | "bool_parsing":
            return f"{shown} is not true or false"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{shown} is not an object; write fields below it"
        case "tuple_type" | "list_type":
            return f"{shown} is not a list"
        case _:
            return error["msg"].removeprefix("Value error, ")


def _plain(bound: float) -> str:
    return str(bound).removesuffix(".0")


def known_fields(path: Sequence[int | str]) -> tuple[str, ...]:
    """Field names next to the last part of ``path``, as a user writes them."""
    model: Any = FluxSampler
    for part in path[:-1]:
        if isinstance(part, int):
            continue
        field = next((f for name, f in model.model_fields.items() if (f.alias or name) == part), None)
        if field is None:
            return ()
        model = _inner_model(field.annotation)
        if model is None:
            return ()
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _inner_model(annotation: Any) -> Any:
    """The model inside `Model`, `Model | None` or `tuple[Model, ...]`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _inner_model(arg))), None)


def _same_names(samplers: list[FluxSampler], source: str) -> list[Problem]:
    names = [(s.metadata.namespace, s.name) for s in samplers]
    twice = sorted({f"{namespace}/{name}" for namespace, name in names if names.count((namespace, name)) > 1})
    return (
        [
            Problem(
                "metadata.name",
                f"{choices(tuple(twice))} stands in more than one document; rename one",
                source,
            )
        ]
        if twice
        else []
    )
