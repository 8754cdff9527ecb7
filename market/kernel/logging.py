"""Structured logs: one JSON line per event, with the request id, secrets masked."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

# Names whose values never reach a log, and shapes of secrets inside free text.
_SECRET_NAMES = re.compile(r"(secret|password|authorization|token|cookie|api_key|card)", re.I)
_SECRET_SHAPES = re.compile(
    r"(eyJ[\w-]{8,}\.[\w-]+\.[\w-]+|mkt_(?:sandbox|live)_\w+|://[^/\s:@]*:[^@\s]+@)"
)
_MASK = "***"


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: mask secrets by name and by shape."""
    for name, value in event.items():
        if _SECRET_NAMES.search(name) and not name.endswith(("_id", "_count")):
            event[name] = _MASK
        elif isinstance(value, str):
            event[name] = _SECRET_SHAPES.sub(_MASK, value)
    return event


def configure(*, json: bool, level: str = "INFO") -> None:
    """Set up structlog and route the standard library's records through it."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "procrastinate", "uvicorn.access", "alembic"):
        logging.getLogger(noisy).setLevel("WARNING")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; bind request facts through structlog.contextvars."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
