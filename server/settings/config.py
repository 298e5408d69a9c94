"""The configuration: one TOML file, with overrides from the environment. Every mistake is reported with its key.

A section is a model of typed keys (`server.settings.setting_types`); paths are relative to the file.
"""

import ipaddress
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from dropoff_tus.errors import ToldError
from dropoff_tus.model import TERMS, DropTerms
from server.settings.addresses import is_allowed
from server.settings.config_source import (
    Names,
    SourceError,
    explain,
    lay_over,
    read_toml,
)
from server.settings.drop_terms import setting_fields, value_of
from server.settings.page import PageSection
from server.settings.setting_types import (
    CatalogUrl,
    CorsOrigins,
    Count,
    Duration,
    EhloName,
    Events,
    FilePath,
    HeaderNames,
    HookUrl,
    KeySource,
    Listen,
    MailAddress,
    Networks,
    PublicUrl,
    Section,
    Size,
    SocketPath,
    Timeout,
)

CONFIG_VARIABLE = "DROPOFF_TUS_CONFIG"


class ConfigError(ToldError):
    """The configuration is wrong; the text has a line for each mistake."""

    def __init__(self, text: str, rest: "Config | None" = None, places: frozenset[str] = frozenset()) -> None:
        """Take the text; and the configuration without what is wrong in it, which is at these places."""
        super().__init__(text)
        self.rest, self.places = rest, places


# ---- sections -------------------------------------------------------------------------------------------------


class ServerSection(Section):
    """`[server]`."""

    listen: Listen = "127.0.0.1:8080"
    public_url: PublicUrl | None = None
    unix_socket: SocketPath | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    trusted_proxies: Networks = ()
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None

    @property
    def host(self) -> str:
        """The host to listen on."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.listen.rpartition(":")[2])

    @property
    def base_url(self) -> str:
        """Where clients reach us, as far as the configuration knows."""
        scheme = "https" if self.tls_cert else "http"
        return self.public_url or f"{scheme}://{self.listen}"

    @model_validator(mode="after")
    def _tls_whole(self) -> "ServerSection":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; write both or none")
        return self


class MonitoringSection(Section):
    """`[monitoring]`."""

    listen: Listen | None = None


class TusSection(Section):
    """`[tus]`."""

    max_upload_bytes: Size = 0
    expire_after: Duration = 7 * 86400.0
    download: bool = False
    terminate_finished: bool = False
    cors_origins: CorsOrigins = ()
    body_idle_timeout: Duration = 60.0


class StoreSection(Section):
    """`[store]`."""

    dir: FilePath
    keys_dir: FilePath
    durability: Literal["fsync", "os"] = "fsync"
    free_space_floor: Size = 1 << 30
    digest: Literal["sha256", "blake3", "none"] = "sha256"


class KeysSection(Section):
    """`[keys]`: recipients, and where the server's own keys come from."""

    root_recipients: tuple[str, ...] = ()
    managed_identity: KeySource
    ingest_dir: FilePath
    signing_key: KeySource
    code_key: KeySource


class CatalogSection(Section):
    """`[catalog]`."""

    url: CatalogUrl = Field(repr=False)  # it may hold a password


class DropoffsSection(create_model("_Defaults", __base__=Section, **setting_fields())):  # type: ignore[misc]
    """`[dropoffs]`: defaults of `drop create`, a key for each of the terms that may have one."""

    def terms(self, given: Mapping[str, Any], now: datetime) -> DropTerms:
        """Return the terms of a new drop-off: those given, and for the others these defaults."""
        return DropTerms(
            **{
                name: value_of(term, getattr(self, term.setting), now)
                for name, term in TERMS.items()
                if term.setting and name not in given
            },
            **given,
        )


class LimitsSection(Section):
    """`[limits]`."""

    connections: Count = 1024
    connections_per_address: Count = 128
    wrong_codes_per_hour: Count = 30
    header_timeout: Duration = 30.0
    min_body_rate: Size = 0


def _check_hook(url: str, allowed: Networks) -> None:
    """Refuse a URL that could never be asked: an address that is not allowed, or none that may go without TLS."""
    parts = urlsplit(url)
    plain = parts.scheme != "https"
    if plain and not allowed:
        raise ValueError(
            "an http URL needs allow_private_addresses, where nobody reads along, "
            'e.g. ["127.0.0.1"]; write an https URL, or list the address'
        )
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return  # a name: its addresses are looked at with each connection
    if not is_allowed(address, allowed, plain=plain):
        message = "the URL's address is private or has no TLS; list it in allow_private_addresses, or write another URL"
        raise ValueError(message)


class WebhookSection(Section):
    """`[webhook]`: the URL that gets events."""

    url: HookUrl | None = Field(default=None, repr=False)  # its path or query may be a secret
    secret: KeySource | None = None
    format: Literal["v2", "v1"] = "v2"
    events: Events = (
        "upload.complete",
        "upload.rejected",
        "upload.terminated",
        "upload.expired",
        "upload.deleted",
    )
    metadata: tuple[str, ...] = ()
    timeout: Timeout = 10.0
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 18
    allow_private_addresses: Networks = ()

    @model_validator(mode="after")
    def _usable(self) -> "WebhookSection":
        if self.url is not None:
            _check_hook(self.url, self.allow_private_addresses)
            if self.secret is None:
                message = 'url needs secret, which signs the requests; write e.g. secret = "secrets/webhook-secret"'
                raise ValueError(message)
        return self


class PreCreateSection(Section):
    """`[pre_create]`: the site to ask before an upload begins."""

    webhook: HookUrl | None = Field(default=None, repr=False)
    secret: KeySource | None = None
    format: Literal["v2", "v1"] = "v2"
    headers: HeaderNames = ()
    metadata: tuple[str, ...] = ()
    timeout: Timeout = 5.0
    allow_private_addresses: Networks = ()

    @model_validator(mode="after")
    def _usable(self) -> "PreCreateSection":
        if self.webhook is not None:
            _check_hook(self.webhook, self.allow_private_addresses)
        return self


class MailSection(Section):
    """`[mail]`: how to reach the addresses of a drop-off."""

    server: Listen | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: FilePath | None = None
    username: str | None = None
    password: KeySource | None = None
    sender: MailAddress | None = None
    ehlo: EhloName | None = None
    interval: Duration = 900.0
    events: Events = ("upload.complete", "upload.rejected")
    file_names: bool = False
    timeout: Timeout = 30.0
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 18

    @model_validator(mode="after")
    def _usable(self) -> "MailSection":
        if self.server is not None and self.sender is None:
            message = 'server needs sender, the address that mail comes from; write e.g. sender = "drop@example.org"'
            raise ValueError(message)
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together; write both or none")
        if self.username is not None and self.security == "none":
            raise ValueError('a password is not sent without TLS; write security = "starttls" or "tls"')
        return self


class LogSection(Section):
    """`[log]`."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section):
    """All of it."""

    server: ServerSection = ServerSection()
    monitoring: MonitoringSection = MonitoringSection()
    tus: TusSection = TusSection()
    store: StoreSection
    keys: KeysSection
    catalog: CatalogSection
    dropoffs: DropoffsSection = DropoffsSection()
    limits: LimitsSection = LimitsSection()
    webhook: WebhookSection = WebhookSection()
    mail: MailSection = MailSection()
    pre_create: PreCreateSection = PreCreateSection()
    page: PageSection = PageSection()
    log: LogSection = LogSection()


SECTIONS = {
    name: item.annotation
    for name, item in Config.model_fields.items()
    if isinstance(item.annotation, type) and issubclass(item.annotation, BaseModel)
}
NAMES: Names = {
    section: {key: item.annotation for key, item in kind.model_fields.items()} for section, kind in SECTIONS.items()
}
_STAND_INS = {
    section: {key: "sqlite:///missing" for key, item in kind.model_fields.items() if item.is_required()}
    for section, kind in SECTIONS.items()
}
"""Of keys without a default: some text, so that a configuration that lacks them can be looked at for other mistakes."""


# ---- loading --------------------------------------------------------------------------------------------------


def config_path(given: Path | None) -> Path:
    """Return the file to read: the one given, else $DROPOFF_TUS_CONFIG, else ./config.toml."""
    return given or Path(os.environ.get(CONFIG_VARIABLE) or "config.toml")


def load_config(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Read the configuration.

    Args:
        path: The file; None means as `config_path`.
        environment: The source of overrides; None means the process's own.

    Raises:
        ConfigError: A line for each mistake: `section.key: what is wrong; write ...`.
    """
    file = config_path(path)
    try:
        tree = read_toml(file)
    except SourceError as error:
        raise ConfigError(str(error)) from None
    overrides = lay_over(tree, os.environ if environment is None else environment, NAMES)
    mistakes, places = overrides.mistakes, overrides.unread
    tables = _with_tuples(tree)
    config: Config | None = None
    # Whether the keys of a section fit together can be seen when what is wrong with each of them is out of the way.
    while config is None:
        try:
            config = Config.model_validate(tables, context={"folder": file.absolute().parent})
        except ValidationError as error:
            for item in error.errors(include_input=False):
                section, key = ([str(part) for part in item["loc"]] + ["", ""])[:2]
                place, text = f"{section}.{key}" if key else section, explain(item, section, key, overrides, NAMES)
                if place not in places and (key or not _follows(text, section, places)):
                    mistakes.append(text)
                places.add(place)
            tables = _without(tables, places)
    if config.monitoring.listen == config.server.listen and not places & {"server.listen", "monitoring.listen"}:
        mistakes.append("monitoring.listen is the same as server.listen; write another port")
    if mistakes:
        raise ConfigError("\n".join(mistakes), config, frozenset(places))
    return config


def _follows(text: str, section: str, places: set[str]) -> bool:
    """Tell whether keys of a section do not fit together since one of them, which the text names, has been left out."""
    return any(place.startswith(f"{section}.") and place.partition(".")[2] in text for place in places)


def _without(tables: dict[str, Any], places: set[str]) -> dict[str, Any]:
    """Return the tables without what is wrong, and with stand-ins for what has to be there."""
    kept = {
        section: {key: value for key, value in table.items() if f"{section}.{key}" not in places}
        for section, table in tables.items()
        if section not in places
    }
    return kept | {section: stand_ins | kept.get(section, {}) for section, stand_ins in _STAND_INS.items()}


def _with_tuples(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tables with lists as tuples, which is what frozen models hold."""
    return {
        section: {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        if isinstance(table, dict)
        else table
        for section, table in tree.items()
    }
