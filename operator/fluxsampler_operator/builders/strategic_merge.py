"""Strategic merge of a patch into a PodTemplateSpec, as `kubectl patch --type strategic` does it.

Maps merge field by field, `null` deletes. Lists with a merge key merge item by item, items the base
lacks come last; all other lists are replaced as a whole. `$patch: replace` replaces a map, or a list
when one of its items says only that; `$patch: delete` deletes a map's field or the list item of that
key; `$retainKeys` and `$deleteFromPrimitiveList/…` are known too.

Merge keys: `patchMergeKey` tags of k8s.io/api/core/v1 types.go. The same file marks volumes with
`retainKeys`: naming another source takes the place of the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from fluxsampler_operator.errors import WrongPatch

# Paths below the template; `*` stands for an item of the list before it.
MERGE_KEYS: Mapping[tuple[str, ...], str] = {
    ("spec", "volumes"): "name",
    ("spec", "imagePullSecrets"): "name",
    ("spec", "hostAliases"): "ip",
    ("spec", "topologySpreadConstraints"): "topologyKey",
    ("spec", "schedulingGates"): "name",
    ("spec", "resourceClaims"): "name",
    ("metadata", "ownerReferences"): "uid",
    **{
        ("spec", containers): "name" for containers in ("containers", "initContainers", "ephemeralContainers")
    },
    **{
        ("spec", containers, "*", field): key
        for containers in ("containers", "initContainers", "ephemeralContainers")
        for field, key in (
            ("ports", "containerPort"),
            ("env", "name"),
            ("volumeMounts", "mountPath"),
            ("volumeDevices", "devicePath"),
        )
    },
}
RETAIN_KEYS = frozenset({("spec", "volumes", "*"), ("spec", "resourceClaims", "*")})
PRIMITIVE_SETS = frozenset({("metadata", "finalizers")})

_PATCH, _RETAIN, _DELETE_FROM = "$patch", "$retainKeys", "$deleteFromPrimitiveList/"


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], *, at: str = "") -> dict[str, Any]:
    """``base`` with ``patch`` merged in; neither is changed.

    ``at`` is where the patch stands, for messages. Raises :class:`WrongPatch` with the path of what
    cannot be merged: a list where a map belongs, an item without its key, an unknown directive.
    """
    return _merge_map(base, patch, (), at)


def _merge_map(
    base: Mapping[str, Any], patch: Mapping[str, Any], path: tuple[str, ...], at: str
) -> dict[str, Any]:
    directive = patch.get(_PATCH, "merge")
    fields = {name: value for name, value in patch.items() if not name.startswith("$")}
    if directive not in ("merge", "replace", "delete"):
        raise WrongPatch(at, f"unknown $patch {directive!r}; write replace, delete or merge")
    if directive == "delete":
        if path in RETAIN_KEYS or path[-1:] == ("*",) or not path:
            raise WrongPatch(at, "$patch: delete needs a field or a list item with its key to delete")
        return {}
    if directive == "replace":
        return _merge_map({}, fields, path, at)
    merged: dict[str, Any] = deepcopy(dict(base))
    for name, value in patch.items():
        if name.startswith(_DELETE_FROM):
            _delete_primitives(merged, name.removeprefix(_DELETE_FROM), value, _join(at, name))
        elif name.startswith("$") and name not in (_PATCH, _RETAIN):
            raise WrongPatch(
                _join(at, name), "is not known here; use $patch, $retainKeys or $deleteFromPrimitiveList/…"
            )
    for name, value in fields.items():
        _merge_field(merged, name, value, (*path, name), _join(at, name))
    retained = _retained(patch, fields, path, at)
    return merged if retained is None else {name: merged[name] for name in merged if name in retained}


def _merge_field(merged: dict[str, Any], name: str, value: Any, path: tuple[str, ...], at: str) -> None:
    """Merge one field of a map into ``merged``."""
    if value is None or (isinstance(value, Mapping) and value.get(_PATCH) == "delete"):
        merged.pop(name, None)
        return
    old = merged.get(name)
    if path in MERGE_KEYS or path in PRIMITIVE_SETS or isinstance(old, list):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise WrongPatch(at, f"is a {_kind(value)}, and belongs to be a list; put '- ' before its items")
        merged[name] = _merge_list(old or [], value, path, at)
    elif isinstance(value, Mapping):
        if old is not None and not isinstance(old, Mapping):
            raise WrongPatch(at, f"is a map, and belongs to be a {_kind(old)}")
        merged[name] = _merge_map(old or {}, value, path, at)
    elif isinstance(old, Mapping):
        raise WrongPatch(at, f"is a {_kind(value)}, and belongs to be a map")
    else:
        merged[name] = deepcopy(value)


def _merge_list(base: Sequence[Any], patch: Sequence[Any], path: tuple[str, ...], at: str) -> list[Any]:
    if path in PRIMITIVE_SETS:
        return [*base, *(one for one in patch if one not in base)]
    key = MERGE_KEYS.get(path)
    if key is None:
        return deepcopy(list(patch))
    items = list(enumerate(patch))
    if any(isinstance(item, Mapping) and dict(item) == {_PATCH: "replace"} for _, item in items):
        base = []
        items = [(i, item) for i, item in items if dict(item) != {_PATCH: "replace"}]
    merged = [deepcopy(item) for item in base]
    for index, item in items:
        where = f"{at}[{index}]"
        if not isinstance(item, Mapping):
            raise WrongPatch(where, f"is a {_kind(item)}, and belongs to be a map with {key}")
        if item.get(key) is None:
            raise WrongPatch(where, f"has no {key}, which tells the item to merge with")
        found = next((i for i, old in enumerate(merged) if old.get(key) == item[key]), None)
        if item.get(_PATCH) == "delete":
            if found is not None:
                del merged[found]
        elif found is None:
            merged.append(_merge_map({}, item, (*path, "*"), where))
        else:
            merged[found] = _merge_map(merged[found], item, (*path, "*"), where)
            # A replaced item keeps the key it was found by.
            merged[found][key] = item[key]
    return merged


def _retained(
    patch: Mapping[str, Any], fields: Mapping[str, Any], path: tuple[str, ...], at: str
) -> set[str] | None:
    """Fields that stay; None for all."""
    if _RETAIN in patch:
        wanted = patch[_RETAIN]
        if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
            raise WrongPatch(_join(at, _RETAIN), "is not a list of field names")
        return set(wanted)
    # A volume has one source: naming another one drops the first. Naming none only patches beside it.
    if path in RETAIN_KEYS and len(fields) > 1:
        return set(fields)
    return None


def _delete_primitives(merged: dict[str, Any], name: str, values: Any, at: str) -> None:
    if not isinstance(values, list):
        raise WrongPatch(at, f"is a {_kind(values)}, and belongs to be a list of what to delete")
    if isinstance(merged.get(name), list):
        merged[name] = [one for one in merged[name] if one not in values]


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _kind(value: Any) -> str:
    return (
        "map"
        if isinstance(value, Mapping)
        else "list"
        if isinstance(value, list | tuple)
        else "text"
        if isinstance(value, str)
        else "true or false"
        if isinstance(value, bool)
        else "number"
        if isinstance(value, int | float)
        else type(value).__name__
    )
