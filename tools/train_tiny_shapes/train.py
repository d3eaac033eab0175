"""Command line of the training: `python -m tools.train_tiny_shapes.train --work DIR --out DIR`."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL

from . import autoencoder, flow, latents
from .publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate files")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--autoencoder-seconds", type=float, default=360.0)
    parser.add_argument("--flow-seconds", type=float, default=2700.0)
    parser.add_argument(
        "--flow-rate", type=float, default=3e-3, help="highest learning rate of the flow training"
    )
    parser.add_argument("--processes", type=int, default=2, help="processes of the flow training")
    parser.add_argument(
        "--start-from", type=Path, help="denoiser.pt of an earlier flow training to go on from"
    )
    parser.add_argument("--copies", type=int, default=3, help="pictures of each scene and size")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=("autoencoder", "latents", "flow", "publish"),
        default=["autoencoder", "latents", "flow", "publish"],
        help="stages to run; the others' results are taken from --work",
    )
    return parser.parse_args()


def main() -> None:
    """Run the chosen stages in their order."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = _arguments()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    autoencoder_folder, latents_path, denoiser_path = work / "vae", work / "latents.pt", work / "denoiser.pt"
    torch.set_num_threads(arguments.processes)

    def train_autoencoder() -> None:
        settings = autoencoder.AutoencoderSettings(arguments.autoencoder_seconds)
        autoencoder.train(settings, autoencoder_folder)

    def encode() -> None:
        model = AutoencoderKL.from_pretrained(autoencoder_folder).eval()
        latents.encode_pictures(model, latents_path, arguments.copies)

    def train_flow() -> None:
        settings = flow.FlowSettings(
            arguments.flow_seconds,
            arguments.processes,
            peak_rate=arguments.flow_rate,
            start_from=arguments.start_from,
        )
        flow.train(settings, latents_path, denoiser_path)

    stages: dict[str, Callable[[], object]] = {
        "autoencoder": train_autoencoder,
        "latents": encode,
        "flow": train_flow,
        "publish": lambda: publish(denoiser_path, autoencoder_folder, arguments.out),
    }
    for name, run in stages.items():
        if name in arguments.stages:
            logging.info("stage %s", name)
            run()


if __name__ == "__main__":
    main()
