"""Logs: one event name, facts as keys. JSON where nobody looks at a terminal, coloured text where somebody does."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict

from ebbtide.errors import discreet


def configure(kind: str = "auto", level: str = "info") -> None:
    """Set up logging to standard error. `kind`: auto, json or text."""
    as_json = kind == "json" or (kind == "auto" and not sys.stderr.isatty())
    renderer = structlog.processors.JSONRenderer() if as_json else _text()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _discreet,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper(), logging.INFO)),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _discreet(logger: object, method: str, event: EventDict) -> EventDict:
    if "exception" in event:
        event["exception"] = discreet(event["exception"])
    return event


def _text() -> structlog.dev.ConsoleRenderer:
    # A prettier traceback shows the variables of each frame, passwords among them.
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


class _Libraries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            words = record.getMessage()
        except Exception:
            words = str(record.msg)
        told = {"library": record.name, "words": discreet(words), "exc_info": record.exc_info}
        structlog.get_logger("library").log(record.levelno, "library_warns", **told)


def hear_libraries() -> None:
    """What libraries warn of goes the same way, without what it may tell of credentials; else it would go to standard error as it is."""
    root = logging.getLogger()
    root.handlers = [_Libraries(logging.WARNING)]
