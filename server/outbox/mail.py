"""Mail: one message for the uploads of a drop-off in an interval, to the addresses that it names.

Told are ids, times and sizes; names of files only where the configuration says so, for mail lies on many disks.
"""

import asyncio
import contextlib
import hashlib
import logging
import ssl
import unicodedata
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Literal, cast

import aiosmtplib

from dropoff_tus.errors import PolicyTamperedError
from dropoff_tus.model import Dropoff
from dropoff_tus.outbox import EventKind, OutboxRow, SinkName
from dropoff_tus.ports.catalog import Catalog
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import Store
from server.outbox.loop import DeliveryError
from server.outbox.payload import is_true, metadata_of

_log = logging.getLogger(__name__)
_CLAIM_ROWS = 1000
_SIDE_BY_SIDE = 4
"""Connections at a time: mail servers let in few of one address."""
_ROUNDS = 4
_MOST_LINES = 200
_NAME_CHARACTERS = 120
_GOODBYE_SECONDS = 2.0
_LATER = range(400, 500)
_PARAMETER_REFUSED = 504
_SUBJECT_CHARACTERS, _LINE_CHARACTERS = 60, 75
_JOINERS = "\u200c\u200d"
"""Within words of some languages, and within emoji."""
_NOBODY: frozenset[str] = frozenset()
_REMEMBERED = 10_000
_NAME_REFUSED = "it does not take this machine's name; write the one that the DNS has for it as mail.ehlo"
_FAILURES: dict[type[Exception], str] = {
    aiosmtplib.SMTPAuthenticationError: "the mail server refuses user or password ({code})",
    aiosmtplib.SMTPConnectResponseError: "the mail server answered {code} to the connection: it does not talk to us",
    aiosmtplib.SMTPHeloError: f"the mail server answered {{code}} at EHLO: {_NAME_REFUSED}",
    aiosmtplib.SMTPSenderRefused: "the mail server answered {code} at MAIL: it does not take mail from mail.sender",
    aiosmtplib.SMTPDataError: "the mail server answered {code} at DATA: it does not take the message",
    aiosmtplib.SMTPResponseException: "the mail server answered {code}",
    TimeoutError: "no answer in time",
    aiosmtplib.SMTPServerDisconnected: "the mail server ended the connection",
    OSError: "cannot connect to the mail server, or not with TLS",
    ValueError: "cannot connect to the mail server, or not with TLS",
    aiosmtplib.SMTPException: "the mail server offers no STARTTLS, or no login with a password",
}
"""How a delivery fails: the first kind that fits."""
_WORDS = {
    EventKind.COMPLETE: "Complete",
    EventKind.REJECTED: "Rejected, since the content does not match its digest; it has to be sent again",
    EventKind.CREATED: "Begun",
    EventKind.TERMINATED: "Ended by its sender",
    EventKind.EXPIRED: "Expired unfinished",
    EventKind.DELETED: "Deleted by the operator",
}


@dataclass(frozen=True, slots=True)
class MailSettings:
    """The configuration of mail."""

    host: str
    port: int
    sender: str
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    file_names: bool = False
    timeout_seconds: float = 30.0
    max_attempts: int = 18
    ehlo: str | None = None
    """The name that this machine gives at EHLO; None: the one that the system has for it."""


class MailCourier:
    """Implements `loop.Courier`."""

    sink = SinkName.MAIL
    claim_rows, side_by_side, rounds = _CLAIM_ROWS, _SIDE_BY_SIDE, _ROUNDS

    def __init__(self, store: Store, catalog: Catalog, clock: Clock, settings: MailSettings) -> None:
        """Take where drop-offs and uploads are looked up, and the settings."""
        self._store, self._catalog, self._clock, self._settings = store, catalog, clock, settings
        # By event: the addresses that got it while others were put off. Lost with the process: then they get it again.
        self._told: OrderedDict[str, frozenset[str]] = OrderedDict()
        self.timeout_seconds, self.max_attempts = settings.timeout_seconds, settings.max_attempts

    def groups(self, rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
        """Make one message for each drop-off, and another one for events that some of its addresses know already."""
        found: dict[tuple[str, frozenset[str]], list[OutboxRow]] = {}
        for row in rows:
            found.setdefault((row.drop_id, self._told.get(row.event_id, _NOBODY)), []).append(row)
        return list(found.values())

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Send one drop-off's message; addresses that are refused for good, beside others, are only logged.

        Raises:
            DeliveryError: It was not taken for anyone, or not yet for everyone.
        """
        dropoff = await self._catalog.dropoff(rows[0].drop_id)
        told = self._told.get(rows[0].event_id, _NOBODY)
        addresses = () if dropoff is None else [address for address in dropoff.terms.notify if address not in told]
        rows = [row for row in rows if await is_true(self._store, self._catalog, row)]
        if dropoff is None or not addresses or not rows:
            return
        message = await self._made(dropoff, rows)
        try:
            refused = await self._send(message, addresses)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryError(_failure(error)) from None
        # Servers put off unknown senders (greylisting), and accept the same message a few minutes later.
        later = {address for address, said in refused.items() if said.code in _LATER}
        if len(refused) > len(later):
            count = len(refused) - len(later)
            _log.warning("an address was refused", extra={"drop_id": dropoff.id, "count": count})
        for row in rows:
            self._remember(row.event_id, told.union(addresses) - later if later else _NOBODY)
        if later:
            raise DeliveryError(f"the mail server puts off {len(later)} of {len(dropoff.terms.notify)} addresses")

    def _remember(self, event_id: str, told: frozenset[str]) -> None:
        self._told.pop(event_id, None)
        if told:
            self._told[event_id] = told
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    async def _send(self, message: EmailMessage, addresses: Sequence[str]) -> Mapping[str, aiosmtplib.SMTPResponse]:
        """Send a message; return the addresses that the mail server refused, and how."""
        async with _connected(self._settings) as client:
            refused, _said = await client.send_message(message, recipients=list(addresses))
        return refused

    async def _made(self, dropoff: Dropoff, rows: Sequence[OutboxRow]) -> EmailMessage:
        """Make the message. The same events make the same Message-ID, by which a repeated one is known."""
        try:
            self._store.verify_terms(dropoff)
        except PolicyTamperedError:
            raise DeliveryError(
                "the drop-off was changed in the database, so the addresses to notify are unknown"
            ) from None
        name, count = _one_line(dropoff.terms.name), len({row.upload_id for row in rows})
        message = EmailMessage(policy=SMTP)
        # `message[…] = …` folds long and other than ASCII text so that spaces and words are lost.
        message.set_raw("Subject", _subject(f"{name}: {count} upload{'s' if count > 1 else ''}"))
        message["From"] = self._settings.sender
        message["To"] = ", ".join(dropoff.terms.notify)
        message["Date"] = format_datetime(self._clock.now())
        digest = hashlib.sha256("\n".join(sorted(row.event_id for row in rows)).encode("ascii")).hexdigest()[:32]
        message["Message-ID"] = f"<{digest}@{self._settings.sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        lines = [f"Drop-off {name}", dropoff.id]
        left = _MOST_LINES
        for kind, words in _WORDS.items():
            of_kind = sorted((row for row in rows if row.kind is kind), key=lambda row: (row.at, row.upload_id))
            if of_kind:
                lines += ["", f"{words}: {len(of_kind)}"]
                lines += [await self._line(row) for row in of_kind[:left]]
                left -= min(left, len(of_kind))
        if len(rows) > _MOST_LINES:
            lines += ["", f"{len(rows) - _MOST_LINES} more: dropoff-tus upload list --drop {dropoff.id}"]
        message.set_content("\n".join(lines) + "\n")
        return message

    async def _line(self, row: OutboxRow) -> str:
        upload = await self._catalog.upload(row.upload_id)
        size = f"  {upload.size_bytes} bytes" if upload is not None and upload.size_bytes is not None else ""
        return f"  {row.at:%Y-%m-%d %H:%M} UTC  {row.upload_id}{size}{await self._named(row)}"

    async def _named(self, row: OutboxRow) -> str:
        if not self._settings.file_names:
            return ""
        metadata = await metadata_of(self._store, row)
        name = metadata.filename if metadata is not None else None
        return f"  {_one_line(name)}" if name else ""


async def greet(settings: MailSettings) -> None:
    """Connect as for a message, log in, and say goodbye; nothing is sent.

    Raises:
        DeliveryError: The mail server does not let us in.
    """
    try:
        async with _connected(settings):
            pass
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise DeliveryError(_failure(error)) from None


@contextlib.asynccontextmanager
async def _connected(settings: MailSettings) -> AsyncIterator[aiosmtplib.SMTP]:
    """Connect and log in; say goodbye at the end.

    `aiosmtplib.send` says goodbye even when it is cancelled, and waits for a server that answers no more.
    """
    context = None if settings.security == "none" else ssl.create_default_context(cafile=settings.ca_file)
    client = aiosmtplib.SMTP(
        hostname=settings.host,
        port=settings.port,
        local_hostname=settings.ehlo,
        use_tls=settings.security == "tls",
        start_tls=False,
        tls_context=context,
        timeout=settings.timeout_seconds,
    )
    try:
        await client.connect()
        if settings.security != "none":
            await client.ehlo()  # without the library's second try by HELO, which could not begin TLS
        if settings.security == "starttls":
            # Not "if the server offers it": somebody in between could remove the offer.
            await client.starttls()
        if settings.username is not None:
            await client.login(settings.username, settings.password or "")
        yield client
        # It has the message, whatever it says to this. `client.quit` would merely close the connection, see below.
        with contextlib.suppress(aiosmtplib.SMTPException):
            await client.execute_command(b"QUIT", timeout=_GOODBYE_SECONDS)
    finally:
        # A TLS connection that is merely closed waits for the other side's farewell, up to half a minute.
        if client.transport is not None:
            cast("asyncio.WriteTransport", client.transport).abort()
        client.close()


def _failure(error: Exception) -> str:
    """Say at which step a mail server did not go on. Nothing of its text is kept."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return _recipients_refused({refused.code for refused in error.recipients})
    phrase = next(phrase for kind, phrase in _FAILURES.items() if isinstance(error, kind))
    return phrase.format(code=getattr(error, "code", None))


def _recipients_refused(codes: set[int]) -> str:
    answered = f"the mail server answered {' and '.join(map(str, sorted(codes)))} at RCPT"
    # Some servers judge the name of EHLO only here.
    if codes == {_PARAMETER_REFUSED}:
        return f"{answered}: {_NAME_REFUSED}"
    if codes.issubset(_LATER):
        return f"{answered}: it puts off every address"
    return f"{answered}: it takes none of the addresses, or nothing from this machine"


def _subject(text: str) -> str:
    """Return a header that every reader decodes to the text: plain, or encoded words of whole characters (RFC 2047)."""
    plain = text.isascii() and "=?" not in text and text == " ".join(text.split()) and len(text) <= _SUBJECT_CHARACTERS
    return text if plain else Header(text, "utf-8", _LINE_CHARACTERS, "Subject").encode()


def _one_line(text: str) -> str:
    """Return text that steers neither a header nor a reader: only printable characters and spaces, not endless."""
    shown = "".join(
        character
        if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
        else "\ufffd"
        for character in text
    )
    return shown if len(shown) <= _NAME_CHARACTERS else f"{shown[:_NAME_CHARACTERS]}…"
