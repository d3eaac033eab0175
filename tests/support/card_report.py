"""A Ray with eight cards that are only numbers, and engines that tell which of them they were shown.

    python -m tests.support.card_report EXAMPLE FOLDER

Plans the example for eight RTX 4090, deploys it with fake engines, asks for one picture, and leaves
in FOLDER one line per engine: its name and `CUDA_VISIBLE_DEVICES`.
"""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from fluxsampler_api.loading import load_file
from fluxsampler_cli.local_ray import LocalRay
from fluxsampler_planner import app_args, plan

if TYPE_CHECKING:
    from fluxsampler_api.app_args import StartArgs
    from fluxsampler_serve.engines.protocol import Engine, EngineName


@dataclass(frozen=True)
class Reporting:
    """An EngineFactory whose fakes write down the cards they see."""

    folder: str

    def __call__(self, args: StartArgs, name: EngineName) -> Engine:
        from fluxsampler_serve.engines.fake import FakeEngine, FakeScript

        line = f"{name} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n"
        (Path(self.folder) / uuid.uuid4().hex).write_text(line, encoding="utf-8")
        return FakeEngine(name, FakeScript())


def main(example: str, folder: str) -> None:
    sampler = load_file(example)[0]
    args = app_args(sampler, plan(sampler))
    # Ray's shares and replicas are what is tried here: a picture of 1024² would only cost time.
    small = args.defaults.model_copy(update={"width": 256, "height": 256, "steps": 1})
    args = args.model_copy(update={"defaults": small})
    with LocalRay.start("cards", 100 << 20, cpus=16, gpus=8) as local:
        from fluxsampler_serve.app import compose

        local.run(compose(args, Reporting(folder)))
        answer = httpx.post(f"{local.url}/v1/images/generations", json={"prompt": "a red circle"}, timeout=60)
        answer.raise_for_status()
        print("engine", answer.headers["x-fluxsampler-engine"])


if __name__ == "__main__":
    main(*sys.argv[1:])
