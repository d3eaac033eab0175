"""What a user does first: install, apply, wait, ask for a picture."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.cluster import LiveCluster, fresh_namespace
from tests.support.installation import RESTRICTED, ROOT, Installation, Sampler
from tests.support.shape_checker import matches

EXAMPLE = yaml.safe_load((ROOT / "examples" / "tiny-cluster.yaml").read_text())


@pytest.fixture(scope="module")
def ready(installed: Installation, cluster: LiveCluster) -> Iterator[Sampler]:
    """The example for clusters, Ready."""
    with fresh_namespace(cluster.kubectl, RESTRICTED) as namespace:
        sampler = Sampler(cluster, namespace, EXAMPLE["metadata"]["name"])
        sampler.apply(EXAMPLE)
        print(f"apply to Ready: {sampler.wait_ready():.1f} s")
        yield sampler


def test_a_picture_comes_through_the_service(ready: Sampler) -> None:
    answer = httpx.post(
        f"{ready.url}/v1/images/generations", json={"prompt": "a red circle", "seed": 1}, timeout=120
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-fluxsampler-engine"] == "parallel"
    picture = Image.open(BytesIO(b64decode(answer.json()["data"][0]["b64_json"]))).convert("RGB")
    assert matches(np.asarray(picture), "a red circle")
