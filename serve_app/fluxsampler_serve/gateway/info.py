"""What `/v1/info` and `/readyz` say."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_serve.router import Router

VERSION = version("fluxsampler")
PACKAGES = ("ray", "torch", "diffusers", "transformers", "xfuser")


def describe(args: AppArgs, router: Router) -> dict[str, Any]:
    """The body of `/v1/info`."""
    statuses = router.statuses()
    prints = [status.fingerprint for status in statuses.values() if status.fingerprint]
    return {
        "name": args.name,
        "version": VERSION,
        "versions": _versions(),
        "device": args.device,
        "ready": router.ready(),
        "engines": {
            name: {
                "ready": status.ready,
                "reason": status.reason,
                "message": status.message,
                "load_seconds": status.load_seconds,
            }
            for name, status in statuses.items()
        },
        "model": {
            "id": args.model.name,
            "source": args.model.source,
            "revision": args.model.revision,
            "dtype": args.model.dtype,
            "quantization": args.model.quantization,
            "fingerprint": prints[0] if prints else None,
        },
        "defaults": args.defaults.model_dump(mode="json"),
        "sizes": args.sizes.model_dump(mode="json"),
        "limits": {
            "max_pictures": args.serving.max_pictures,
            "max_steps": args.serving.max_steps,
            "max_text_tokens": args.model.max_text_tokens,
            "max_body_bytes": args.serving.max_body_bytes,
            "request_timeout_seconds": args.serving.request_timeout_seconds,
        },
        "plan": args.plan.model_dump(mode="json", by_alias=True),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
