"""The senders of events, made from the configuration; only the server delivers, so only it reads the secrets."""

import contextlib
import unicodedata
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from dropoff_tus.outbox import Outcome, SinkName
from server.clock import SystemClock
from server.outbox.loop import Courier, Deliveries
from server.outbox.mail import MailCourier, MailSettings
from server.outbox.outbound import OutboundClient
from server.outbox.pre_create import PreCreate, PreCreateSettings
from server.outbox.signing import SecretError, read_secret
from server.outbox.webhook import WebhookCourier, WebhookSettings
from server.places import KeySourceError, read_source
from server.services import Services, StartError
from server.settings.config import Config

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The secrets that sign and log in; empty if the configuration has no use for them."""

    webhook: bytes = b""
    mail: str | None = None
    pre_create: bytes | None = None


@contextlib.asynccontextmanager
async def open_deliveries(
    config: Config, secrets: Secrets, services: Services, count: Callable[[SinkName, Outcome, int], None]
) -> AsyncIterator[list[Deliveries]]:
    """Make one for each sink that is configured; `count` gets the outcome of each."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        couriers: list[Courier] = []
        if config.webhook.url is not None:
            client = OutboundClient(config.webhook.url, config.webhook.allow_private_addresses, config.webhook.timeout)
            stack.push_async_callback(client.close)
            couriers.append(
                WebhookCourier(
                    client, services.store, services.catalog, clock, _webhook_settings(config, secrets.webhook)
                )
            )
        if config.mail.server is not None:
            couriers.append(MailCourier(services.store, services.catalog, clock, mail_settings(config, secrets.mail)))
        yield [Deliveries(services.catalog.outbox, clock, courier, count) for courier in couriers]


@contextlib.asynccontextmanager
async def open_pre_create(config: Config, secrets: Secrets) -> AsyncIterator[PreCreate | None]:
    """Make what asks the site before an upload begins; None if no site is configured."""
    section = config.pre_create
    if section.webhook is None:
        yield None
        return
    client = OutboundClient(section.webhook, section.allow_private_addresses, section.timeout)
    settings = PreCreateSettings(
        version=section.format,
        secret=secrets.pre_create,
        headers=section.headers,
        metadata=section.metadata,
        public_path=public_path(config),
    )
    try:
        yield PreCreate(client, SystemClock(), settings)
    finally:
        await client.close()


def secrets_of(config: Config) -> Secrets:
    """Read all secrets that the configuration names. Once in a process: a command may print a secret only once.

    Raises:
        StartError: A line for each that is not to be had, or is none.
    """
    webhook, pre_create, mail = config.webhook, config.pre_create, config.mail
    mistakes: list[str] = []

    def read(key: str, source: str | None, parse: Callable[[str], T]) -> T | None:
        if source is None:
            return None
        try:
            return parse(_line(read_source(key.replace(".", "-").replace("_", "-"), source)))
        except KeySourceError as error:
            mistakes.append(f"{key}: {error}")
        except SecretError as error:
            mistakes.append(f"{key}: its content {error}")
        return None

    found = Secrets(
        webhook=read("webhook.secret", webhook.secret if webhook.url else None, read_secret) or b"",
        mail=read("mail.password", mail.password if mail.server else None, str),
        pre_create=read("pre_create.secret", pre_create.secret if pre_create.webhook else None, read_secret),
    )
    if mistakes:
        raise StartError("\n".join(mistakes))
    return found


def _line(text: str) -> str:
    """Return the one line of a secret; UTF-16 without ASCII letters shows by control characters."""
    line = text.strip()
    if any(unicodedata.category(character) == "Cc" for character in line):
        raise SecretError("is more than one line, or has control characters; save one line of UTF-8 text")
    return line


def public_path(config: Config) -> str:
    """Return what stands before `/files/` in the paths that clients see."""
    return urlsplit(config.server.base_url).path.rstrip("/")


def _webhook_settings(config: Config, secret: bytes) -> WebhookSettings:
    section = config.webhook
    return WebhookSettings(
        secret=secret,
        version=section.format,
        metadata=section.metadata,
        public_path=public_path(config),
        timeout_seconds=section.timeout,
        max_attempts=section.max_attempts,
    )


def mail_settings(config: Config, password: str | None) -> MailSettings:
    """Return what the configuration says of mail."""
    section = config.mail
    host, _, port = (section.server or "").rpartition(":")
    return MailSettings(
        host=host.strip("[]"),
        port=int(port),
        sender=section.sender or "",
        ehlo=section.ehlo,
        security=section.security,
        username=section.username,
        password=password,
        ca_file=None if section.ca_file is None else str(section.ca_file),
        file_names=section.file_names,
        timeout_seconds=section.timeout,
        max_attempts=section.max_attempts,
    )
