"""A registry on this machine, and one-program images for it, made without a builder.

containerd trusts a registry on 127.0.0.1 without TLS, so pulls (and failing pulls) are real.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import tarfile
from pathlib import Path

from tools.cluster.errors import ClusterError
from tools.cluster.files import publish

ADDRESS = "127.0.0.1:5000"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# A user that every system knows as "nobody".
_NOBODY = "65534:65534"
_SECONDS = 60.0


def write_config(folder: Path) -> Path:
    """The registry's configuration: images under ``folder``."""
    text = (
        f"version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '{ADDRESS}'}}\n"
    )
    return publish(folder / "config.yml", text)


def push_program(name: str, tag: str, program: Path, entry: str) -> str:
    """Push an image that holds nothing but ``program`` as /``entry``, run by nobody; its reference."""
    layer = _layer(program, entry)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{entry}"], "User": _NOBODY},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": _LAYER, "digest": _digest(layer), "size": len(layer)}],
        }
    ).encode()
    for blob in (layer, config):
        if _request("HEAD", f"/v2/{name}/blobs/{_digest(blob)}")[0] != 200:
            _upload(name, blob)
    status, _, text = _request("PUT", f"/v2/{name}/manifests/{tag}", manifest, _MANIFEST)
    if status != 201:
        raise ClusterError(f"the registry refused {name}:{tag}: {status} {text}")
    return f"{ADDRESS}/{name}:{tag}"


def _layer(program: Path, entry: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as layer:
        data = program.read_bytes()
        # No times and no owner: the same program is the same layer.
        info = tarfile.TarInfo(entry)
        info.size, info.mode = len(data), 0o755
        layer.addfile(info, io.BytesIO(data))
    return archive.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _upload(name: str, blob: bytes) -> None:
    status, location, text = _request("POST", f"/v2/{name}/blobs/uploads/")
    if status == 202:
        joined = "&" if "?" in location else "?"
        target = f"{location}{joined}digest={_digest(blob)}".removeprefix(f"http://{ADDRESS}")
        status, _, text = _request("PUT", target, blob, "application/octet-stream")
    if status != 201:
        raise ClusterError(f"the registry refused a layer of {name}: {status} {text}")


def _request(method: str, path: str, body: bytes = b"", content_type: str = "") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(ADDRESS, timeout=_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": content_type} if content_type else {})
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        return response.status, response.headers.get("Location", ""), text
    finally:
        connection.close()
