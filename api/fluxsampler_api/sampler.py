"""The FluxSampler object: `fluxsampler.io/v1alpha1`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from fluxsampler_api.spec import FluxSamplerSpec

GROUP = "fluxsampler.io"
VERSION = "v1alpha1"
KIND = "FluxSampler"
PLURAL = "fluxsamplers"
SHORT_NAME = "fxs"
API_VERSION = f"{GROUP}/{VERSION}"


# Kubernetes' rule for names of custom objects: apimachinery validation.go, IsDNS1123Subdomain.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def _dns_subdomain(name: str) -> str:
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise PydanticCustomError(
            "name",
            "{name} is not a Kubernetes name; use at most 253 lower-case letters, digits, '-' and '.'",
            {"name": repr(name[:80])},
        )
    return name


class Metadata(BaseModel):
    """The part of Kubernetes' object metadata that is read here; the rest is kept as it is."""

    model_config = ConfigDict(extra="allow", frozen=True, alias_generator=to_camel, populate_by_name=True)

    name: Annotated[str, AfterValidator(_dns_subdomain)]
    namespace: str = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class FluxSampler(BaseModel):
    """One object that a user applies."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    api_version: Literal["fluxsampler.io/v1alpha1"]
    kind: Literal["FluxSampler"]
    metadata: Metadata
    spec: FluxSamplerSpec
    status: dict[str, Any] | None = Field(None, description="Ignored on input: only the operator writes it.")

    @property
    def name(self) -> str:
        """Name in its namespace."""
        return self.metadata.name
