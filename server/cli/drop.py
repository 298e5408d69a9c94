"""`drop …`: drop-offs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.context import (
    ConfigOption,
    JsonOption,
    group,
    read_config,
    size_option,
    time_option,
    with_catalog,
)
from server.cli.output import CommandError, note, print_json, say, show, size, stamp

if TYPE_CHECKING:
    from dropoff_tus.model import Dropoff, Limits
    from server.config import Config
    from storage.catalog import SqlCatalog
    from storage.keys import ServerKeys

app = group("Make and manage drop-offs: an upload URL and a code.")
DropId = Annotated[str, typer.Argument(metavar="ID", help="The drop-off's id.", show_default=False)]
MOST_UPLOADS = 2**31 - 1
_NAME_CHARACTERS = 200
ROOT_IDENTITY = "root-identity.txt"
"""Where `init` leaves the root identity, beside the configuration, until the operator moves it."""


@dataclass(frozen=True, slots=True)
class NewDrop:
    """What a new drop-off is to be."""

    name: str
    limits: Limits
    id: str | None = None
    with_code: bool = True
    recipients: tuple[str, ...] = ()
    sealed: bool = False
    opens_at: datetime | None = None
    expires_at: datetime | None = None


async def create_drop(catalog: SqlCatalog, keys: ServerKeys, new: NewDrop) -> tuple[Dropoff, str | None]:
    """Make a drop-off; returns it with its code, which is nowhere else."""
    import uuid

    from dropoff_tus.ids import CODE_BYTES, format_code, is_drop_id
    from dropoff_tus.model import Dropoff, Mode

    drop_id = new.id or str(uuid.uuid4())
    if not is_drop_id(drop_id):
        message = "--id must be a UUID of version 4 in lower case, e.g. from `uuidgen -r`"
        raise CommandError(message)
    code = format_code(os.urandom(CODE_BYTES)) if new.with_code else None
    mode = Mode.SEALED if new.sealed else Mode.MANAGED
    dropoff = Dropoff(
        id=drop_id,
        name=new.name,
        created_at=datetime.now(UTC),
        policy=keys.sign_policy(drop_id, mode, new.recipients),
        code_mac=keys.code_mac(code) if code is not None else None,
        limits=new.limits,
        opens_at=new.opens_at,
        expires_at=new.expires_at,
    )
    try:
        await catalog.add_dropoff(dropoff)
    except ValueError as error:
        message = f"{error}; nothing was changed"
        raise CommandError(message) from None
    return dropoff, code


def load_keys(config: Config) -> ServerKeys:
    """Load the server's keys alone."""
    from server.places import key_places
    from storage.keys import load_server_keys

    return load_server_keys(key_places(config))


def one_type(recipients: tuple[str, ...]) -> None:
    """Refuse recipients that are none, of two types, or too many for one envelope."""
    from storage.keys import check_recipients

    check_recipients(recipients)


def created_json(config: Config, dropoff: Dropoff, code: str | None) -> dict[str, Any]:
    """Return what a new drop-off is shown as."""
    base = config.server.base_url
    return {
        "id": dropoff.id,
        "name": dropoff.name,
        "upload_url": f"{base}/files/{dropoff.id}/",
        "page_url": f"{base}/d/{dropoff.id}",
        "code": code,
    }


def say_created(made: dict[str, Any]) -> None:
    """Print a new drop-off for people."""
    say(f"page:       {made['page_url']}")
    say(f"upload URL: {made['upload_url']}")
    if made["code"]:
        say(f"code:       {made['code']}   (shown this once)")
        say(f"link:       {made['page_url']}#{made['code']}")
    else:
        say("code:       none needed")


def _json(config: Config, dropoff: Dropoff) -> dict[str, Any]:
    limits = dropoff.limits
    made = created_json(config, dropoff, None)
    del made["code"]
    return {
        **made,
        "mode": dropoff.policy.mode.value,
        "has_code": dropoff.code_mac is not None,
        "closed": dropoff.closed,
        "created_at": stamp(dropoff.created_at),
        "opens_at": stamp(dropoff.opens_at),
        "expires_at": stamp(dropoff.expires_at),
        "max_upload_bytes": limits.max_upload_bytes,
        "max_total_bytes": limits.max_total_bytes,
        "max_uploads": limits.max_uploads,
        "allowed_types": list(limits.allowed_types),
        "name_patterns": list(limits.name_patterns),
        "recipients": list(dropoff.policy.recipients),
    }


@app.command()
def create(  # noqa: PLR0917 - its options
    name: Annotated[str, typer.Option(help="What you call it.", show_default=False)],
    drop_id: Annotated[str | None, typer.Option("--id", help="A UUIDv4 you have already.")] = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Let anyone who has the URL upload.")] = False,
    opens: Annotated[str | None, typer.Option(help="When it begins to take uploads: 2d, or a time; 0: now.")] = None,
    expires: Annotated[str | None, typer.Option(help="7d, or 2030-01-31T12:00:00Z; 0: never.")] = None,
    max_upload_bytes: Annotated[str | None, typer.Option(help="Of one upload; e.g. 10GiB. 0: no limit.")] = None,
    max_total_bytes: Annotated[str | None, typer.Option(help="Of all uploads together.")] = None,
    max_uploads: Annotated[int | None, typer.Option(help="How many.", min=0, max=MOST_UPLOADS)] = None,
    allow_type: Annotated[
        list[str] | None, typer.Option(help="A media type it takes, e.g. text/csv or image/*. May be repeated.")
    ] = None,
    allow_name: Annotated[
        list[str] | None, typer.Option(help="A pattern of file names it takes, e.g. '*.vcf.gz'. May be repeated.")
    ] = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="An age recipient instead of the configured roots. May be repeated.")
    ] = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="Not even this server can read a finished upload.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a drop-off and show its URL and its code, which is shown this once.

    Send the code and the address in separate messages. What is not said here comes from section [dropoffs]. Types and
    names are compared without case, and are what the client says they are: nobody looks into the file.

    Example: dropoff-tus drop create --name "Cohort 7" --expires 30d --max-total-bytes 2TiB
    """
    from dropoff_tus.model import Limits
    from server.config import config_path

    loaded = read_config(config)
    defaults = loaded.dropoffs
    recipients = tuple(recipient or ())
    one_type(recipients)
    _check_name(name)
    _check_patterns(allow_type, "--allow-type", "text/csv or image/*", needed="/")
    _check_patterns(allow_name, "--allow-name", "'*.vcf.gz'")
    opens_at = time_option(opens, "--opens")
    expires_at = time_option(defaults.expires if expires is None else expires, "--expires")
    if opens_at is not None and expires_at is not None and opens_at >= expires_at:
        message = "--opens lies after the drop-off has expired; write an earlier time, or a later --expires"
        raise CommandError(message)
    new = NewDrop(
        name=name,
        id=drop_id,
        with_code=not no_code,
        limits=Limits(
            max_upload_bytes=size_option(max_upload_bytes, defaults.max_upload_bytes, "--max-upload-bytes"),
            max_total_bytes=size_option(max_total_bytes, defaults.max_total_bytes, "--max-total-bytes"),
            max_uploads=defaults.max_uploads if max_uploads is None else max_uploads,
            allowed_types=defaults.allowed_types if allow_type is None else tuple(allow_type),
            name_patterns=defaults.name_patterns if allow_name is None else tuple(allow_name),
        ),
        recipients=recipients,
        sealed=sealed or defaults.sealed,
        opens_at=opens_at,
        expires_at=expires_at,
    )

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        return created_json(conf, *await create_drop(catalog, load_keys(conf), new))

    made = with_catalog(config, work)
    if new.sealed and (config_path(config).resolve().parent / ROOT_IDENTITY).exists():
        note(f"warning: {ROOT_IDENTITY} is still on this machine, so sealed uploads can be read here; move it away")
    if as_json:
        print_json(made)
    else:
        say_created(made)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _NAME_CHARACTERS:
        message = f"--name must have from 1 to {_NAME_CHARACTERS} characters; it is how you find the drop-off again"
        raise CommandError(message)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        message = "--name is not text in this terminal's encoding (UTF-8 is expected)"
        raise CommandError(message) from None


def _check_patterns(patterns: list[str] | None, option: str, example: str, *, needed: str = "") -> None:
    """Refuse a pattern that no file could match by mistake: empty, with spaces around, or no media type."""
    for pattern in patterns or ():
        if not pattern or pattern != pattern.strip() or needed not in pattern:
            message = f"{option} {pattern!r} matches nothing; write e.g. {example}"
            raise CommandError(message)


@app.command("list")
def list_drops(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all drop-offs, oldest first.

    Example: dropoff-tus drop list --json
    """

    async def work(catalog: SqlCatalog, conf: Config) -> list[dict[str, Any]]:
        return [_json(conf, dropoff) for dropoff in await catalog.dropoffs()]

    found = with_catalog(config, work)
    if as_json:
        print_json(found)
        return
    for item in found:
        say(f"{item['id']}  {'closed' if item['closed'] else 'open'}  {item['mode']}  {show(item['name'])}")
        say(f"  page:       {item['page_url']}")
        say(f"  upload URL: {item['upload_url']}")
    if not found:
        note("there is no drop-off yet; make one with: dropoff-tus drop create --name NAME")


@app.command("show")
def show_drop(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one drop-off, its limits and what it has received.

    Example: dropoff-tus drop show 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        return await _shown(catalog, conf, drop_id)

    _say_shown(with_catalog(config, work), as_json=as_json)


async def _shown(catalog: SqlCatalog, config: Config, drop_id: str) -> dict[str, Any]:
    dropoff = await catalog.dropoff(drop_id)
    if dropoff is None:
        raise _unknown()
    usage = await catalog.usage(drop_id)
    return {**_json(config, dropoff), "uploads": usage.uploads, "bytes": usage.bytes}


def _say_shown(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if key == "recipients":
            say(f"recipients: {', '.join(value) or 'the configured roots'}")
        elif key.startswith("max_") and not value:
            say(f"{key}: no limit")
        elif key.endswith("bytes"):
            say(f"{key}: {value} ({size(value)})")
        else:
            say(f"{key}: {'-' if value is None else show(str(value))}")


@app.command()
def close(
    drop_id: DropId,
    now: Annotated[bool, typer.Option("--now", help="Also end what is being uploaded.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take no new uploads; what has begun may finish, unless --now.

    Example: dropoff-tus drop close 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --now
    """
    _set_closed(drop_id, config, closed=True, end_open=now, as_json=as_json)


@app.command()
def reopen(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Take new uploads again.

    Example: dropoff-tus drop reopen 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11
    """
    _set_closed(drop_id, config, closed=False, end_open=False, as_json=as_json)


def _set_closed(drop_id: str, config: Path | None, *, closed: bool, end_open: bool, as_json: bool) -> None:
    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        if not await catalog.set_closed(drop_id, closed=closed, end_open=end_open):
            raise _unknown()
        return await _shown(catalog, conf, drop_id)

    found = with_catalog(config, work)
    if as_json:
        print_json(found)
    else:
        note(
            "closed; a running server ends what is being uploaded within seconds"
            if end_open
            else "closed; what has begun may finish"
            if closed
            else "open"
        )


@app.command("new-code")
def new_code(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Replace the code, and show the new one this once; the old one is refused from now on.

    Example: dropoff-tus drop new-code 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11
    """
    from dropoff_tus.ids import CODE_BYTES, format_code

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        dropoff = await catalog.dropoff(drop_id)
        code = format_code(os.urandom(CODE_BYTES))
        if dropoff is None or not await catalog.set_code(drop_id, load_keys(conf).code_mac(code)):
            raise _unknown()
        return created_json(conf, dropoff, code)

    made = with_catalog(config, work)
    if as_json:
        print_json(made)
    else:
        say_created(made)


def _unknown() -> CommandError:
    return CommandError("there is no such drop-off; list them with `dropoff-tus drop list`")
