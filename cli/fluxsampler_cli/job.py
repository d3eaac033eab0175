"""One `up`: what is to run, handed from the command to the keeper and from there to the runner."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fluxsampler_api.app_args import AppArgs


class Job(BaseModel):
    """Everything an instance is made of; secrets travel in the environment, never here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    instance: str
    folder: str
    file: str
    host: str
    port: int
    requested_port: int
    log: str
    cpus: int
    gpus: int
    object_store_bytes: int
    args: AppArgs
    log_format: Literal["console", "json"] = "console"

    @property
    def fingerprint(self) -> str:
        """Equal for two `up`s that ask for the same; how a plan explains itself is no part of that."""
        wanted = f"{self.host} {self.requested_port} {self.args.model_dump_json(exclude={'plan'})}"
        return hashlib.sha256(wanted.encode()).hexdigest()


class Event(BaseModel):
    """A line from the runner to its keeper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["step", "ready", "failed"]
    step: str = ""
    detail: str = ""
