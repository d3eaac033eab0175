"""Golden manifests: what the operator would apply for each example and for each spec under tests/golden/specs.

`python -m tests.support.golden` writes them anew; look at the diff before you commit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fluxsampler_api.loading import load_file
from fluxsampler_operator.builders import desired
from fluxsampler_operator.builders.text import as_stream
from fluxsampler_operator.manifest import Manifest, Owner
from fluxsampler_operator.settings import Settings
from fluxsampler_planner import plan

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "golden"

SETTINGS = Settings(version="1.0.0")
"""Of the examples: those of `fluxsampler render` without options."""

ODD_SETTINGS = Settings(
    serve_image="127.0.0.1:5000/fluxsampler-serve:dev",
    image_pull_policy="Always",
    image_pull_secrets=("pull",),
    probe_key=b"a key of the tests",
    version="1.0.0",
)
UID = "0b9a1c7e-5a53-4a5c-9d5c-2f6f0f0e8c11"
RAY_CLUSTER = "two-nodes-abcde"
"""The active cluster, as a RayService's status would name it."""


@dataclass(frozen=True)
class Case:
    """A spec, and the file that holds its manifests."""

    spec: Path
    golden: Path
    odd: bool

    def __str__(self) -> str:
        return self.spec.stem

    def manifests(self) -> tuple[Manifest, ...]:
        (sampler,) = load_file(self.spec)
        owner = Owner(sampler.name, sampler.metadata.namespace, UID if self.odd else None)
        settings = ODD_SETTINGS if self.odd else SETTINGS
        return desired(sampler, plan(sampler), settings, owner, ray_cluster=RAY_CLUSTER if self.odd else None)

    def text(self) -> str:
        return as_stream(self.manifests())


CASES = (
    *(Case(path, FOLDER / path.name, odd=False) for path in sorted((ROOT / "examples").glob("*.yaml"))),
    *(Case(path, FOLDER / "odd" / path.name, odd=True) for path in sorted((FOLDER / "specs").glob("*.yaml"))),
)


def main() -> None:
    wanted = {case.golden for case in CASES}
    for old in (*FOLDER.glob("*.yaml"), *(FOLDER / "odd").glob("*.yaml")):
        if old not in wanted:
            old.unlink()
    for case in CASES:
        case.golden.parent.mkdir(exist_ok=True)
        case.golden.write_text(case.text(), encoding="utf-8")


if __name__ == "__main__":
    main()
