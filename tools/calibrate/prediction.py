"""What the cost model says for a measured row. Apart from the fit, so that judging parameters needs no scipy."""

from __future__ import annotations

from fluxsampler_planner.cost import XDIT, CostParameters, Stack, seconds
from fluxsampler_planner.models import FLUX_DEV, FLUX_SCHNELL
from tools.calibrate.rows import Row

MODELS = {"dev": FLUX_DEV, "schnell": FLUX_SCHNELL}


def predict(row: Row, cost: CostParameters, stack: Stack = XDIT) -> float:
    """Seconds the model says for ``row``."""
    time = seconds(MODELS[row.model], row.split, row.work, cost, split_decode=row.split_decode, stack=stack)
    return time.total - (time.encode + time.decode if row.denoise_only else 0.0)
