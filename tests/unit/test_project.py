"""Promises about the repository itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".lock", ".sh", ".js", ".css", ".html", ".csv", ""}


def tracked() -> list[Path]:
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip("not a git checkout: run from a clone to check what is committed")
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_operator_is_a_folder_and_never_a_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would shadow Python's own module `operator`"
    code = "import operator; assert 'site' not in operator.__file__ and hasattr(operator, 'add'), operator.__file__"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_test_folder_is_a_package() -> None:
    folders = {
        path.parent for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / "tests")
    }
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_machine_path_and_no_index_host_is_committed() -> None:
    # Split, so that this file does not name what it looks for.
    forbidden = re.compile(
        "|".join(
            (
                "/wo" + "rk/",
                # Below something, as in /proc/PID, it is the kernel's own.
                r"(?<![\w}\]])/ro" + "ot/",
                r"pypi\.o" + "rg",
                r"pythonhos" + "ted",
                r"download\.pyt" + r"orch\.org",
            )
        )
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix in TEXT
        and (match := forbidden.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert found == []


def test_lock_pins_exactly_what_the_design_names() -> None:
    lock = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    )
    wanted = {"torch": "2.13.0", "xfuser": "0.7.0", "diffusers": "0.42.1", "transformers": "5.23.0", "ray": "2.60.0", "yunchang": "0.6.4",
              "numpy": "2.4.6"}  # fmt: skip
    assert {name: lock.get(name) for name in wanted} == wanted


def test_the_wheel_holds_every_source_package() -> None:
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    on_disk = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/fluxsampler_*/__init__.py")}
    assert set(packages) == on_disk


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in tracked():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_readmes_tell_the_same_commands() -> None:
    def targets(name: str) -> set[str]:
        return set(
            re.findall(r"(?:^|`)make [a-z0-9-]+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        )

    assert targets("README.md") == targets("README.zh-CN.md")


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "dev" / "architecture.md").read_text(encoding="utf-8")
    missing = []
    for package in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        for path in (ROOT / package).glob("*"):
            named = f"{path.name}/" if path.is_dir() else path.name
            if path.name not in {"__init__.py", "__pycache__", "py.typed"} and f"`{named}" not in page:
                missing.append(f"{package}/{path.name}")
    assert missing == []


def test_no_document_has_a_gap_to_fill() -> None:
    gaps = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix == ".md" and (match := re.search(r"@[A-Z0-9_]{2,}@", path.read_text(encoding="utf-8")))
    ]
    assert gaps == []
