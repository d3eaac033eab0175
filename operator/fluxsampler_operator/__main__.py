"""``python -m fluxsampler_operator``."""

from fluxsampler_operator.main import main

main()
