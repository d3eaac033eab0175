"""The `fluxsampler` command."""
