"""A small client of the API server for this tool itself: JSON in, JSON out, nothing beside the standard library."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tools.cluster.errors import ApiFailure

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_TIMEOUT = 20.0


class Api:
    """Requests as the user of one of our kubeconfigs (certificates inside)."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        server = urlsplit(cluster["server"])
        self._host, self._port = server.hostname or "", server.port or 443
        self._tls = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        # The standard library reads a client's certificate from a file only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(user["client-certificate-data"]))
            file.write(base64.b64decode(user["client-key-data"]))
            file.flush()
            self._tls.load_cert_chain(file.name)

    def text(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> str:
        """The answer's body.

        Raises:
            ApiFailure: the status is 400 or above.
            OSError: no answer.
        """
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT, context=self._tls)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(
                method, path, data, {"Content-Type": content_type, "Accept": "application/json"}
            )
            response = connection.getresponse()
            answer = response.read().decode(errors="replace")
        except http.client.HTTPException as error:  # the server went away in the middle
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise ApiFailure(response.status, answer)
        return answer

    def call(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """The answer as JSON; see :meth:`text`."""
        answer: dict[str, Any] = json.loads(self.text(method, path, body, content_type))
        return answer

    def find(self, path: str) -> dict[str, Any] | None:
        """The object at ``path``; None when there is none."""
        try:
            return self.call("GET", path)
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise

    def ready(self) -> bool:
        """Whether the API server calls itself ready; False also while nobody listens."""
        try:
            return self.text("GET", "/readyz") == "ok"
        except (ApiFailure, OSError):
            return False
