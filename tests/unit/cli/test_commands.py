"""validate, plan, crd, info, --help: answers, speed of import, and that nothing is started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from fluxsampler_api import crd
from fluxsampler_cli import machine
from fluxsampler_cli.errors import ExitCode
from tests.support.cli_specs import FLUX, TINY
from tests.support.model_folders import copy_builtin

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Run

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
COMMANDS = ("up", "down", "status", "generate", "plan", "validate", "crd", "info")


def test_every_example_is_valid_and_has_a_plan(run: Run) -> None:
    assert len(EXAMPLES) >= 6
    result = run("validate", *map(str, EXAMPLES))
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) >= len(EXAMPLES)
    for example in EXAMPLES:
        result = run("plan", str(example), "-o", "json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["plan"]["layout"]["gpusPerReplica"] >= 1


def test_a_plan_as_a_table_explains_itself(run: Run) -> None:
    plain = run("plan", str(ROOT / "examples" / "flux-dev-8x4090.yaml"))
    explained = run("plan", str(ROOT / "examples" / "flux-dev-8x4090.yaml"), "--explain")
    assert plain.exit_code == explained.exit_code == 0
    for part in (
        "plan of flux-dev",
        "layout",
        "fallback",
        "object store 64 GiB",
        "memory by card",
        "transformer",
    ):
        assert part in plain.stdout
    assert "not taken" not in plain.stdout
    assert "not taken" in explained.stdout
    assert "host memory, proved" in explained.stdout
    assert "≥" in explained.stdout


def test_several_documents(run: Run) -> None:
    Path("two.yaml").write_text(f"{TINY}---\n{TINY.replace('tiny}', 'other}')}", encoding="utf-8")
    both = run("plan", "two.yaml", "-o", "yaml")
    assert [one["name"] for one in yaml.safe_load_all(both.stdout)] == ["tiny", "other"]
    one = run("plan", "two.yaml", "--select", "other", "-o", "json")
    assert json.loads(one.stdout)["name"] == "other"
    nobody = run("plan", "two.yaml", "--select", "nobody")
    assert (
        nobody.exit_code,
        "holds no FluxSampler called nobody; there is: tiny, other" in nobody.stderr,
    ) == (1, True)
    up = run("up", "two.yaml")
    assert (
        up.exit_code,
        "two.yaml holds 2 FluxSamplers; choose one with --select: tiny, other" in up.stderr,
    ) == (1, True)


def test_a_file_may_be_standard_input(run: Run) -> None:
    result = run("plan", "-", "-o", "json", stdin=TINY)
    assert json.loads(result.stdout)["name"] == "tiny"


def test_a_plan_for_this_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    card = machine.Card(0, "NVIDIA GeForce RTX 4090", 24564 << 20, "575", "rtx-4090")
    cards = tuple(machine.Card(n, card.name, card.memory, card.driver, card.kind) for n in range(4))
    found = machine.Machine(cores=64, threads=128, memory=512 << 30, shm=256 << 30, cards=cards, links=())
    monkeypatch.setattr(machine, "look", lambda: found)
    text = FLUX.replace("hardware: {device: cpu, gpusPerNode: 2}", "hardware: {}").replace(
        "  objectStore: {memory: 80Mi}\n", ""
    )
    Path("auto.yaml").write_text(text, encoding="utf-8")
    assert run("plan", "auto.yaml").exit_code == ExitCode.INFEASIBLE
    result = run("plan", "auto.yaml", "--this-machine", "-o", "json")
    assert result.exit_code == 0, result.output
    layout = json.loads(result.stdout)["plan"]["layout"]
    assert layout["gpusPerReplica"] * layout["replicas"] <= 4
    assert json.loads(result.stdout)["plan"]["memory"]["host"]["nodeGib"] == 512


def test_a_model_in_a_folder_is_read(run: Run) -> None:
    copy_builtin(Path("mine").absolute())
    text = TINY.replace("builtin://tiny-shapes", f"file://{Path('mine').absolute()}").replace("80Mi", "Auto")
    Path("mine.yaml").write_text(text, encoding="utf-8")
    result = run("plan", "mine.yaml", "-o", "json")
    assert result.exit_code == 0, result.output
    host = json.loads(result.stdout)["plan"]["memory"]["host"]
    assert host["weightsGib"] == pytest.approx(0.011, abs=0.004)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "holds no model_index.json"),
        (lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "holds no .safetensors file"),
        (
            lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 64),
            "is damaged: its header does not fit into it",
        ),
        (
            lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\4" + b"\0" * 7 + b"nope"),
            "is damaged: its JSON cannot be read",
        ),
        (lambda folder: (folder / "transformer" / "config.json").write_text("{"), "config.json is damaged"),
    ],
)  # fmt: skip
def test_damaged_model_folders(run: Run, change: object, message: str) -> None:
    folder = copy_builtin(Path("mine").absolute())
    assert callable(change)
    change(folder)
    Path("mine.yaml").write_text(TINY.replace("builtin://tiny-shapes", f"file://{folder}"), encoding="utf-8")
    result = run("up", "mine.yaml", "--port", "0")
    assert result.exit_code == 1, result.output
    assert message in result.stderr


def test_crd_is_the_one_of_the_models(run: Run) -> None:
    assert run("crd").stdout == crd.render()


def test_info_names_versions_and_devices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    card = machine.Card(0, "NVIDIA L40S", 46068 << 20, "575", "l40s")
    found = machine.Machine(64, 128, 512 << 30, 256 << 30, (card, card), ((0, 1, "NV4"),))
    monkeypatch.setattr(machine, "look", lambda: found)
    answer = json.loads(run("info", "-o", "json").stdout)
    assert answer["versions"]["torch"]
    assert answer["cards"][0]["kind"] == "l40s"
    assert answer["links"] == [{"cards": [0, 1], "kind": "NV4"}]
    assert yaml.safe_load(run("info", "-o", "yaml").stdout) == answer
    table = run("info").stdout
    assert "NVIDIA L40S, 45.0 GiB, driver 575 (l40s)" in table
    assert "64 physical, 128 threads" in table


def test_help_of_every_command(run: Run) -> None:
    text = run("--help").stdout
    assert "Exit codes: 0 done, 1 invalid input" in text
    for command in COMMANDS:
        assert command in text
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "Usage:" in result.stdout


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("up",), ("up", "x.yaml", "--port", "99999"), ("plan", "x", "-o", "xml")]
)
def test_wrong_usage_is_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == ExitCode.USAGE


def test_version(run: Run) -> None:
    assert run("--version").stdout == "fluxsampler 0.1.0\n"


def test_an_unexpected_error_is_one_line_unless_debug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(machine, "look", fail)
    plain, debug = run("info"), run("--debug", "info")
    assert plain.exit_code == debug.exit_code == ExitCode.FAULT
    assert (
        plain.stderr == "error: unexpected ZeroDivisionError: by zero; run again with --debug and report it\n"
    )
    assert "Traceback" in debug.stderr


def test_completion_script(run: Run) -> None:
    result = run("--show-completion")
    assert result.exit_code == 0, result.output
    assert "FLUXSAMPLER" in result.stdout.upper()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("up", "--help"),
        ("validate", str(EXAMPLES[0])),
        ("plan", str(EXAMPLES[0])),
        ("crd",),
        ("info",),
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_what_only_describes_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from fluxsampler_cli.app import app\n"
        f"try: app({list(arguments)!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'numpy', 'fastapi', 'xfuser'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
