"""Logs of the operator and of its libraries, as JSON lines on standard error."""

from __future__ import annotations

import logging
import sys

import structlog

# One line for every handler call, or for what is meant to be so.
_QUIET = {
    "kopf": logging.WARNING,
    "kubernetes": logging.WARNING,
    "urllib3": logging.ERROR,
    "aiohttp.access": logging.WARNING,
}

KOPF_ANSWERS = "kopf._cogs.clients.errors"
"""Where kopf defines its errors for the API server's answers; by name, since kopf is for handlers alone."""


class _Expected(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        # Watches run in threads on purpose, and the operator itself handles signals.
        return "OS signals are ignored" not in record.getMessage()


def _answers_in_one_line(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """What the API server answers to kopf (a kind is gone, a right was taken) is no fault of code: no trace of that."""
    given = event.get("exc_info")
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if type(error).__module__ == KOPF_ANSWERS:
        del event["exc_info"]
        event["error"] = str(error)
    return event


def set_up(level: str = "INFO") -> None:
    """Send everything to standard error, one JSON object a line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _answers_in_one_line,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_Expected())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, logging.getLevelName(level)))
