"""Builds the project's images without Docker and pushes them: `python -m tools.cluster image [operator|serve]`.

The base is a root file system that mmdebstrap makes once per machine; buildah builds the Dockerfile on
it, and pushes the layers that the registry lacks. All state lies in the cache folder of this tool, and
a lock lets callers in one after the other. What a build takes from this machine (package index,
certificates, wheels) stays in no image: docs/dev/images.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster import packages, versions
from tools.cluster.binaries import cache_folder
from tools.cluster.commands import run
from tools.cluster.errors import BuildFailed, CannotRun, ClusterError, CommandFailed
from tools.cluster.files import publish
from tools.cluster.locks import exclusive
from tools.cluster.pip_inputs import PipInputs
from tools.cluster.registry import ADDRESS
from tools.cluster.say import say, step

PROJECT = Path(__file__).resolve().parents[2]
TARGETS = ("operator", "serve")
REGISTRY = ADDRESS
TAG = "dev"

SUITE = "bookworm"
# All that the Dockerfile would install from Debian is here already, so that no build asks for it again.
BASE_PACKAGES = ("bash", "ca-certificates", "netbase", "python3", "python3-venv", "tini", "tzdata", "wget")
_SUITES = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
# Debian's own list of its public servers, which the package apt brings as an example.
_SOURCES = "/usr/share/doc/apt/examples/sources.list"
# Manuals and translations; the licences stay.
_LEFT_OUT = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    f"path-include={_SOURCES}",
)
# Counted up when base() makes something else of the same packages.
_BASE_RECIPE = 2

# chroot needs nothing that a container without privileges over namespaces would lack.
_BUILD = ("build", "--isolation", "chroot", "--format", "oci")
_SECONDS = 3600.0
# Layers of former builds are kept so long: somebody may go back to that code.
_KEPT_SECONDS = 7 * 24 * 3600.0
_LOG_TAIL = 25


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image: digest of its uncompressed tar, and that tar's bytes."""

    digest: str
    size: int


def reference(target: str, tag: str = TAG, registry: str = REGISTRY) -> str:
    """The image of ``target`` as a pod names it."""
    return f"{registry}/fluxsampler-{target}:{tag}"


class ImageBuilder:
    """buildah, with a storage of its own below ``folder``; use it inside :meth:`alone`.

    Steps that fail raise BuildFailed: the text ends with what the step said last, and names its log.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "images"
        storage = self.folder / "storage"
        # buildah counts mounts here; no mount outlives a reboot, so neither may the counts.
        volatile = Path("/run", f"fluxsampler-images-{hashlib.sha256(bytes(storage)).hexdigest()[:8]}")
        self._buildah = ("buildah", "--root", str(storage), "--runroot", str(volatile))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One caller at a time; what a killed one left half done is removed.

        Raises:
            CannotRun: a program is missing, or this is not root.
        """
        _require()
        with exclusive(self.folder / "lock", lambda who: say(f"   waiting for {who}, which builds images")):
            shutil.rmtree(self.folder / "tmp", ignore_errors=True)
            self._run("tidy", "rm", "--all")
            if old := forgotten(json.loads(run([*self._buildah, "images", "--json"])), time.time()):
                self._run("tidy", "rmi", *old)
            yield

    def base(self) -> str:
        """The image that the Dockerfile is built on here; made when there is none yet."""
        recipe = repr((_BASE_RECIPE, SUITE, BASE_PACKAGES, _LEFT_OUT))
        image = f"localhost/fluxsampler-base:{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
        if self._has(image):
            return image
        with step("Base image of Debian packages (once)"), self._temporary() as folder:
            self._log("base", base_command(folder / "root.tar", machine_sources(), machine_apt_options()))
            publish(folder / "Dockerfile", 'FROM scratch\nADD root.tar /\nCMD ["python3"]\n')
            self._run("base", *_BUILD, "--tag", image, str(folder))
        return image

    def build(self, target: str, tag: str = TAG, base: str | None = None, project: Path = PROJECT) -> str:
        """Build ``target`` of ``project``'s Dockerfile on ``base`` (None: :meth:`base`); returns its local name."""
        if target not in TARGETS:
            raise CannotRun(
                f"there is no image {target!r}: {' and '.join(TARGETS)} are what the Dockerfile makes"
            )
        image = f"localhost/fluxsampler-{target}:{tag}"
        arguments = {
            "BASE_IMAGE": base or self.base(),
            "VERSION": _version(project),
            "REVISION": _revision(project),
        }
        with step(f"Image {target}"), PipInputs.of_machine().options() as pip:
            given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
            self._run(
                target, *_BUILD, "--layers", "--target", target, "--tag", image, *given, *pip, str(project)
            )
        return image

    def push(self, target: str, tag: str = TAG, registry: str = REGISTRY) -> str:
        """Push what :meth:`build` made to ``registry``; returns its name there, for pods."""
        image = reference(target, tag, registry)
        # A registry on the loopback interface has no certificate. zstd: a fraction of gzip's time on both ends.
        verify = "false" if registry.startswith(("127.", "localhost")) else "true"
        digest = self._digest_file(target)
        digest.parent.mkdir(parents=True, exist_ok=True)
        how = (
            f"--tls-verify={verify}",
            "--format=oci",
            "--compression-format=zstd",
            f"--digestfile={digest}",
        )
        with step(f"Push {image}"):
            self._run(
                f"push-{target}", "push", *how, f"localhost/fluxsampler-{target}:{tag}", f"docker://{image}"
            )
        return image

    def digest(self, target: str) -> str:
        """What the last :meth:`push` of ``target`` put into a registry, as ``sha256:…``: names it whatever its tag becomes."""
        return self._digest_file(target).read_text().strip()

    def values(self, registry: str = REGISTRY) -> dict[str, str]:
        """The chart's values that name what was pushed last, by digest: a tag stays while its image changes."""
        return {
            "imageRegistry": registry,
            "image.digest": self.digest("operator"),
            "serve.image.digest": self.digest("serve"),
        }

    def layers(self, image: str) -> tuple[Layer, ...]:
        """The layers of a local image, lowest first.

        Raises:
            CommandFailed: there is no such image.
        """
        manifest = json.loads(self._inspect(image)["Manifest"])
        return tuple(Layer(layer["digest"], layer["size"]) for layer in manifest["layers"])

    def config(self, image: str) -> dict[str, Any]:
        """The OCI configuration of a local image: what it runs, its labels, its history.

        Raises:
            CommandFailed: there is no such image.
        """
        config: dict[str, Any] = self._inspect(image)["OCIv1"]
        return config

    def _digest_file(self, target: str) -> Path:
        return self.folder / "pushed" / target

    def _inspect(self, image: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(run([*self._buildah, "inspect", "--type", "image", image]))
        return answer

    def _has(self, image: str) -> bool:
        try:
            self.layers(image)
        except CommandFailed:
            return False
        return True

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder / "tmp") as folder:
            yield Path(folder)

    def _run(self, log: str, *arguments: str) -> None:
        self._log(log, [*self._buildah, *arguments])

    def _log(self, name: str, command: Sequence[str]) -> None:
        """Run ``command`` to its end with all that it says in ``logs/<name>.log``."""
        path = self.folder / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        # buildah keeps pip's download cache below TMPDIR.
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        with path.open("wb") as output:
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=_SECONDS,
                    env={**os.environ, "TMPDIR": str(scratch)}, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise BuildFailed(
                    f"{command[0]} ({name}): no end within {_SECONDS:.0f} s; its log: {path}"
                ) from error
        if done.returncode:
            said = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:]
            raise BuildFailed("\n".join([*said, f"{command[0]} ({name}) failed; the whole log: {path}"]))


def forgotten(images: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    """Ids of those of ``images`` (as `buildah images --json` lists them) that no name leads to any more, and old."""
    return [image["id"] for image in images if not image["names"] and now - image["created"] > _KEPT_SECONDS]


def base_command(tar: Path, sources: Sequence[str], apt_options: Sequence[str]) -> list[str]:
    """mmdebstrap's command line: packages from ``sources``, else from its default ones; the result names Debian's public servers alone."""
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(BASE_PACKAGES)}",
        *(f"--dpkgopt={option}" for option in _LEFT_OUT),
        *(f"--aptopt={option}" for option in apt_options),
        f'--customize-hook=cp "$1{_SOURCES}" "$1/etc/apt/sources.list"',
        '--customize-hook=rm -f "$1"/etc/apt/sources.list.d/* "$1/etc/apt/apt.conf.d/99mmdebstrap"',
        '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
        SUITE,
        str(tar),
        *sources,
    ]


def machine_sources() -> list[str]:
    """This machine's own sources of Debian ``SUITE`` (a mirror, perhaps); none when its apt has another release."""
    form = ["--format", "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)", "Created-By: Packages"]
    found = [line.split() for line in run(["apt-get", "indextargets", *form]).splitlines()]
    mine = {words[1]: words[0] for words in found if len(words) == 4 and words[2:] == ["main", "Debian"]}
    return [f"deb {mine[suite]} {suite} main" for suite in _SUITES if suite in mine] if SUITE in mine else []


def machine_apt_options() -> list[str]:
    """This machine's ways to its package servers: proxies and certificates that apt is told of."""
    kept = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::https::CAInfo")
    lines = run(["apt-config", "dump", "--no-empty"]).splitlines()
    return [line.removesuffix(";") for line in lines if line.startswith(kept)]


def _require() -> None:
    if os.geteuid() != 0:
        raise CannotRun("building images here needs root; with Docker, see docs/dev/images.md")
    packages.require(versions.IMAGE_PACKAGES)


def _version(project: Path) -> str:
    with (project / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def _revision(project: Path) -> str:
    try:
        return run(
            ["git", "-C", project, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        ).strip()
    except CommandFailed:
        return "unknown"  # not a checkout


def main(argv: Sequence[str] | None = None) -> int:
    """Build and push; standard output gets one line for each image, as pods name it."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.cluster image", description="Build the images and push them."
    )
    parser.add_argument(
        "targets", nargs="*", metavar="operator|serve", help="which of them; both when none is named"
    )
    parser.add_argument("--tag", default=TAG)
    parser.add_argument("--registry", default=REGISTRY, help="default: the cluster's, %(default)s")
    parser.add_argument(
        "--base", help="an image to build on instead of one made here, e.g. python:3.11-slim-bookworm"
    )
    parser.add_argument("--no-push", action="store_true", help="only build")
    parser.add_argument(
        "--values",
        action="store_true",
        help="print the chart's values that name both images by digest, for helm --set",
    )
    chosen = parser.parse_args(argv)
    builder = ImageBuilder()
    try:
        with builder.alone():
            for target in chosen.targets or TARGETS:
                image = builder.build(target, chosen.tag, chosen.base)
                image = image if chosen.no_push else builder.push(target, chosen.tag, chosen.registry)
                if not chosen.values:
                    print(image)
            if chosen.values:
                print(",".join(f"{key}={value}" for key, value in builder.values(chosen.registry).items()))
    except ClusterError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
