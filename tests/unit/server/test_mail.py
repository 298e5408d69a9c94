"""The digest: what one message says of many uploads, and how a mail server's refusals are told."""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dropoff_tus.model import Dropoff, Metadata, Mode, Role, SignedPolicy, UploadRow, UploadState
from dropoff_tus.outbox import EventKind, OutboxRow, SinkName, event_id
from server.outbox.loop import DeliveryError
from server.outbox.mail import MailCourier, MailSettings
from tests.support.aio import async_test
from tests.support.certificate import make_certificate
from tests.support.fake_clock import NOON, FakeClock
from tests.support.mail_server import PASSWORD, USER, MailServer
from tests.support.memory_catalog import MemoryCatalog
from tests.support.memory_store import MemoryStore


class _NamedStore(MemoryStore):
    async def metadata(self, upload_id: str) -> Metadata | None:
        return Metadata((("filename", f"{upload_id[-2:]}\r\nBcc: x@y\u202e.txt".encode()),))


class _Post:
    """A drop-off, a courier, and the mail server that it knows."""

    def __init__(self, server: MailServer, ca_file: str) -> None:
        self.server, self.clock, self.catalog = server, FakeClock(), MemoryCatalog()
        self.settings = MailSettings("localhost", server.port, "drop@example.org", "starttls", USER, PASSWORD, ca_file)
        self.drop = Dropoff(
            str(uuid.uuid4()), "Co\u2028hort", NOON, SignedPolicy(Mode.MANAGED, (), b""), notify=("a@example.org",)
        )
        self.catalog.drops[self.drop.id] = self.drop

    async def deliver(self, rows: list[OutboxRow], **changes: Any) -> None:  # noqa: ANN401 - each has its type
        """Send rows with other settings."""
        settings = replace(self.settings, **changes)
        await MailCourier(_NamedStore(self.clock), self.catalog, self.clock, settings).deliver(rows)

    def rows(self, count: int, kind: EventKind = EventKind.COMPLETE) -> list[OutboxRow]:
        """Return events of new uploads."""
        made = []
        for number in range(count):
            found = f"{kind.value == EventKind.COMPLETE.value:01x}{number:031x}"
            state = UploadState.COMPLETE
            self.catalog.rows[found] = UploadRow(
                found, self.drop.id, Role.REGULAR, Mode.MANAGED, state, NOON, size_bytes=number
            )
            made.append(OutboxRow(event_id(found, kind), SinkName.MAIL, kind, self.drop.id, found, NOON, NOON, 1))
        return made


@pytest.fixture
def post(tmp_path: Path) -> Iterator[_Post]:
    """Return a courier with a mail server."""
    certificate = make_certificate(tmp_path)
    with MailServer(certificate) as server:
        yield _Post(server, str(certificate[0]))


@async_test
async def test_many_uploads_are_one_message_with_one_id(post: _Post) -> None:
    """A repeated message bears the same Message-ID; neither headers nor lines can be forged by a name."""
    rows = post.rows(250) + post.rows(2, EventKind.REJECTED)
    await post.deliver(rows)
    await post.deliver(rows[::-1], file_names=True)
    first, second = post.server.taken
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Subject"] == "Co\ufffdhort: 252 uploads"
    assert first["Bcc"] is second["Bcc"] is None
    text = first.get_content()
    assert "Complete: 250" in text
    assert "52 more: dropoff-tus upload list" in text
    assert rows[7].upload_id in text
    assert ".txt" not in text
    assert f"{rows[7].upload_id}  7 bytes  07\ufffd\ufffdBcc: x@y\ufffd.txt" in second.get_content()


@async_test
async def test_address_that_is_put_off_is_told_later_and_nobody_twice(post: _Post) -> None:
    """A greylisting server takes a message for some and not yet for others; who is unknown to it is not asked again."""
    names = ("a@example.org", "b@example.org", "unknown@example.org")
    post.catalog.drops[post.drop.id] = replace(post.drop, notify=names)
    courier = MailCourier(_NamedStore(post.clock), post.catalog, post.clock, post.settings)
    first, second = post.rows(2)
    post.server.put_off = {"b@example.org"}
    with pytest.raises(DeliveryError, match="puts off 1 of 3"):
        await courier.deliver([first])
    # What came meanwhile is for all of them, and so another message.
    assert courier.groups([first, second]) == [[first], [second]]
    with pytest.raises(DeliveryError, match="refuses every address"):
        await courier.deliver([first])
    post.server.put_off = set()
    await courier.deliver([first])
    await courier.deliver([second])
    assert post.server.taken_for == [["a@example.org"], ["b@example.org"], ["a@example.org", "b@example.org"]]
    assert post.server.taken[0]["Message-ID"] == post.server.taken[1]["Message-ID"]


@async_test
async def test_what_a_mail_server_refuses_is_a_fixed_phrase(post: _Post) -> None:
    """Nothing of its text is kept, and without TLS that verifies no password is sent."""
    post.server.answer = "451 secret words of theirs"
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "the mail server answered 451"),
        ({"password": "wrong"}, r"refuses user or password \(535\)"),
        ({"ca_file": None}, "not with TLS"),
        ({"security": "none", "username": None, "password": None}, "the mail server answered 530"),
        ({"port": 1}, "cannot connect"),
    ]
    for changes, phrase in cases:
        with pytest.raises(DeliveryError, match=phrase):
            await post.deliver(post.rows(1), **changes)
    assert post.server.taken == []


@async_test
async def test_mail_server_that_answers_no_more_holds_up_nothing(post: _Post) -> None:
    """Who ends a delivery, because its time is up or the program stops, keeps nothing and waits for no goodbye."""
    post.server.silent = True
    try:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await post.deliver(post.rows(1))
        assert time.monotonic() - before < 3
        for _ in range(3):
            await asyncio.sleep(0)
        assert _connections_to(post.server.port) == 0
    finally:
        post.server.silent = False


def _connections_to(port: int) -> int:
    """Count this process's sockets that are connected to a port."""
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as one:
            count += one.getpeername()[1:2] == (port,)
    return count


@async_test
async def test_drop_off_that_names_nobody_any_more_is_told_to_nobody(post: _Post) -> None:
    """Its rows are done."""
    post.catalog.drops[post.drop.id] = replace(post.drop, notify=())
    await post.deliver(post.rows(1))
    assert post.server.taken == []
