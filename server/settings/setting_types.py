"""The types of the configuration's keys. Each says in a sentence what to write instead of what it refuses.

Lists arrive as tuples. No message repeats the value, which may be a secret. Paths are relative to the `folder` of the
validation context.
"""

import ipaddress
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from yarl import URL

from dropoff_tus.outbox import EventKind
from dropoff_tus.policy import name_problem, type_problem
from server.settings.units import mail_address, mail_addresses, parse_duration, parse_size, parse_time

_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_LAST_PORT = 65535
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#@%\\\s]+")
_PATH = re.compile(r"[!-~]*")
_SOCKET_PATH_BYTES = 107
"""The system's room for the name of a unix socket."""
_EHLO = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}|\[[0-9A-Za-z.:]{1,60}\]")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_NEVER_TOLD = frozenset({"dropoff-code", "dropoff-token", "upload-metadata", "upload-concat"})
_LEAST_TIMEOUT_SECONDS, _MOST_TIMEOUT_SECONDS = 0.1, 120.0
_COMMAND, _VARIABLE = "command:", "env:"


class Section(BaseModel):
    """The common settings of all sections: nothing unknown is ignored, and no message shows a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _networks(value: object) -> object:
    help_text = 'write a list such as ["127.0.0.1", "10.0.0.0/8"]'
    if not isinstance(value, tuple):
        raise ValueError(f"must be a list of addresses or networks; {help_text}")  # noqa: TRY004 - pydantic wants ValueError
    try:
        return tuple(ipaddress.ip_network(item, strict=False) for item in value if _is_text(item))
    except ValueError:
        raise ValueError(f"has an entry that is no address or network; {help_text}") from None


def _is_text(item: object) -> bool:
    if isinstance(item, str):
        return True
    raise ValueError("is not text")


def _listen(value: object) -> object:
    found = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[3]) <= _LAST_PORT or not _is_host(found[1]):
        raise ValueError('is not HOST:PORT; write e.g. "127.0.0.1:8080" or "[::1]:8080"')
    return value


def _is_host(ipv6: str | None) -> bool:
    try:
        return ipv6 is None or bool(ipaddress.IPv6Address(ipv6))
    except ValueError:
        return False


def _ehlo(value: object) -> object:
    if not isinstance(value, str) or _EHLO.fullmatch(value) is None:
        raise ValueError(
            'is no name that a machine has in the DNS; write e.g. "drop.example.org", or an address as "[192.0.2.1]"'
        )
    return value


def _public_url(value: object) -> object:
    help_text = 'write e.g. "https://drop.example.org" or "https://example.org/drop"'
    parts = _url(value)
    if parts is None:
        raise ValueError(f"is not an http or https URL; {help_text}")
    if parts.query or parts.fragment:
        raise ValueError(f"has a query or a fragment; {help_text}")
    return str(value).rstrip("/")


def _origins(value: object) -> object:
    help_text = 'write a list of origins such as ["https://portal.example.org"]'
    if not isinstance(value, tuple):
        raise ValueError(f"must be a list; {help_text}")  # noqa: TRY004 - pydantic wants ValueError
    origins = tuple("*" if item == "*" else _origin(item) for item in value)
    if None in origins:
        raise ValueError(f"has an entry that is no origin (scheme, host and port, nothing behind); {help_text}")
    return origins


def _origin(item: object) -> str | None:
    """Return an origin as browsers write it, of an app's own scheme too; None if it is none, and could never match.

    Source: RFC 6454, section 6.2 (lower case, and no port where it is the scheme's own).
    """
    if not isinstance(item, str) or _ORIGIN.fullmatch(item) is None:
        return None
    try:
        url = URL(item).origin()
        host = str(url.raw_host)
        if ":" in host or host.rpartition(".")[2].isdigit():
            ipaddress.ip_address(host)
    except ValueError:
        return None
    return str(url) if ":" in host or _HOST.fullmatch(host) else None


def _url(value: object) -> Any:  # noqa: ANN401 - urllib's parts, or None
    """Split an http URL with a host that can be one and no user; None if it is none."""
    if not isinstance(value, str) or _PATH.fullmatch(value) is None:
        return None
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return None
    host = parts.netloc.removesuffix("" if port is None else f":{port}")
    return parts if parts.scheme in {"http", "https"} and _HOST.fullmatch(host) else None


def _hook_url(value: object) -> object:
    parts = _url(value)
    if parts is None or parts.fragment:
        message = 'is not an http or https URL without user and fragment; write e.g. "https://portal.example.org/hooks"'
        raise ValueError(message)
    return value


def _header_names(value: object) -> object:
    help_text = 'write a list such as ["Cookie", "X-Forwarded-For"]'
    if not isinstance(value, tuple) or not all(isinstance(item, str) and _HEADER.fullmatch(item) for item in value):
        raise ValueError(f"must be a list of names of headers; {help_text}")
    if any(item.lower() in _NEVER_TOLD for item in value):
        raise ValueError(f"has a header that may carry a drop-off's code, which nobody may get; {help_text}")
    return value


def _events(value: object) -> object:
    known = [kind.value for kind in EventKind]
    if not isinstance(value, tuple) or any(item not in known for item in value):
        raise ValueError(f"must be a list of events; there are {', '.join(known)}")
    return value


def _patterns(problem_of: Callable[[str], str | None]) -> Callable[[object], object]:
    def check(value: object) -> object:
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError('must be a list; write e.g. ["one", "two"]')
        for problem in filter(None, map(problem_of, value)):
            raise ValueError(f"has an entry that {problem}")
        return value

    return check


def _timeout(value: object) -> object:
    seconds = parse_duration(value)
    if not _LEAST_TIMEOUT_SECONDS <= seconds <= _MOST_TIMEOUT_SECONDS:
        message = f'must be from {_LEAST_TIMEOUT_SECONDS:g} to {_MOST_TIMEOUT_SECONDS:g} seconds; write e.g. "10s"'
        raise ValueError(message)
    return seconds


def _when(value: object) -> object:
    parse_time(value, datetime.now(UTC))
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError('is not a path; write it in quotes, e.g. "store" or "/srv/dropoff/store"')
    return _folder(info) / value


def _socket(value: object, info: ValidationInfo) -> object:
    path = _path(value, info)
    if len(os.fsencode(str(path))) > _SOCKET_PATH_BYTES:
        message = f"is longer than the {_SOCKET_PATH_BYTES} bytes that a socket's path may have; write a shorter one"
        raise ValueError(message)
    return path


def _key_source(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and value.removeprefix(_COMMAND).strip() and not value.startswith(_VARIABLE):
        return value if value.startswith(_COMMAND) else str(_path(value, info))
    raise ValueError(
        'is not a source of a key; write a file, or "command:PROGRAM ARGUMENTS" '
        "(no variable: /proc/PID/environ shows it as long as the server runs)"
    )


def _catalog_url(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str) or "://" not in value:
        raise ValueError('is not a database URL; write e.g. "sqlite:///catalog.sqlite3" or "postgresql://user@host/db"')
    relative = value.removeprefix("sqlite:///")
    if relative in {value, ""} or relative.startswith("/"):
        return value
    return f"sqlite:///{_folder(info) / relative}"


def _folder(info: ValidationInfo) -> Path:
    """Return the file's folder, to which paths are relative."""
    context = info.context or {}
    return Path(context.get("folder", "."))


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
When = Annotated[str, BeforeValidator(_when)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Listen = Annotated[str, BeforeValidator(_listen)]
PublicUrl = Annotated[str, BeforeValidator(_public_url)]
CorsOrigins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
HookUrl = Annotated[str, BeforeValidator(_hook_url)]
EhloName = Annotated[str, BeforeValidator(_ehlo)]
MailAddress = Annotated[str, BeforeValidator(mail_address)]
MailAddresses = Annotated[tuple[str, ...], BeforeValidator(mail_addresses)]
HeaderNames = Annotated[tuple[str, ...], BeforeValidator(_header_names)]
Events = Annotated[tuple[str, ...], BeforeValidator(_events)]
TypePatterns = Annotated[tuple[str, ...], BeforeValidator(_patterns(type_problem))]
NamePatterns = Annotated[tuple[str, ...], BeforeValidator(_patterns(name_problem))]
Timeout = Annotated[float, BeforeValidator(_timeout)]
Networks = Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_networks)]
FilePath = Annotated[Path, BeforeValidator(_path)]
SocketPath = Annotated[Path, BeforeValidator(_socket)]
KeySource = Annotated[str, BeforeValidator(_key_source)]
CatalogUrl = Annotated[str, BeforeValidator(_catalog_url)]
