"""`spec.model`: which model, from where, in which form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fluxsampler_api.quantity import Quantity
from fluxsampler_api.rules import Rule, RuledModel


class SecretRef(RuledModel):
    """A key of a Secret in the FluxSampler's own namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret.")
    key: str = Field("token", min_length=1, max_length=253, description="Key inside the Secret.")


class Cache(RuledModel):
    """Where downloaded and converted components are kept."""

    host_path: str | None = Field(None, pattern="^/", description="Folder on the node; survives pods.")
    claim: str | None = Field(None, description="PersistentVolumeClaim to mount.")
    empty_dir: bool = Field(
        False, description="Scratch space of the pod; downloads again after each restart."
    )
    size: Quantity | None = Field(None, description="Limit of the scratch space, e.g. 80Gi.")

    RULES = (
        Rule(
            cel="(has(self.hostPath) ? 1 : 0) + (has(self.claim) ? 1 : 0) + (self.emptyDir ? 1 : 0) <= 1",
            holds=lambda c: (c.host_path is not None) + (c.claim is not None) + c.empty_dir <= 1,
            message="hostPath, claim and emptyDir exclude each other; keep one",
        ),
        Rule(
            cel="!has(self.size) || self.emptyDir",
            holds=lambda c: c.size is None or c.empty_dir,
            message="size limits an emptyDir only; set emptyDir: true or remove size",
            field="size",
        ),
    )


class Model(RuledModel):
    """Which model, from where, in which form."""

    source: str = Field(
        max_length=512,
        description="hf://owner/name, pvc://claim/path, file:///absolute/folder or builtin://tiny-shapes.",
    )
    revision: str | None = Field(
        None, max_length=128, description="Commit, tag or branch of an hf:// source; pin a commit."
    )
    token_secret_ref: SecretRef | None = Field(None, description="Token for gated hf:// sources.")
    dtype: Literal["Auto", "float32", "bfloat16"] = Field(
        "Auto",
        description="Number format of the weights in use; Auto is bfloat16 on CUDA and float32 on CPU.",
    )
    quantization: Literal["none", "fp8"] = Field(
        "none", description="fp8 stores the transformer's linear weights in 8 bits and computes in dtype."
    )
    max_text_tokens: int | None = Field(
        None,
        ge=8,
        le=512,
        description="Most T5 tokens a request may use; default: the model's own (FLUX.1-dev 512, -schnell 256).",
    )
    cache: Cache = Field(Cache(), description="Where downloads and converted weights are kept.")

    RULES = (
        Rule(
            cel=(
                "self.source.matches('^hf://[^/]+/[^/]+$') || self.source.matches('^pvc://[^/]+(/.*)?$') || "
                "self.source.matches('^file:///.+$') || self.source == 'builtin://tiny-shapes'"
            ),
            holds=lambda m: _known_source(m.source),
            message="write hf://owner/name, pvc://claim/path, file:///absolute/folder or builtin://tiny-shapes",
            field="source",
        ),
        Rule(
            cel="!has(self.revision) || self.source.startsWith('hf://')",
            holds=lambda m: m.revision is None or m.source.startswith("hf://"),
            message="only an hf:// source has revisions; remove revision",
            field="revision",
        ),
        Rule(
            cel="!has(self.tokenSecretRef) || self.source.startsWith('hf://')",
            holds=lambda m: m.token_secret_ref is None or m.source.startswith("hf://"),
            message="only an hf:// source takes a token; remove tokenSecretRef",
            field="tokenSecretRef",
        ),
        Rule(
            cel="!has(self.maxTextTokens) || self.maxTextTokens % 8 == 0",
            holds=lambda m: m.max_text_tokens is None or m.max_text_tokens % 8 == 0,
            message="text tokens are split over ranks; use a multiple of 8",
            field="maxTextTokens",
        ),
    )


def _known_source(source: str) -> bool:
    scheme, _, rest = source.partition("://")
    if scheme == "hf":
        owner, slash, name = rest.partition("/")
        return bool(owner and slash and name and "/" not in name)
    if scheme == "pvc":
        return bool(rest.partition("/")[0])
    if scheme == "file":
        return rest.startswith("/") and len(rest) > 1
    return source == "builtin://tiny-shapes"
