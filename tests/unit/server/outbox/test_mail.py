"""The digest: one message for many uploads, and the reports of a mail server's refusals."""

import asyncio
import base64
import contextlib
import os
import re
import socket
import string
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dropoff_tus.model import Dropoff, DropTerms, Metadata, Mode, Role, StoredUpload, UploadRow
from dropoff_tus.outbox import EventKind, OutboxRow, SinkName, event_id
from dropoff_tus.states import UploadState
from server.outbox.loop import DeliveryError
from server.outbox.mail import MailCourier, MailSettings
from tests.support.aio import async_test
from tests.support.certificate import make_certificate
from tests.support.drops import changed
from tests.support.fake_clock import NOON, FakeClock
from tests.support.mail_server import PASSWORD, USER, MailServer
from tests.support.memory_catalog import MemoryCatalog
from tests.support.memory_store import MemoryStore


class _NamedStore(MemoryStore):
    drop_id = ""

    async def stat(self, upload_id: str) -> StoredUpload:
        size, ended = int(upload_id[1:], 16), None if upload_id[0] == "1" else UploadState.REJECTED
        found = StoredUpload(upload_id, self.drop_id, Role.REGULAR, Mode.MANAGED, NOON, NOON, size, size)
        return replace(found, final=ended is None, ended=ended)

    async def metadata(self, upload_id: str) -> Metadata | None:
        return Metadata((("filename", f"{upload_id[-2:]}\r\nBcc: x@y\u202e.txt".encode()),))


class _Post:
    """A drop-off, a courier, and the mail server that it knows."""

    def __init__(self, server: MailServer, ca_file: str) -> None:
        self.server, self.clock, self.catalog = server, FakeClock(), MemoryCatalog()
        self.settings = MailSettings("localhost", server.port, "drop@example.org", "starttls", USER, PASSWORD, ca_file)
        self.drop = Dropoff(str(uuid.uuid4()), NOON, DropTerms("Co\u2028hort", notify=("a@example.org",)))
        self.catalog.drops[self.drop.id] = self.drop
        _NamedStore.drop_id = self.drop.id

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
async def test_event_that_the_signed_log_belies_is_sent_to_nobody(post: _Post) -> None:
    """Neither of another drop-off's upload, nor that one is complete or has ended which is not; true ones are."""
    true, moved, resized, alive = post.rows(4)
    post.catalog.rows[moved.upload_id] = replace(post.catalog.rows[moved.upload_id], drop_id=str(uuid.uuid4()))
    post.catalog.rows[resized.upload_id] = replace(post.catalog.rows[resized.upload_id], size_bytes=99)
    await post.deliver([moved, true, resized, replace(alive, kind=EventKind.EXPIRED)])
    text = post.server.taken[0].get_content()
    assert true.upload_id in text
    assert not [row.upload_id for row in (moved, resized, alive) if row.upload_id in text]
    _NamedStore.drop_id = str(uuid.uuid4())
    await post.deliver([true])
    assert len(post.server.taken) == 1


@async_test
async def test_address_that_is_put_off_is_told_later_and_nobody_twice(post: _Post) -> None:
    """A greylisting server takes a message for some and not yet for others; unknown addresses are not tried again."""
    names = ("a@example.org", "b@example.org", "unknown@example.org")
    post.catalog.drops[post.drop.id] = changed(post.drop, notify=names)
    courier = MailCourier(_NamedStore(post.clock), post.catalog, post.clock, post.settings)
    first, second = post.rows(2)
    post.server.put_off = {"b@example.org"}
    with pytest.raises(DeliveryError, match="puts off 1 of 3"):
        await courier.deliver([first])
    # Later uploads are for all of them, and so another message.
    assert courier.groups([first, second]) == [[first], [second]]
    with pytest.raises(DeliveryError, match="answered 451 at RCPT: it puts off every address"):
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


@pytest.mark.parametrize(
    ("command", "refusal", "phrase"),
    [
        ("EHLO", "504 need a full name", r"answered 504 at EHLO: it does not take this machine's name; .* mail\.ehlo"),
        ("EHLO", "550 who are you", r"answered 550 at EHLO: .* mail\.ehlo"),
        ("MAIL", "553 not yours", r"answered 553 at MAIL: it does not take mail from mail\.sender"),
        ("RCPT", "504 need a full name", r"answered 504 at RCPT: it does not take this machine's name; .* mail\.ehlo"),
        ("RCPT", "450 later", "answered 450 at RCPT: it puts off every address"),
        ("RCPT", "554 no", "answered 554 at RCPT: it takes none of the addresses, or nothing from this machine"),
        ("DATA", "554 spam", "answered 554 at DATA: it does not take the message"),
    ],
)
@async_test
async def test_refusal_says_at_which_command(post: _Post, command: str, refusal: str, phrase: str) -> None:
    """An operator reads there what to change, and not that the addresses are wrong where they are not."""
    post.catalog.drops[post.drop.id] = replace(
        post.drop, terms=replace(post.drop.terms, notify=("a@example.org", "b@example.org"))
    )
    post.server.refused = {command: refusal}
    post.server.answer = refusal if command == "DATA" else post.server.answer
    with pytest.raises(DeliveryError, match=f"^the mail server {phrase}$"):
        await post.deliver(post.rows(1))


@async_test
async def test_name_at_ehlo_is_the_one_of_the_configuration(post: _Post) -> None:
    """Before TLS and behind it; without one it is the system's."""
    await post.deliver(post.rows(1), ehlo="drop.example.org")
    assert set(post.server.greeted_by) == {"drop.example.org"}
    post.server.greeted_by.clear()
    await post.deliver(post.rows(1))
    assert set(post.server.greeted_by) == {await asyncio.to_thread(socket.getfqdn)}


_ALPHABETS = st.sampled_from(
    [
        string.ascii_letters + string.digits,
        "ÄÖÜäöüßéèñçøåłŽ",
        "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ",
        "東京大学医学部附属病院データ送信一覧表韓國語한국어",
        "🧬🔬🎉👩‍🔬🇩🇪❤️😀",
        "   \u00a0\u3000",
        "=?_.,:;\"'<>()[]@\\%&/",
    ]
)
_NAMES = st.lists(_ALPHABETS.flatmap(lambda letters: st.text(letters, max_size=40)), min_size=1, max_size=6).map(
    "".join
)
_WORD = re.compile(rb"=\?([!#$%&'*+^_`{|}~A-Za-z0-9-]+)\?([BbQq])\?([!->@-~]+)\?=")


def _decoded(raw: bytes) -> str:
    """Decode the text of a header as the grammar of RFC 2047 says, and no more generously."""
    unfolded, decoded, space, before = re.sub(rb"\r\n(?=[ \t])", b"", raw), "", "", False
    for piece in re.split(rb"([ \t]+)", unfolded):
        word = _WORD.fullmatch(piece)
        if not piece.strip():
            space += piece.decode("ascii")
        elif word is not None:
            assert len(piece) <= 75
            content = base64.b64decode(word[3], validate=True) if word[2] in b"Bb" else _of_q(word[3])
            assert content, piece
            # Space between encoded words is not part of the text.
            decoded += ("" if before else space) + content.decode(word[1].decode("ascii"))
            space, before = "", True
        else:
            assert b"=?" not in piece
            decoded += space + piece.decode("ascii")
            space, before = "", False
    return decoded + space


def _of_q(content: bytes) -> bytes:
    spaced = content.replace(b"_", b" ")
    assert not re.search(rb"=(?![0-9A-F]{2})", spaced)
    return re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), spaced)


def test_subject_decodes_to_the_name_in_any_reader(post: _Post) -> None:
    """By the grammar and by the standard library, for names in any script, as the mail server received it."""

    @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
    @given(_NAMES)
    @example("=?utf-8?q?x?=")
    @example("a" * 120)
    @example("Kohorte 7, Häuser und Straßen an der Elbe  bis zum Ende")
    def check(name: str) -> None:
        post.catalog.drops[post.drop.id] = changed(post.drop, name=name)
        runner.run(post.deliver(post.rows(1)))
        shown = name if len(name) <= 120 else f"{name[:120]}…"
        head, _, _ = post.server.raw[-1].partition(b"\r\n\r\n")
        assert all(len(line) <= 78 for line in head.split(b"\r\n"))
        (raw,) = re.findall(rb"(?m)^Subject: ((?:.*(?:\r\n[ \t])?)*)\r$", head + b"\r\n")
        wanted = f"{shown}: 1 upload"
        assert _decoded(raw) == wanted
        assert str(make_header(decode_header(raw.decode("ascii")))) == wanted
        assert post.server.taken[-1]["Subject"] == wanted

    with asyncio.Runner() as runner:
        check()


@async_test
async def test_mail_server_that_answers_no_more_holds_up_nothing(post: _Post) -> None:
    """A delivery that ends, because its time is up or the program stops, keeps nothing and waits for no goodbye."""
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
    post.catalog.drops[post.drop.id] = changed(post.drop, notify=())
    await post.deliver(post.rows(1))
    assert post.server.taken == []
