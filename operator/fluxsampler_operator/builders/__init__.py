"""Pure builders: a FluxSampler and its plan in, the manifests that shall exist out."""
