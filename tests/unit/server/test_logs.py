"""What reaches a log: nothing that was sent in confidence, wherever in a record it stands."""

import contextlib
import errno
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dropoff_tus.errors import CatalogUnavailableError
from server import logs

_CODE = "7QK2-01AB-9XYZ-M3T5"
_TOKEN = "0123456789abcdef0123456789abcdef"
_URL = f"https://drop.example/files/3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a/{_TOKEN}"
_KEY = "AGE-SECRET-KEY-PQ-1QQQQ"
_NAME = "name-marker.txt"
_SECRETS = (_CODE, _TOKEN, _KEY, _NAME)


class _Talkative:
    def __repr__(self) -> str:
        return f"{_CODE} {_NAME}"


@dataclass
class _Log:
    """A logger whose lines can be read."""

    logger: logging.Logger
    stream: io.StringIO

    @property
    def text(self) -> str:
        """Return what it wrote."""
        self.logger.handlers[0].flush()
        return self.stream.getvalue()


@pytest.fixture(params=["json", "console"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Log]:
    """Return a logger that writes as the server does, in either format."""
    stream = io.StringIO()
    logger = logging.getLogger("server.test")
    with contextlib.closing(logs.make_handler(request.param, stream.write)) as handler:
        monkeypatch.setattr(logger, "handlers", [handler])
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        yield _Log(logger, stream)


def _fail() -> None:
    raise OSError(errno.ENOSPC, _NAME)


def _raise_nested() -> None:
    try:
        _fail()
    except OSError as error:
        message = f"cannot keep {_URL} for {_CODE}"
        raise ValueError(message) from error


@pytest.mark.parametrize(
    "extra",
    [
        {"code": _CODE},
        {"upload_token": _TOKEN, "Filename": _NAME},
        {"where": _URL},
        {"text": f"typed {_CODE}, or {_CODE.lower()} or {_CODE.replace('-', ' ')}"},
        {"headers": {"Dropoff-Code": "any form", "Upload-Metadata": _NAME, "x": {"y": [{"token": _TOKEN}]}}},
        {"raw_headers": [("Dropoff-Code", _CODE), (b"upload-metadata", _NAME.encode()), ("Location", _URL)]},
        {"pairs": ((_URL, 1), {_CODE}, frozenset({_KEY}))},
        {"body": _NAME.encode(), "view": memoryview(_CODE.encode())},
        {"error": ValueError(_CODE), "errors": [KeyError(_NAME), OSError(errno.EIO, _NAME)]},
        {"thing": _Talkative(), "things": [_Talkative()]},
        {"deep": [[[[[[[[[[_Talkative(), _NAME]]]]]]]]]]},
        {"request": f"POST /x HTTP/1.1 Dropoff-Code: {_NAME}"},
        {_URL: 1, "nested": {_CODE: 1}},
        {"path": Path(_URL), "identity": _KEY, "note": f"read {_KEY}"},
    ],
    ids=lambda extra: next(iter(extra))[:12],
)
def test_secret_in_any_value_is_masked(log: _Log, extra: dict[str, Any]) -> None:
    """Flat or nested, by name or by form, as text, bytes, exception or object."""
    log.logger.warning("something", extra=extra)
    text = log.text
    assert "something" in text
    for secret in (*_SECRETS, _CODE.lower(), _CODE.replace("-", " "), "any form"):
        assert secret not in text


def test_secret_in_the_arguments_of_a_message_is_masked(log: _Log) -> None:
    """Other people's loggers put objects and exceptions into the text; numbers stay numbers."""
    log.logger.error("at %s: %r, %d%% of %s", _URL, ValueError(_CODE), 7, _Talkative())
    log.logger.error("%(where)s %(count)04d", {"where": _URL, "count": 7})
    text = log.text
    assert "7% of [_Talkative]" in text
    assert "0007" in text
    assert "/files/3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a/[token]" in text
    assert not any(secret in text for secret in _SECRETS)


def test_exception_is_told_without_its_text(log: _Log) -> None:
    """Kinds, places and causes are enough to find a bug; texts quote what was sent."""
    try:
        _raise_nested()
    except ValueError:
        log.logger.exception("it failed")
    text = log.text
    assert "ValueError at server/test_logs.py:" in text
    assert "caused by OSError[ENOSPC] at server/test_logs.py:" in text
    assert "Traceback" not in text
    assert not any(secret in text for secret in _SECRETS)


def test_record_that_does_not_fit_its_format_is_told_without_its_text(log: _Log) -> None:
    """Python's logging would print the record and its arguments, with a traceback."""
    (handler,) = log.logger.handlers
    handler.handle(logging.LogRecord("server.test", logging.ERROR, "", 1, "%d", (_CODE,), None))
    assert "a record of server.test could not be written: TypeError" in log.text
    assert _CODE not in log.text


def test_what_is_no_secret_stays(log: _Log) -> None:
    """Ids, numbers, error codes and times are what a log is for."""
    drop_id, upload_id = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a", "fedcba9876543210fedcba9876543210"
    extra = {"drop_id": drop_id, "upload_id": upload_id, "code": "ERR_QUOTA", "size_bytes": 12345, "id": UUID(drop_id)}
    log.logger.info("kept %s", CatalogUnavailableError("x"), extra=extra)
    text = log.text
    for shown in (drop_id, upload_id, "ERR_QUOTA", "12345", "CatalogUnavailableError[ERR_CATALOG_UNAVAILABLE]"):
        assert shown in text
    assert "redacted" not in text


def test_uncaught_errors_are_logged_without_their_text() -> None:
    """What Python itself would print, at the end or from a thread, goes the same way."""
    program = f"""
import sys, threading
from server import logs
logs.configure("json", "info")
logs.log_what_nobody_caught()
class Bad:
    def __del__(self): raise ValueError("{_CODE}")
def fail(): raise KeyError("{_NAME}")
thread = threading.Thread(target=fail); thread.start(); thread.join()
Bad()
raise RuntimeError("{_URL}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    lines = [json.loads(line) for line in done.stderr.decode().splitlines()]
    assert done.returncode == 1
    assert [line["exception"].partition(" ")[0] for line in lines] == ["KeyError", "ValueError", "RuntimeError"]
    assert not any(secret in done.stderr.decode() for secret in _SECRETS)
