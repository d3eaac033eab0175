"""FluxSampler files for tests of the command line, each wrong in one way, or right and small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.model_folders import copy_builtin, weights

if TYPE_CHECKING:
    from pathlib import Path

TINY = """\
apiVersion: fluxsampler.io/v1alpha1
kind: FluxSampler
metadata: {name: tiny}
spec:
  model: {source: builtin://tiny-shapes}
  hardware: {device: cpu, gpusPerNode: 2}
  objectStore: {memory: 80Mi}
"""
FLUX = TINY.replace("tiny}", "big}").replace("builtin://tiny-shapes", "hf://black-forest-labs/FLUX.1-dev")
ONE_CARD = "hardware: {gpu: rtx-4090, gpusPerNode: 1}"
CPU = "hardware: {device: cpu, gpusPerNode: 2}"


def write_specs(folder: Path) -> None:
    """Every file that docs/user/errors.md names."""
    damaged = copy_builtin(folder / "damaged")
    file = weights(damaged, "transformer")
    file.write_bytes(file.read_bytes()[:-1000])
    files = {
        "tiny.yaml": TINY,
        "malformed.yaml": TINY.replace("{device: cpu,", "{device: cpu: ["),
        "unknown-field.yaml": TINY.replace("shapes}", "shapes, dtyp: float32}"),
        "wrong-kind.yaml": TINY.replace("kind: FluxSampler", "kind: Pod"),
        "wrong-version.yaml": TINY.replace("v1alpha1", "v1"),
        "infeasible.yaml": FLUX.replace(CPU, ONE_CARD),
        "needs-cards.yaml": FLUX.replace(CPU, ONE_CARD),
        "missing-model.yaml": TINY.replace("builtin://tiny-shapes", "file:///no/such/model"),
        "corrupt-model.yaml": TINY.replace("builtin://tiny-shapes", f"file://{damaged}"),
        "token.yaml": TINY + "  serving: {authSecretRef: {name: fluxsampler-token}}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
