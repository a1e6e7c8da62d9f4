"""Logs: one event name, facts as keys. JSON where nobody looks at a terminal, coloured text where somebody does."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(kind: str = "auto", level: str = "info") -> None:
    """Set up logging to standard error. `kind`: auto, json or text."""
    as_json = kind == "json" or (kind == "auto" and not sys.stderr.isatty())
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if as_json else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper(), logging.INFO)),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
