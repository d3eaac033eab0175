"""Entry point of `fluxsampler`: as little as possible before an interrupt is handled."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        from fluxsampler_cli.app import app  # an interrupt while this imports is caught below

        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
