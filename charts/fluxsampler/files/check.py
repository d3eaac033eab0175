"""What `helm test` runs in the operator's image: is the operator up, and does the API server know and check FluxSamplers?"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 20


def dry_run(replicas: int) -> tuple[int, str]:
    """Status and message of the API server's answer to a FluxSampler that is checked and not stored."""
    sampler = {
        "apiVersion": "fluxsampler.io/v1alpha1",
        "kind": "FluxSampler",
        "metadata": {"generateName": "helm-test-"},
        "spec": {"model": {"source": "builtin://tiny-shapes"}, "replicas": replicas},
    }
    request = urllib.request.Request(
        f"https://kubernetes.default.svc/apis/fluxsampler.io/v1alpha1/namespaces/{os.environ['NAMESPACE']}/fluxsamplers?dryRun=All",
        data=json.dumps(sampler).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
            "Content-Type": "application/json",
        },
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=trust) as answer:  # noqa: S310  (https, above)
            return answer.status, "accepted"
    except urllib.error.HTTPError as error:
        return error.code, json.load(error).get("message", "")


def healthy() -> tuple[bool, str]:
    """Whether the operator's health endpoint answers, and what."""
    try:
        with urllib.request.urlopen(os.environ["OPERATOR_URL"], timeout=SECONDS) as answer:  # noqa: S310  (the chart's URL)
            return answer.status == 200, str(answer.status)
    except OSError as error:
        return False, str(error)


def main() -> int:
    """Say what was looked at, one line each; 1 where something is not as it should be."""
    up, health = healthy()
    good, good_message = dry_run(replicas=1)
    bad, bad_message = dry_run(replicas=-1)
    checks = (
        (up, f"the operator's health: {health}"),
        (good == 201, f"a valid FluxSampler: {good} {good_message}"),
        (bad == 422 and "spec.replicas" in bad_message, f"replicas: -1 is refused: {bad} {bad_message}"),
    )
    for holds, line in checks:
        sys.stdout.write(f"{'ok' if holds else 'FAILED'} {line}\n")
    return 0 if all(holds for holds, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
