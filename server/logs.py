"""Logging: structlog formats everything, stdlib records too; JSON or console, to stderr. Secrets are masked last.

A thread formats, masks and writes, so that nobody who logs waits for whoever reads.

Loggers do not get clients' secrets in the first place. This is the second line: it masks names that mean secrets, and
forms that look like secrets, wherever they stand; it logs an exception without its text (which may quote its input),
and an object of an unknown kind only by its type.
"""

import errno
import functools
import json
import logging
import os
import queue
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any
from uuid import UUID

import structlog

from dropoff_tus.errors import DropoffError

_MASKED = "[redacted]"
_SECRET_WORDS = frozenset(
    {
        *("authorization", "checksum", "code", "cookie", "digest", "filename", "identity", "key", "mac", "md5"),
        *("metadata", "passphrase", "password", "secret", "sha1", "sha256", "sha512", "token"),
    }
)
_WORDS = re.compile(r"[A-Za-z0-9]+")
_URL_TOKEN = re.compile(r"(/files/[^/\s\"']+/)[0-9a-f]{32}", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"AGE-SECRET-KEY-[A-Z0-9-]+"
    # an operator's API token
    r"|dropoff_[0-9a-f]{64}"
    # a code as it is printed; O, I and L as people type them
    r"|(?<![0-9A-Z-])[0-9A-TV-Z]{4}(?:[- ][0-9A-TV-Z]{4}){3}(?![0-9A-Z-])"
    # a header with what follows
    r"|(?:Dropoff-Code|Dropoff-Token|Authorization|Upload-Metadata|Upload-Checksum|Cookie)['\"]?\s*[:=,]\s*[^\r\n]*",
    re.IGNORECASE,
)
_ERROR_CODE = re.compile(r"ERR_[A-Z_]+")
_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
_MAX_DEPTH = 6
_SHORT = 64
_NUMBERS = frozenset({bool, float, int})
_MAX_FRAMES = 8
_MAX_CAUSES = 4
_MAX_KEPT = 10_000
_FLUSH_SECONDS = 2.0


_encoder = json.JSONEncoder(ensure_ascii=True)


def _encode(event: Mapping[str, Any], **_defaults: object) -> str:
    """Write JSON with one encoder for all lines; nothing is left in an event that it cannot write."""
    return _encoder.encode(event)


class _Handler(logging.Handler):
    """Keeps records until its thread has written them, and counts those for which there is no room.

    From the first record without room on all are dropped until those kept are written, so that one line tells how many
    are missing, in the place where they are.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        """Start the thread; `write` takes whole lines, and may block or raise OSError."""
        super().__init__()
        self._write = write
        self._kept: queue.SimpleQueue[logging.LogRecord | threading.Event | None] = queue.SimpleQueue()
        self._room = threading.RLock()  # what the garbage collector ends may log too
        self._dropped = 0
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Keep a record."""
        if record.exc_info:
            # Its frames would keep alive what they hold.
            record.exception = describe(record.exc_info[1])
            record.exc_info = None
        with self._room:
            if self._dropped or self._kept.qsize() >= _MAX_KEPT:
                self._dropped += 1
            else:
                self._kept.put(record)
        return True

    def flush(self) -> None:
        """Wait until what was logged before is written, or its reader had time enough. `logging` calls it at exit."""
        written = threading.Event()
        self._kept.put(written)
        written.wait(_FLUSH_SECONDS)

    def close(self) -> None:
        """End the thread."""
        self._kept.put(None)
        super().close()

    def _write_all(self) -> None:
        missing = 0
        while (item := self._kept.get()) is not None:
            if isinstance(item, logging.LogRecord) and not self._is_written(item):
                missing += 1
            with self._room:
                if self._kept.empty():
                    missing, self._dropped = missing + self._dropped, 0
            if missing and self._is_written(_dropped_record(missing)):
                missing = 0
            if isinstance(item, threading.Event):
                item.set()

    def _is_written(self, record: logging.LogRecord) -> bool:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - logging would print the record as it came
            line = f"a record of {record.name} could not be written: {describe(error)}"
        try:
            self._write(f"{line}\n")
        except OSError:
            return False
        return True


def _dropped_record(count: int) -> logging.LogRecord:
    fields = {"levelno": logging.WARNING, "levelname": "WARNING", "msg": "log lines were dropped: nobody took them"}
    return logging.makeLogRecord({"name": __name__, "dropped": count, **fields})


def write_to(descriptor: int, text: str) -> None:
    """Write without Python's buffers: at exit it would wait for the lock of one whose write never ends."""
    left = text.encode("utf-8", "backslashreplace")
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            # The process at the other end may have made it so.
            select.select((), (descriptor,), ())


def configure(log_format: str, level: str) -> None:
    """Set logging up for the process."""
    # No line shows them, and finding them out costs as much as the rest of a record.
    # Source: the Logging HOWTO of Python, "Optimization".
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - where it was called from, named there too
    root = logging.getLogger()
    write = functools.partial(write_to, sys.stderr.fileno())
    root.handlers = [make_handler(log_format, write, colors=sys.stderr.isatty())]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # These print what clients sent.
    for name in ("aiohttp.server", "aiohttp.access", "aiohttp.web", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def change(log_format: str, level: str) -> None:
    """Change the form and the level of what is logged from now on."""
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setFormatter(_formatter(log_format, colors=sys.stderr.isatty()))
    root.setLevel(level.upper())


def make_handler(log_format: str, write: Callable[[str], object], *, colors: bool = False) -> logging.Handler:
    """Return the handler that writes records, masked, as `json` or for people (`console`)."""
    handler = _Handler(write)
    handler.setFormatter(_formatter(log_format, colors=colors))
    return handler


def _formatter(log_format: str, *, colors: bool) -> logging.Formatter:
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_encode)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=colors)
    )
    return _Formatter(renderer)


class _Formatter(logging.Formatter):
    """Turns a record into an event, masks it and lets structlog render it.

    structlog's own ProcessorFormatter does the same for five times the CPU time, a tenth of a small request's.
    """

    def __init__(self, renderer: Any) -> None:  # noqa: ANN401 - structlog's renderers share no type
        """Take the renderer."""
        super().__init__()
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        _mask_arguments(record)
        event: dict[str, Any] = {"event": record.getMessage(), "level": record.levelname.lower(), "logger": record.name}
        event.update((name, value) for name, value in record.__dict__.items() if name not in _RECORD_FIELDS)
        event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        return str(self._renderer(None, "", redact(None, "", event)))


def log_what_nobody_caught() -> None:
    """Send what Python would print with a traceback through the log instead."""
    log = logging.getLogger("server")

    def uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        log.critical("the program failed", extra={"exception": describe(error)})

    def unraisable(what: Any) -> None:  # noqa: ANN401 - a structure that exists only for the type checker
        log.error("an error was ignored", extra={"exception": describe(what.exc_value)})

    def in_thread(what: Any) -> None:  # noqa: ANN401 - likewise
        log.error("a thread failed", extra={"exception": describe(what.exc_value)})

    sys.excepthook, sys.unraisablehook, threading.excepthook = uncaught, unraisable, in_thread


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask whatever looks like a secret, at any depth. For structlog, last before the renderer."""
    shown: dict[str, Any] = {}
    for key, value in event.items():
        # The common values of most lines, without the general way's calls: this runs several times a request.
        name, secret = _shown_name(key)
        kind = type(value)
        if value is None or (kind in _NUMBERS and not secret):
            shown[name] = value
        elif kind is str and not secret and len(value) <= _SHORT:
            shown[name] = _masked(value)
        else:
            shown[name] = _safe_under(key, value, 0)
    return shown


def describe(error: BaseException | None) -> str:
    """Tell an exception, and what caused it, without their texts: the kinds, and the places they came from."""
    told: list[str] = []
    while error is not None and len(told) < _MAX_CAUSES:
        kind = type(error).__name__
        if isinstance(error, OSError) and error.errno is not None:
            kind += f"[{errno.errorcode.get(error.errno, error.errno)}]"
        if isinstance(error, DropoffError):
            kind += f"[{error.code}]"
        places = [
            f"{'/'.join(PurePath(frame.filename).parts[-2:])}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
        ]
        told.append(f"{kind} at {' > '.join(places)}" if places else kind)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ", caused by ".join(told)


def _mask_arguments(record: logging.LogRecord) -> None:
    """Mask what is about to be written into a message; numbers stay, so that every format still fits."""
    if isinstance(record.args, Mapping):
        record.args = {key: _safe_under(key, value, 0) for key, value in record.args.items()}
    elif record.args:
        record.args = tuple(_safe(value, 0) for value in record.args)


@functools.lru_cache(maxsize=256)
def _shown_name(name: str) -> tuple[str, bool]:
    """Return a name as it may be shown, and whether it means a secret."""
    return _mask(name), _means_a_secret(name)


@functools.lru_cache(maxsize=256)
def _means_a_secret(name: str) -> bool:
    words = _WORDS.findall(name.lower())
    return bool(words) and words[-1].removesuffix("s") in _SECRET_WORDS


def _safe_under(key: object, value: object, depth: int) -> Any:  # noqa: ANN401 - what JSON takes
    """Return a named value as it may be shown."""
    if value is not None and _means_a_secret(str(key)):
        return value if isinstance(value, str) and _ERROR_CODE.fullmatch(value) else _MASKED
    return _safe(value, depth)


def _safe(value: object, depth: int) -> Any:  # noqa: ANN401 - what JSON takes
    """Return a value as it may be shown."""
    if type(value) is str:
        return _masked(value) if len(value) <= _SHORT else _mask(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, date, PurePath, UUID)):
        return _mask(str(value))
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"[{len(value)} bytes]"
    return _safe_members(value, depth) if depth < _MAX_DEPTH else f"[{type(value).__name__}]"


def _mask(text: str) -> str:
    return _SECRET_TEXT.sub(_MASKED, _URL_TOKEN.sub(r"\1[token]", text))


# The same names, levels and ids come again and again.
_masked = functools.lru_cache(maxsize=1024)(_mask)


def _safe_members(value: object, depth: int) -> Any:  # noqa: ANN401 - what JSON takes
    """Return a container as it may be shown, and of anything else the type."""
    if isinstance(value, Mapping):
        return {_safe(str(key), depth): _safe_under(key, item, depth + 1) for key, item in value.items()}
    if isinstance(value, (Sequence, AbstractSet)):
        return [_safe_item(item, depth + 1) for item in value]
    return f"[{type(value).__name__}]"


def _safe_item(item: object, depth: int) -> Any:  # noqa: ANN401 - what JSON takes
    """Return a member of a list; a pair may be a header, so its first half names its second."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], (str, bytes)):  # noqa: PLR2004 - a pair
        name = item[0].decode("latin-1") if isinstance(item[0], bytes) else item[0]
        return [_safe(name, depth), _safe_under(name, item[1], depth)]
    return _safe(item, depth)
