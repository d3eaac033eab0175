"""The Kubernetes operator: FluxSampler objects in, Ray services that draw pictures out."""
