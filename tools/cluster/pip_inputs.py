"""What this machine's pip would use, handed to the pip inside an image build, so that it leaves no trace there."""

from __future__ import annotations

import ast
import configparser
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.cluster.commands import run
from tools.cluster.files import publish

# Where the Dockerfile's secret `ca` lies during a RUN.
_CERTIFICATES_INSIDE = "/run/secrets/ca"
_SETTINGS = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout", "retries")
# What decides which packages are found; the others only decide how they travel.
_SOURCES = ("index-url", "extra-index-url", "find-links")
# pip's own order: a variable wins over a command's section, which wins over the global one.
_RANK = {"global": 0, "install": 1, ":env:": 2}
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class PipInputs:
    """Settings that hold inside a build, folders of wheels, and certificates (None: the image's own)."""

    settings: Mapping[str, str] = field(default_factory=dict)
    wheels: tuple[Path, ...] = ()
    certificates: Path | None = None

    @classmethod
    def of_machine(cls) -> PipInputs:
        """Read this machine's pip configuration: files and variables.

        Raises:
            CommandFailed: this Python has no pip.
        """
        return cls.parse(run([sys.executable, "-m", "pip", "config", "list"]), os.environ)

    @classmethod
    def parse(cls, listed: str, environment: Mapping[str, str]) -> PipInputs:
        """From ``listed``, what `pip config list` prints: lines of ``section.key='value'``."""
        found: dict[str, tuple[int, str]] = {}
        for line in listed.splitlines():
            head, _, value = line.partition("=")
            section, _, key = head.partition(".")
            rank = _RANK.get(section, -1)
            if value and rank >= found.get(key, (0, ""))[0]:
                found[key] = rank, str(ast.literal_eval(value))
        values = {key: value for key, (_, value) in found.items()}

        links = values.pop("find-links", "").split()
        folders = [Path(link).expanduser() for link in links if "://" not in link]
        if remote := [link for link in links if "://" in link]:
            values["find-links"] = " ".join(remote)
        candidates = [values.get("cert"), *map(environment.get, _CERTIFICATE_VARIABLES)]
        return cls(
            settings={key: values[key] for key in _SETTINGS if key in values},
            wheels=tuple(folder.resolve() for folder in folders if any(folder.glob("*.whl"))),
            certificates=next((Path(path) for path in candidates if path and Path(path).is_file()), None),
        )

    @property
    def key(self) -> str:
        """Another one for another index or other wheels: for what packages could come out otherwise."""
        offered = sorted(f"{wheel.name} {wheel.stat().st_size}" for wheel in self._wheels())
        sources = [self.settings.get(source, "") for source in _SOURCES]
        return hashlib.sha256("\n".join([*sources, *offered]).encode()).hexdigest()[:12]

    def config(self) -> str:
        """A pip.conf for inside the build."""
        parser = configparser.RawConfigParser()
        parser["global"] = dict(self.settings) | ({"cert": _CERTIFICATES_INSIDE} if self.certificates else {})
        text = io.StringIO()
        parser.write(text)
        return text.getvalue()

    @contextmanager
    def options(self) -> Iterator[list[str]]:
        """Options of `buildah build`; the files that they name last as long as the context."""
        with tempfile.TemporaryDirectory(prefix="fluxsampler-pip-") as temporary:
            config = publish(Path(temporary, "pip.conf"), self.config(), 0o600)
            options = [f"--secret=id=pip,src={config}", f"--build-arg=PIP_INPUTS={self.key}"]
            if self.certificates:
                options.append(f"--secret=id=ca,src={self.certificates}")
            if len(self.wheels) == 1:
                options.append(f"--build-context=wheels={self.wheels[0]}")
            elif self.wheels:
                together = Path(temporary, "wheels")
                together.mkdir()
                for wheel in self._wheels():
                    shutil.copy(wheel, together)
                options.append(f"--build-context=wheels={together}")
            yield options

    def _wheels(self) -> list[Path]:
        return [wheel for folder in self.wheels for wheel in folder.glob("*.whl")]
