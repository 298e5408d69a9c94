"""What delivers events, put together from the configuration; only the server delivers, so only it reads the secrets."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from dropoff_tus.outbox import Outcome, SinkName
from server.clock import SystemClock
from server.config import Config
from server.outbound import OutboundClient
from server.outbox.loop import Courier, Deliveries
from server.outbox.mail import MailCourier, MailSettings
from server.outbox.signing import SecretError, read_secret
from server.outbox.webhook import WebhookCourier, WebhookSettings
from server.places import KeySourceError, read_source
from server.remote_check import RemoteCheck, RemoteCheckSettings
from server.services import Services, StartError


@contextlib.asynccontextmanager
async def open_deliveries(
    config: Config, services: Services, count: Callable[[SinkName, Outcome, int], None]
) -> AsyncIterator[list[Deliveries]]:
    """Make one for each sink that is configured; `count` is told how events fare.

    Raises:
        StartError: A secret cannot be had.
    """
    clock, secrets = SystemClock(), secrets_of(config)
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
            couriers.append(MailCourier(services.store, services.catalog, clock, _mail_settings(config, secrets.mail)))
        yield [Deliveries(services.catalog.outbox, clock, courier, count) for courier in couriers]


@contextlib.asynccontextmanager
async def open_remote_check(config: Config) -> AsyncIterator[RemoteCheck | None]:
    """Make what asks the site before an upload begins; None if no site is configured.

    Raises:
        StartError: Its secret cannot be had.
    """
    section = config.checks
    if section.webhook is None:
        yield None
        return
    client = OutboundClient(section.webhook, section.allow_private_addresses, section.timeout)
    settings = RemoteCheckSettings(
        version=section.format,
        secret=secrets_of(config).checks,
        headers=section.headers,
        metadata=section.metadata,
        public_path=public_path(config),
    )
    try:
        yield RemoteCheck(client, SystemClock(), settings)
    finally:
        await client.close()


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What signs and logs in; empty where the configuration has no use for it."""

    webhook: bytes = b""
    mail: str | None = None
    checks: bytes | None = None


def secrets_of(config: Config) -> Secrets:
    """Read all secrets that the configuration names.

    Raises:
        StartError: One is not to be had.
    """
    section = config.webhook
    password, checks = config.mail.password, config.checks
    return Secrets(
        webhook=_hook_secret("webhook-secret", "webhook.secret", section.secret) if section.url else b"",
        mail=_text("mail-password", "mail.password", password) if config.mail.server and password else None,
        checks=_hook_secret("checks-secret", "checks.secret", checks.secret)
        if checks.webhook and checks.secret
        else None,
    )


def _hook_secret(name: str, key: str, source: str | None) -> bytes:
    """Read a secret for signatures.

    Args:
        name: What it is called, also below `$CREDENTIALS_DIRECTORY`.
        key: Where the configuration has its source, for the sentence.
        source: That source.

    Raises:
        StartError: It is not to be had there, or is none.
    """
    try:
        return read_secret(_text(name, key, source or ""))
    except SecretError as error:
        raise StartError(f"{key}: what is there {error}") from None


def _text(name: str, key: str, source: str) -> str:
    try:
        return read_source(name, source).strip()
    except KeySourceError as error:
        raise StartError(f"{key}: {error}") from None


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


def _mail_settings(config: Config, password: str | None) -> MailSettings:
    section = config.mail
    host, _, port = (section.server or "").rpartition(":")
    return MailSettings(
        host=host.strip("[]"),
        port=int(port),
        sender=section.sender or "",
        security=section.security,
        username=section.username,
        password=password,
        ca_file=None if section.ca_file is None else str(section.ca_file),
        file_names=section.file_names,
        timeout_seconds=section.timeout,
        max_attempts=section.max_attempts,
    )
