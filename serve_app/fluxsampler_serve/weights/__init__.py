"""Model sources and weights: fetched once, converted once, one copy in memory for all processes.

``prepare`` turns a source into a :class:`PreparedModel`; the ``load_*`` functions map it. How and
why is told in ``docs/dev/weights.md``.
"""

from fluxsampler_serve.weights.cache import cache_root, prepare
from fluxsampler_serve.weights.facts import ModelFacts, read_facts
from fluxsampler_serve.weights.mapped import (
    load_pipeline,
    load_scheduler,
    load_text_encoders,
    load_tokenizers,
    load_transformer,
    load_vae,
    warm_page_cache,
)
from fluxsampler_serve.weights.prepared import PreparedModel, Progress, WeightsProgress

__all__ = [
    "ModelFacts",
    "PreparedModel",
    "Progress",
    "WeightsProgress",
    "cache_root",
    "load_pipeline",
    "load_scheduler",
    "load_text_encoders",
    "load_tokenizers",
    "load_transformer",
    "load_vae",
    "prepare",
    "read_facts",
    "warm_page_cache",
]
