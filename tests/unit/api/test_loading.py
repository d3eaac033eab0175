from __future__ import annotations

from pathlib import Path

import pytest

from fluxsampler_api.errors import Problem, SpecError
from fluxsampler_api.loading import MAX_CHARACTERS, check_update, known_fields, load_file, load_text, parse
from tests.support.spec_cases import BASE, merged

HEAD = "apiVersion: fluxsampler.io/v1alpha1\nkind: FluxSampler\nmetadata: {name: one}\nspec:\n  model: {source: builtin://tiny-shapes}\n"
EXAMPLES = Path(__file__).parents[3] / "examples"


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        load_text(text, "f.yaml")
    return caught.value.problems


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_load(path: Path) -> None:
    (sampler,) = load_file(path)
    assert sampler.api_version == "fluxsampler.io/v1alpha1"


def test_six_examples_are_there() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} >= {
        "tiny-local", "tiny-cluster", "flux-dev-8x4090", "flux-schnell-8x4090", "flux-dev-4x4090", "flux-dev-8xl40",
    }  # fmt: skip


def test_many_documents_and_empty_ones() -> None:
    text = f"---\n{HEAD}---\n---\n{HEAD.replace('one', 'two')}"
    assert [sampler.name for sampler in load_text(text)] == ["one", "two"]


def test_problems_of_all_documents_at_once_with_their_lines() -> None:
    text = f"{HEAD}  replicas: -1\n---\n{HEAD.replace('one', 'two')}  hardware:\n    nodes: 0\n"
    assert [(p.path, p.line) for p in problems(text)] == [("spec.replicas", 6), ("spec.hardware.nodes", 14)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML: expected ',' or ']'"),
        ("a:\n\t- 1", "is not valid YAML"),
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("\x00", "is not valid YAML"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("? [1]\n: 2", "is not valid YAML"),
        ("- 1", "is a list, not a FluxSampler object"),
        ("just text", "is a str, not a FluxSampler object"),
        ("", "holds no document"),
        ("---\n---\n", "holds no document"),
        ("a: 2026-99-99", "is not valid YAML"),
        ("[" * 1500, "is not valid YAML"),
        ("x" * (MAX_CHARACTERS + 1), f"has {MAX_CHARACTERS + 1} characters"),
        (
            HEAD.replace("v1alpha1", "v2"),
            "'fluxsampler.io/v2' is not known here; write apiVersion: fluxsampler.io/v1alpha1",
        ),
        (
            HEAD.replace("kind: FluxSampler", "kind: Deployment"),
            "'Deployment' is not known here; write kind: FluxSampler",
        ),
        (HEAD.replace("kind: FluxSampler\n", ""), "is missing; write kind: FluxSampler"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_unreadable_text(text: str, message: str) -> None:
    assert any(message in problem.message for problem in problems(text)), problems(text)


def test_an_alias_is_fine_and_a_billion_laughs_are_not() -> None:
    shared = "a: &x {b: 1}\n"
    assert "apiVersion" in problems(shared + "c: *x\n")[0].path  # read, then refused for its kind
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    assert "aliases expand to too much" in problems(bomb)[0].message
    assert "aliases expand to too much" in problems("a: &x [*x]\n")[0].message


def test_same_name_twice() -> None:
    (problem,) = problems(f"{HEAD}---\n{HEAD}")
    assert problem.message == "default/one stands in more than one document; rename one"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: cannot be read: No such file"):
        load_file(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(SpecError, match="is not UTF-8"):
        load_file(tmp_path / "latin.yaml")


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + HEAD.encode())
    assert load_file(tmp_path / "bom.yaml")[0].name == "one"


def test_an_object_of_the_api_server_parses_with_its_status() -> None:
    live = merged(
        BASE,
        {"metadata": {"uid": "u", "managedFields": [{"manager": "kubectl"}]}, "status": {"phase": "Ready"}},
    )
    assert parse(live).name == "case"


def test_a_document_that_is_no_object_has_no_line() -> None:
    with pytest.raises(SpecError) as caught:
        parse(["x"])
    assert caught.value.problems[0].line is None
    assert str(caught.value) == "is a list, not a FluxSampler object"


def test_long_values_are_cut() -> None:
    with pytest.raises(SpecError, match="…"):
        parse(merged(BASE, {"spec": {"replicas": "9" * 500}}))


@pytest.mark.parametrize(
    "document",
    [{"spec": []}, {"spec": {"model": 3}}, {"spec": {"hardware": {"tolerations": 3}}}, {"metadata": 3}],
)
def test_wrong_shapes(document: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=r"is not an object|is not a list"):
        parse({**BASE, **document} if "metadata" in document else merged(BASE, document))


def test_update_may_not_change_the_device() -> None:
    old, new = parse(merged(BASE, {"spec": {"hardware": {"device": "cpu"}}})), parse(BASE)
    assert check_update(old, old) == ()
    (problem,) = check_update(new, old)
    assert (
        str(problem) == "spec.hardware.device: device cannot change; delete the FluxSampler and apply it anew"
    )


def test_known_fields_below_optional_and_unknown_parents() -> None:
    assert known_fields(("spec", "hardware", "tolerations", 0, "x")) == (
        "key",
        "operator",
        "value",
        "effect",
        "tolerationSeconds",
    )
    assert known_fields(("spec", "autoscaling", "x"))[0] == "minReplicas"
    assert known_fields(("spec", "nothing", "x")) == ()
    assert known_fields(("spec", "replicas", "x")) == ()


def test_problem_reads_well_without_a_line() -> None:
    assert str(Problem("spec.a", "is wrong", "f.yaml")) == "f.yaml: spec.a: is wrong"
