"""What commands share: the configuration option, output, escaping, and running on opened services."""

import asyncio
import json
import re
import sys
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dropoff_tus.ids import is_token, is_upload_id, upload_id
from server import logs
from server.config import Config, load_config
from server.services import Services, open_services
from server.units import parse_time

T = TypeVar("T")
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The configuration file; else $DROPOFF_TUS_CONFIG, else ./config.toml.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_UPLOAD_URL_END = re.compile(r"/files/[^/]+/([0-9a-f]{32})/?(?:[?#].*)?$")


class CommandError(Exception):
    """A command cannot do what was asked; the text says why and what to do."""


def with_services(config_file: Path | None, work: Callable[[Services, Config], Awaitable[T]]) -> T:
    """Open everything, do the work, close everything."""
    config = load_config(config_file)
    logs.configure("console", "error")

    async def run() -> T:
        async with open_services(config) as services:
            return await work(services, config)

    return asyncio.run(run())


def show(text: str) -> str:
    """Return client text safe for a terminal: no control, bidirectional or other format characters."""
    return "".join(
        character if unicodedata.category(character)[0] != "C" else f"\\u{ord(character):04x}" for character in text
    )


def print_json(value: Any) -> None:  # noqa: ANN401 - JSON
    """Print JSON, ASCII only so that no terminal is steered by it."""
    print(json.dumps(value, indent=2))


def say(text: str) -> None:
    """Print a line on stdout."""
    print(text)


def note(text: str) -> None:
    """Print a remark on stderr."""
    print(text, file=sys.stderr)


def stamp(moment: datetime | None) -> str | None:
    """Write a time as RFC 3339."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def time_option(text: str | None, option: str) -> datetime | None:
    """Read `7d` from now, or an RFC 3339 time; it must lie ahead."""
    if not text or text == "0":
        return None
    now = datetime.now(UTC)
    try:
        moment = parse_time(text, now)
    except ValueError as error:
        message = f"{option} {error}"
        raise CommandError(message) from None
    if moment <= now:
        message = f"{option} lies in the past; write a time to come, or e.g. 7d"
        raise CommandError(message)
    return moment


async def find_upload(services: Services, text: str) -> str:
    """Return the id of an upload given by id, token or URL.

    Raises:
        CommandError: It is none of these, or unknown.
    """
    found = _UPLOAD_URL_END.search(text)
    if found:
        candidates = [upload_id(found[1])]
    elif is_upload_id(text):
        candidates = [text] + ([upload_id(text)] if is_token(text) else [])
    else:
        message = "that is no upload id, token or upload URL; list them with `dropoff-tus upload list`"
        raise CommandError(message)
    for candidate in candidates:
        if await services.catalog.upload(candidate) is not None:
            return candidate
    message = "there is no such upload; list them with `dropoff-tus upload list --all`"
    raise CommandError(message)
