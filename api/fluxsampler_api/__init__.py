"""The FluxSampler contract: spec, status, plan and AppArgs. No kopf, ray or torch."""
