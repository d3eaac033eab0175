"""`fluxsampler.json`: what a model's folder may say about how it is to be used.

It lies beside ``model_index.json`` and speaks to whoever plans and whoever serves::

    {"defaults": {"width": 128, "height": 128, "steps": 8, "guidance_scale": 0.0, "max_text_tokens": 32},
     "sizes": {"multiple_of": 16, "min": 64, "max": 128},
     "max_text_tokens": 64}
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from fluxsampler_api.app_args import RequestDefaults

FILE_NAME = "fluxsampler.json"


class Sizes(BaseModel):
    """Sizes the model draws well, in pixels."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    multiple_of: int = Field(16, ge=1)
    min: int = Field(ge=16)
    max: int = Field(ge=16)
    max_pixels: int | None = Field(None, ge=256)

    @property
    def area(self) -> int:
        """Most pixels of one picture."""
        return self.max_pixels or self.max * self.max


class ModelSettings(BaseModel):
    """The whole file; every field is optional. Unknown ones are those of a later version."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    defaults: RequestDefaults | None = None
    sizes: Sizes | None = None
    max_text_tokens: int | None = Field(None, ge=8, le=512)
