"""The history of one upload, for a support call: from its own log, the audit, and the server's log lines."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dropoff_tus.audit import MOST_NAMED, Act, moment
from dropoff_tus.errors import DropoffError
from dropoff_tus.model import UploadRow
from dropoff_tus.protocol import expires_at
from server.cli.output import CommandError, note, size
from server.cli.target import STDOUT
from server.services import Services
from server.settings.config import Config
from server.settings.units import stamp
from storage.uploads.maintenance.history import Step, steps

_LOGGED = ("event", "method", "status", "code", "cut", "bytes", "offset", "seconds")
_STORED = {
    "create": "created",
    "segs": "received",
    "len": "its length was declared",
    "seen": "a body was discarded, because it did not match its Upload-Checksum or was cut off",
    "key": "handed over to another signing key",
    "final": "whole",
    "end": "ended",
}
Entry = dict[str, Any]
"""When (`at`), where that is known from (`source`: store, audit or log), a sentence (`text`), and the facts in it."""


async def history_of(services: Services, config: Config, row: UploadRow, log: Path | None) -> dict[str, Any]:
    """Return what is known of an upload in the order of time, and how it stands now.

    Args:
        services: The store and the catalog.
        config: The configuration, which says when uploads expire.
        row: The upload's.
        log: A file with the server's log lines, or `-` for stdin; None: without them.

    Raises:
        CommandError: The file cannot be read.
    """
    own: list[Step] = []
    try:
        own = await services.store.run(steps, services.store.base, row.id)
    except DropoffError as error:
        note(f"its own log is left out: {error.message}")
    entries = [_stored(step, row) for step in own]
    check: Entry | None = None
    for text in await services.catalog.audit_of(row.id, row.drop_id):
        # A row that somebody changed is for `audit verify`.
        with suppress(ValueError, KeyError, TypeError):
            entry = _audited(json.loads(text))
            if entry["act"] == Act.STORE_CHECK and "upload" not in entry:
                check = entry if entry["began"] >= moment(row.created_at) else check
            elif "upload" in entry or entry["at"] >= moment(row.created_at):
                entries.append(entry)
    # Of the checks of all uploads the last one that covered this one, unless it has a row about it.
    if check is not None and check["began"] not in {entry.get("began") for entry in entries}:
        named = check["findings"] <= MOST_NAMED
        entries.append(
            {**check, "text": f"{check['text']}; {'none' if named else 'too many to tell whether any'} about this one"}
        )
    entries += [] if log is None else _logged(log, row)
    entries.sort(key=lambda entry: str(entry["at"]))
    came = [moment(step.at) for step in own if step.offset > step.start and step.kind != "end"]
    last = came[-1] if came else None
    return {"history": entries, "last_byte_at": last, **await _now(services, config, row, last)}


async def _now(services: Services, config: Config, row: UploadRow, last_byte_at: str | None) -> dict[str, Any]:
    told, receiving, expires = [row.state.value], False, None
    with suppress(DropoffError):
        stored = await services.store.stat(row.id)
        if stored.ended is None:
            told.append(_progress(stored.offset, stored.length))
            told += [] if last_byte_at is None else [f"the last byte came at {last_byte_at}"]
        if stored.ended is None and not stored.whole:
            receiving = await services.store.receiving(row.id)
            expires = stamp(expires_at(stored, config.tus.expire_after))
            told.append("a request sends to it now" if receiving else "no request sends to it now")
            told += [] if expires is None or receiving else [f"it expires at {expires} unless bytes come"]
    return {"receiving": receiving, "expires_at": expires, "now": "; ".join(told)}


def _progress(offset: int, length: int | None) -> str:
    if length is None:
        return f"{offset} bytes are here, and the client has not said how many there will be"
    return f"{offset} of {length} bytes are here{_percent(offset, length)}"


def _percent(offset: int, length: int | None) -> str:
    return f" ({100 * offset / length:.1f} %)" if length else ""


def _stored(step: Step, row: UploadRow) -> Entry:
    text, seconds = _STORED.get(step.kind, step.kind), (step.at - step.began_at).total_seconds()
    if step.kind == "create":
        text += f": {row.mode.value}, {row.role.value}" + ("" if step.length is None else f", {step.length} bytes")
    elif step.kind == "segs":
        text += f" {step.start} to {step.offset}{_percent(step.offset, row.length)}, {step.commits} commits"
        text += f" in {seconds:.1f} s, {size(int((step.offset - step.first) / seconds))}/s" if seconds else ""
    elif step.kind == "final":
        text += f": {step.offset} bytes"
    elif step.why is not None:
        text += f": {step.why}"
    facts = {"kind": step.kind, "began_at": moment(step.began_at), "start": step.start, "offset": step.offset}
    return {"at": moment(step.at), "source": "store", "text": text, **facts, "commits": step.commits}


def _audited(row: dict[str, Any]) -> Entry:
    more = [f"{name} {row[name]}" for name in ("result", "bytes", "count", "findings") if name in row]
    text = f"{row['act']} by {row['who']}{': ' if more else ''}{', '.join(more)}"
    return {"at": row["at"], "source": "audit", "text": text, **row}


def _logged(log: Path, row: UploadRow) -> Iterator[Entry]:
    """Yield what the server's log says of an upload, whatever journald wrote in front of each line."""
    lines = unread = 0
    for line in _lines_of(log, row.id.encode()):
        lines += 1
        try:
            told = json.loads(line[line.index(b"{") :])
            at = moment(datetime.fromisoformat(told["timestamp"]))
        except (ValueError, KeyError, TypeError):
            unread += 1
            continue
        facts = {name: told[name] for name in _LOGGED if told.get(name) is not None}
        yield {"at": at, "source": "log", "text": _sentence(facts, row.length), **facts}
    if not lines:
        note("no line of the log names this upload")
    if unread:
        note(f'lines that are not in JSON were left out: {unread}; --log needs what log.format = "json" writes')


def _lines_of(log: Path, wanted: bytes) -> Iterator[bytes]:
    try:
        with sys.stdin.buffer if str(log) == STDOUT else log.open("rb") as file:
            yield from (line for line in file if wanted in line)
    except OSError as error:
        raise CommandError(f"cannot read {log}: {error.strerror}") from None


def _sentence(told: Entry, length: int | None) -> str:
    if told.get("event") != "request":
        return " ".join(str(told[name]) for name in ("event", "code") if name in told)
    text = " ".join(str(told[name]) for name in ("method", "status", "code") if name in told)
    more = [f"the body was cut off, {told['cut']}"] if "cut" in told else []
    if told.get("bytes"):
        seconds = told.get("seconds", 0)
        speed = f", {size(int(told['bytes'] / seconds))}/s" if seconds else ""
        more.append(f"{told['bytes']} bytes in {seconds:.2f} s{speed}")
    if "offset" in told:
        more.append(f"at {told['offset']}{_percent(told['offset'], length)}")
    return f"{text}{': ' if more else ''}{'; '.join(more)}"
