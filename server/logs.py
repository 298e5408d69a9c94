"""Logging: structlog formats everything, stdlib records too; JSON or console, to stderr. Secrets are masked last."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_KEYS = frozenset({"code", "token", "authorization", "identity", "key", "filename", "metadata"})
_URL_TOKEN = re.compile(r"(/files/[^/\s\"']+/)[0-9a-f]{32}")
_SECRET_TEXT = re.compile(r"AGE-SECRET-KEY-[A-Z0-9-]+", re.IGNORECASE)
_ERROR_CODE = re.compile(r"ERR_[A-Z_]+")


def configure(log_format: str, level: str) -> None:
    """Set logging up for the process."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # These print what clients sent.
    for name in ("aiohttp.server", "aiohttp.access", "aiohttp.web", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask whatever looks like a secret: the last line of defence, not the first."""
    for key, value in event.items():
        if key.lower() in _SECRET_KEYS and not (isinstance(value, str) and _ERROR_CODE.fullmatch(value)):
            event[key] = None if value is None else "[redacted]"
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub("[redacted]", _URL_TOKEN.sub(r"\1[token]", value))
    return event
