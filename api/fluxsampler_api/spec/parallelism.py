"""`spec.parallelism`: how one picture is split over cards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fluxsampler_api.rules import Rule, RuledModel

# FLUX packs 2×2 latents of 8×8 pixels into a token: diffusers pipeline_flux.py, vae_scale_factor * 2.
TOKEN_PIXELS = 16

Degree = Annotated[int, Field(ge=1, le=64)]


def _token_side(side: str) -> Rule:
    def holds(target: Target) -> bool:
        pixels: int | None = getattr(target, side)
        return pixels is None or pixels % TOKEN_PIXELS == 0

    return Rule(
        cel=f"!has(self.{side}) || self.{side} % {TOKEN_PIXELS} == 0",
        holds=holds,
        message=f"FLUX draws in tokens of {TOKEN_PIXELS}×{TOKEN_PIXELS} pixels; use a multiple of {TOKEN_PIXELS}",
        field=side,
    )


class Target(RuledModel):
    """The request that the plan is optimised for."""

    width: int | None = Field(None, ge=64, le=8192, description="Pixels; default: the model's own.")
    height: int | None = Field(None, ge=64, le=8192, description="Pixels; default: the model's own.")
    steps: int | None = Field(None, ge=1, le=200, description="Denoising steps; default: the model's own.")

    RULES = (_token_side("width"), _token_side("height"))


class Parallelism(RuledModel):
    """How one picture is split over cards. Auto lets the planner choose; Manual names the degrees."""

    mode: Literal["Auto", "Manual"] = Field(
        "Auto", description="Who chooses the degrees: the planner, or you."
    )
    objective: Literal["latency", "throughput"] = Field(
        "latency", description="What Auto optimises: seconds per picture, or pictures per minute."
    )
    target: Target = Target()
    exact: bool = Field(
        False, description="Only layouts equal to one device up to rounding: no PipeFusion staleness."
    )
    pipefusion: Degree | None = Field(None, description="Pipeline stages (Manual).")
    tensor: Degree | None = Field(None, description="Tensor-parallel degree (Manual).")
    ulysses: Degree | None = Field(None, description="Ulysses sequence-parallel degree (Manual).")
    ring: Degree | None = Field(None, description="Ring sequence-parallel degree (Manual).")
    gpus_per_replica: int | None = Field(
        None, ge=1, le=16, description="Cards of one replica; the product of the degrees."
    )

    @property
    def degrees(self) -> tuple[int, int, int, int]:
        """(pipefusion, tensor, ulysses, ring), 1 where not named."""
        return (self.pipefusion or 1, self.tensor or 1, self.ulysses or 1, self.ring or 1)

    @property
    def product(self) -> int:
        """Number of ranks that the named degrees ask for."""
        pipefusion, tensor, ulysses, ring = self.degrees
        return pipefusion * tensor * ulysses * ring

    RULES = (
        Rule(
            cel="self.mode == 'Manual' || !(has(self.pipefusion) || has(self.tensor) || has(self.ulysses) || has(self.ring))",
            holds=lambda p: (
                p.mode == "Manual" or all(d is None for d in (p.pipefusion, p.tensor, p.ulysses, p.ring))
            ),
            message="degrees are read in mode Manual only; set mode: Manual, or remove pipefusion, tensor, ulysses and ring",
            field="mode",
        ),
        Rule(
            cel="self.mode != 'Manual' || has(self.gpusPerReplica)",
            holds=lambda p: p.mode != "Manual" or p.gpus_per_replica is not None,
            message="mode Manual needs gpusPerReplica; set it to ulysses*ring*pipefusion*tensor",
            field="gpusPerReplica",
        ),
        Rule(
            cel=(
                "self.mode != 'Manual' || !has(self.gpusPerReplica) || (has(self.ulysses) ? self.ulysses : 1) * (has(self.ring) ? self.ring : 1) "
                "* (has(self.pipefusion) ? self.pipefusion : 1) * (has(self.tensor) ? self.tensor : 1) == self.gpusPerReplica"
            ),
            holds=lambda p: (
                p.mode != "Manual" or p.gpus_per_replica is None or p.product == p.gpus_per_replica
            ),
            message="ulysses*ring*pipefusion*tensor differs from gpusPerReplica; make them equal",
            quote=lambda p: f"{p.product} ranks for {p.gpus_per_replica} cards:",
            field="gpusPerReplica",
        ),
        # Silently wrong in xfuser 0.7.0 (3e-2 off): DESIGN §6, shown by tests/serve/test_parity.py.
        Rule(
            cel="!has(self.tensor) || self.tensor == 1 || (has(self.ulysses) ? self.ulysses : 1) * (has(self.ring) ? self.ring : 1) == 1",
            holds=lambda p: (p.tensor or 1) == 1 or (p.ulysses or 1) * (p.ring or 1) == 1,
            message="tensor above 1 together with ulysses or ring draws wrong pictures in xfuser 0.7.0; set tensor: 1, or ulysses: 1 and ring: 1",
            field="tensor",
        ),
        Rule(
            cel="!self.exact || !has(self.pipefusion) || self.pipefusion == 1",
            holds=lambda p: not p.exact or (p.pipefusion or 1) == 1,
            message="pipefusion reuses activations of the step before; set pipefusion: 1, or exact: false",
            field="pipefusion",
        ),
    )
