"""Logs hold nothing that was sent in confidence, wherever in a record it stands."""

import contextlib
import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dropoff_tus.errors import CatalogUnavailableError
from server import logs
from tests.support.unread import unread_pipe

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
    """Errors that Python itself would print, at the end or from a thread, go the same way."""
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


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator["_SlowReader"]:
    """Return a logger whose lines are taken on demand, with room for few."""
    monkeypatch.setattr(logs, "_MAX_KEPT", 5)
    reader = _SlowReader()
    with contextlib.closing(logs.make_handler("json", reader.write)) as handler:
        monkeypatch.setattr(reader.logger, "handlers", [handler])
        monkeypatch.setattr(reader.logger, "level", logging.INFO)
        yield reader
        reader.takes.set()


class _SlowReader:
    """Takes lines on demand, and may fail."""

    def __init__(self) -> None:
        """Take nothing yet."""
        self.logger = logging.getLogger("server.test_slow")
        self.lines: list[dict[str, Any]] = []
        self.waited_for, self.takes = threading.Event(), threading.Event()
        self.problem: OSError | None = None

    def write(self, text: str) -> None:
        """Keep a line."""
        self.waited_for.set()
        self.takes.wait()
        if self.problem:
            raise self.problem
        self.lines += [json.loads(line) for line in text.splitlines()]

    @property
    def told(self) -> list[str | int]:
        """Return all lines, as what they say or how many are missing there."""
        self.logger.handlers[0].flush()
        return [line.get("dropped", line["event"]) for line in self.lines]


def test_lines_that_nobody_takes_are_dropped_and_counted_where_they_are_missing(slow: _SlowReader) -> None:
    """Logging never waits, from several threads either; when somebody reads again, all is as before."""
    slow.logger.info("first")
    assert slow.waited_for.wait(20)
    for number in range(5):
        slow.logger.info("kept %d", number)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(slow.logger.info, ["dropped"] * 1000))
    slow.takes.set()
    kept = ["first", *(f"kept {number}" for number in range(5))]
    assert slow.told == [*kept, 1000]
    slow.logger.info("later")
    assert slow.told == [*kept, 1000, "later"]


def test_lines_that_cannot_be_written_are_counted_when_it_is_possible_again(slow: _SlowReader) -> None:
    """A disk that is full, or a reader that is gone and comes back as a socket's may."""
    slow.takes.set()
    slow.problem = OSError(errno.ENOSPC, _NAME)
    for number in range(3):
        slow.logger.info("lost %d", number)
        assert slow.told == []
    slow.problem = None
    slow.logger.info("later")
    assert slow.told == ["later", 3]


def test_end_waits_for_a_slow_reader_but_not_for_none() -> None:
    """All that was logged comes out at the end if somebody takes it; else the program ends anyway."""
    program = """
import logging
from server import logs
logs.configure("json", "info")
for number in range(2000): logging.getLogger("server.test").info("line", extra={"number": number})
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert [json.loads(line)["number"] for line in process.stderr] == list(range(2000))
    assert process.returncode == 0
    with unread_pipe() as (_, full):
        assert subprocess.run([sys.executable, "-c", program], stderr=full, timeout=60, check=False).returncode == 0


def test_lines_are_written_whole_to_what_does_not_wait() -> None:
    """The process at the other end may have made it so; then a full pipe is an error, not a wait."""
    with unread_pipe(full=False) as (read, write), ThreadPoolExecutor(1) as pool:
        os.set_blocking(write, False)
        written = pool.submit(logs.write_to, write, "x" * 100_000)
        taken = 0
        while taken < 100_000:
            taken += len(os.read(read, 3000))
        assert written.result(20) is None
