"""`drop …`: drop-offs."""

import os
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dropoff_tus.ids import CODE_BYTES, format_code, is_drop_id
from dropoff_tus.model import Dropoff, Limits, Mode
from server.cli.context import (
    CommandError,
    ConfigOption,
    JsonOption,
    note,
    print_json,
    say,
    show,
    stamp,
    time_option,
    with_services,
)
from server.config import Config, config_path
from server.services import Services
from server.units import parse_size
from storage.keys import check_recipient

app = typer.Typer(help="Make and manage drop-offs: an upload URL and a code.", no_args_is_help=True)
DropId = Annotated[str, typer.Argument(metavar="ID", help="The drop-off's id.")]


@dataclass(frozen=True, slots=True)
class NewDrop:
    """What a new drop-off is to be."""

    name: str
    id: str | None = None
    with_code: bool = True
    limits: Limits = field(default_factory=Limits)
    recipients: tuple[str, ...] = ()
    sealed: bool = False
    expires_at: datetime | None = None


async def create_drop(services: Services, new: NewDrop) -> tuple[Dropoff, str | None]:
    """Make a drop-off; returns it with its code, which is nowhere else."""
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
        policy=services.keys.sign_policy(drop_id, mode, new.recipients),
        code_mac=services.keys.code_mac(code) if code is not None else None,
        limits=new.limits,
        expires_at=new.expires_at,
    )
    try:
        await services.catalog.add_dropoff(dropoff)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return dropoff, code


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
        "expires_at": stamp(dropoff.expires_at),
        "max_upload_bytes": limits.max_upload_bytes,
        "max_total_bytes": limits.max_total_bytes,
        "max_uploads": limits.max_uploads,
        "recipients": list(dropoff.policy.recipients),
    }


@app.command()
def create(  # noqa: PLR0917 - its options
    name: Annotated[str, typer.Option(help="What you call it.", show_default=False)],
    drop_id: Annotated[str | None, typer.Option("--id", help="A UUIDv4 you have already.")] = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Let anyone who has the URL upload.")] = False,
    expires: Annotated[str | None, typer.Option(help="7d, or 2030-01-31T12:00:00Z.")] = None,
    max_upload_bytes: Annotated[str | None, typer.Option(help="Of one upload; e.g. 10GiB. 0: no limit.")] = None,
    max_total_bytes: Annotated[str | None, typer.Option(help="Of all uploads together.")] = None,
    max_uploads: Annotated[int | None, typer.Option(help="How many.", min=0)] = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="An age recipient instead of the configured roots.")
    ] = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="Not even this server can read a finished upload.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a drop-off and show its URL and code.

    Example: dropoff-tus drop create --name "Cohort 7" --expires 30d --max-total-bytes 2TiB
    """
    recipients = tuple(recipient or ())
    if len({check_recipient(text) for text in recipients}) > 1:
        message = "all recipients must be of one type: age1… or age1pq1…"
        raise CommandError(message)

    async def work(services: Services, conf: Config) -> dict[str, Any]:
        defaults = conf.dropoffs
        new = NewDrop(
            name=name,
            id=drop_id,
            with_code=not no_code,
            limits=Limits(
                max_upload_bytes=_size(max_upload_bytes, defaults.max_upload_bytes, "--max-upload-bytes"),
                max_total_bytes=_size(max_total_bytes, defaults.max_total_bytes, "--max-total-bytes"),
                max_uploads=defaults.max_uploads if max_uploads is None else max_uploads,
            ),
            recipients=recipients,
            sealed=sealed or defaults.sealed,
            expires_at=time_option(expires or defaults.expires, "--expires"),
        )
        return created_json(conf, *await create_drop(services, new))

    made = with_services(config, work)
    if sealed and (config_path(config).resolve().parent / "root-identity.txt").exists():
        note("warning: root-identity.txt is still on this machine, so sealed uploads can be read here; move it away")
    if as_json:
        print_json(made)
    else:
        say_created(made)


def _size(text: str | None, default: int, option: str) -> int:
    if text is None:
        return default
    try:
        return parse_size(int(text) if text.isascii() and text.isdigit() else text)
    except ValueError as error:
        message = f"{option} {error}"
        raise CommandError(message) from None


@app.command("list")
def list_drops(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all drop-offs."""

    async def work(services: Services, conf: Config) -> list[dict[str, Any]]:
        return [_json(conf, dropoff) for dropoff in await services.catalog.dropoffs()]

    found = with_services(config, work)
    if as_json:
        print_json(found)
        return
    for item in found:
        say(f"{item['id']}  {'closed' if item['closed'] else 'open'}  {item['mode']}  {show(item['name'])}")
        say(f"  page:       {item['page_url']}")
        say(f"  upload URL: {item['upload_url']}")
    if found:
        say("a code is shown once; make a new one with: dropoff-tus drop new-code ID")


@app.command("show")
def show_drop(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one drop-off and what it has received."""

    async def work(services: Services, conf: Config) -> dict[str, Any]:
        dropoff = await services.catalog.dropoff(drop_id)
        if dropoff is None:
            raise _unknown()
        usage = await services.catalog.usage(drop_id)
        return {**_json(conf, dropoff), "uploads": usage.uploads, "bytes": usage.bytes}

    found = with_services(config, work)
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        say(f"{key}: {show(str(value))}")


@app.command()
def close(
    drop_id: DropId,
    now: Annotated[bool, typer.Option("--now", help="Also end what is being uploaded.")] = False,
    config: ConfigOption = None,
) -> None:
    """Take no new uploads; what has begun may finish, unless --now."""
    _set_closed(drop_id, config, closed=True, end_open=now)


@app.command()
def reopen(drop_id: DropId, config: ConfigOption = None) -> None:
    """Take new uploads again."""
    _set_closed(drop_id, config, closed=False, end_open=False)


def _set_closed(drop_id: str, config: Path | None, *, closed: bool, end_open: bool) -> None:
    async def work(services: Services, _conf: Config) -> bool:
        return await services.catalog.set_closed(drop_id, closed=closed, end_open=end_open)

    if not with_services(config, work):
        raise _unknown()


@app.command("new-code")
def new_code(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Replace the code; the old one is refused from now on."""

    async def work(services: Services, conf: Config) -> dict[str, Any]:
        dropoff = await services.catalog.dropoff(drop_id)
        code = format_code(os.urandom(CODE_BYTES))
        if dropoff is None or not await services.catalog.set_code(drop_id, services.keys.code_mac(code)):
            raise _unknown()
        return created_json(conf, dropoff, code)

    made = with_services(config, work)
    if as_json:
        print_json(made)
    else:
        say_created(made)


def _unknown() -> CommandError:
    return CommandError("there is no such drop-off; list them with `dropoff-tus drop list`")
