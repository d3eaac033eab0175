"""`fluxsampler render`: the operator's manifests, without a cluster or its libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from typer.testing import CliRunner

from fluxsampler_cli.app import app
from tests.support.golden import CASES, Case

TINY = Path(__file__).parents[3] / "examples" / "tiny-cluster.yaml"


def run(*arguments: str) -> tuple[int, str, str]:
    ended = CliRunner().invoke(app, ["render", *arguments])
    return ended.exit_code, ended.stdout, ended.stderr


@pytest.mark.parametrize("case", [case for case in CASES if not case.odd], ids=str)
def test_it_prints_what_the_golden_file_holds(case: Case) -> None:
    code, out, _ = run(str(case.spec))
    assert code == 0
    assert out == case.golden.read_text(encoding="utf-8")


def test_namespace_and_image_are_taken() -> None:
    _, out, _ = run(str(TINY), "-n", "pictures", "--image", "mine:2")
    documents = list(yaml.safe_load_all(out))
    assert {one["metadata"]["namespace"] for one in documents} == {"pictures"}
    head = documents[-1]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["image"] == "mine:2"


def test_json_is_a_list_for_kubectl() -> None:
    _, out, _ = run(str(TINY), "-o", "json")
    listed = json.loads(out)
    assert (listed["kind"], len(listed["items"])) == ("List", 6)


def spec_file(folder: Path, spec: str) -> str:
    path = folder / "spec.yaml"
    path.write_text(
        "apiVersion: fluxsampler.io/v1alpha1\nkind: FluxSampler\nmetadata: {name: it}\nspec:\n"
        + "".join(f"  {line}\n" for line in dedent(spec).strip().splitlines())
    )
    return str(path)


def test_hardware_that_only_nodes_can_tell_is_named(tmp_path: Path) -> None:
    code, out, err = run(spec_file(tmp_path, "model: {source: 'hf://black-forest-labs/FLUX.1-dev'}"))
    assert (code, out) == (3, "")
    assert "spec.hardware.gpu" in err


def test_a_wrong_podtemplate_is_named_with_its_path(tmp_path: Path) -> None:
    code, out, err = run(
        spec_file(
            tmp_path,
            """
            model: {source: 'builtin://tiny-shapes'}
            hardware: {device: cpu}
            podTemplate: {spec: {containers: {name: ray}}}
            """,
        )
    )
    assert (code, out) == (1, "")
    assert "it: spec.podTemplate.spec.containers: is a map, and belongs to be a list" in err


def test_it_needs_none_of_the_clusters_libraries() -> None:
    code = (
        "import sys\n"
        "from fluxsampler_cli.main import main\n"
        f"sys.argv = ['fluxsampler', 'render', {str(TINY)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'kopf', 'kubernetes', 'aiohttp', 'ray', 'torch'}),"
        " file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.stderr.strip() == "[]"
    assert ended.stdout.startswith("apiVersion: v1")
