"""Structured logs: one JSON object a line, or coloured lines for a person at a terminal."""

from __future__ import annotations

import logging
import os
import sys

import structlog

LOG_FORMAT_ENV = "FLUXSAMPLER_LOG_FORMAT"
"""`json` or `console`; unset: console on a terminal, JSON elsewhere."""

LOG_LEVEL_ENV = "FLUXSAMPLER_LOG_LEVEL"
"""A level of the standard library, such as `DEBUG`; unset: `INFO`."""


def configure() -> None:
    """Set up structlog for this process; logs go to standard error."""
    style = os.environ.get(LOG_FORMAT_ENV) or ("console" if sys.stderr.isatty() else "json")
    level = logging.getLevelNamesMapping().get(os.environ.get(LOG_LEVEL_ENV, "INFO").upper(), logging.INFO)
    render: structlog.types.Processor = (
        # Plain tracebacks: the pretty ones print local variables, and with them prompts and tokens.
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if style == "console"
        else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
