"""The planner: (FluxSampler, hardware, links) to a Plan. Pure, no I/O while planning.

>>> from fluxsampler_planner import plan, app_args
>>> made = plan(sampler)            # doctest: +SKIP
>>> made.status().layout.summary    # doctest: +SKIP
'pp8'
"""

from fluxsampler_planner.args import app_args
from fluxsampler_planner.errors import Infeasible, ManualLayoutRefused, PlanError, UnknownGpu, UnknownModel
from fluxsampler_planner.gpus import GPUS, Gpu
from fluxsampler_planner.hardware import Hardware, Links
from fluxsampler_planner.models import MODELS, ModelFacts
from fluxsampler_planner.plan import Card, Plan, plan

__all__ = [
    "GPUS",
    "MODELS",
    "Card",
    "Gpu",
    "Hardware",
    "Infeasible",
    "Links",
    "ManualLayoutRefused",
    "ModelFacts",
    "Plan",
    "PlanError",
    "UnknownGpu",
    "UnknownModel",
    "app_args",
    "plan",
]
