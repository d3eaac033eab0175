"""A real Kubernetes on one Debian machine, from plain processes: for trying FluxSampler and for its tests."""
