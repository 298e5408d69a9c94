"""`drop …`: drop-offs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.context import (
    ConfigOption,
    JsonOption,
    duration_option,
    group,
    read_config,
    recipients_option,
    size_option,
    time_option,
    with_catalog,
)
from server.cli.output import CommandError, note, print_json, say, show, size

if TYPE_CHECKING:
    from dropoff_tus.errors import InvalidFieldError
    from dropoff_tus.model import Dropoff
    from server.settings.config import Config
    from server.usecases.dropoffs import Dropoffs, NewDrop
    from storage.catalog import SqlCatalog
    from storage.keyring.keys import ServerKeys

app = group("Make and manage drop-offs: an upload URL and a code.")
DropId = Annotated[str, typer.Argument(metavar="ID", help="The drop-off's id.", show_default=False)]
MOST_UPLOADS = 2**31 - 1
_OPTIONS = {
    "id": "--id",
    "name": "--name",
    "allowed_types": "--allow-type",
    "name_patterns": "--allow-name",
    "opens_at": "--opens",
    "expires_at": "--expires",
    "recipients": "--recipient",
    "notify": "--notify",
    "contact": "--contact",
}
"""By the names that answers give them."""
ROOT_IDENTITY = "root-identity.txt"
"""Where `init` leaves the root identity, beside the configuration, until the operator moves it."""


def load_keys(config: Config) -> ServerKeys:
    """Load the server's keys alone."""
    from server.places import key_places
    from storage.keyring.keys import load_server_keys

    return load_server_keys(key_places(config))


def dropoffs(catalog: SqlCatalog, keys: ServerKeys) -> Dropoffs:
    """Return the use cases."""
    from server.clock import SystemClock
    from server.services import recipients_problem
    from server.usecases.dropoffs import Dropoffs

    return Dropoffs(catalog, keys, SystemClock(), recipients_problem)


async def create_drop(catalog: SqlCatalog, keys: ServerKeys, new: NewDrop) -> tuple[Dropoff, str | None]:
    """Make a drop-off; returns it with its code, which is nowhere else.

    Raises:
        CommandError: Something of it cannot be; the sentence names the option.
    """
    from dropoff_tus.errors import InvalidFieldError

    try:
        return await dropoffs(catalog, keys).create(new)
    except InvalidFieldError as error:
        raise refused(error) from None


def refused(error: InvalidFieldError) -> CommandError:
    """Return the refusal of what cannot be, with the option that said it."""
    return CommandError(f"{_OPTIONS.get(error.field, error.field)} {error.problem}")


def listed(given: list[str]) -> tuple[str, ...]:
    """Return what an option that may be repeated gives; once, and empty, it empties the list."""
    return () if given == [""] else tuple(given)


def created_json(config: Config, dropoff: Dropoff, code: str | None) -> dict[str, Any]:
    """Return what a new drop-off is shown as."""
    from server.answers import NewDropAnswer

    return NewDropAnswer.of(config.server.base_url, dropoff, code).model_dump(mode="json")


def say_created(made: dict[str, Any]) -> None:
    """Print a new drop-off for people."""
    say(f"page:       {made['page_url']}")
    say(f"upload URL: {made['upload_url']}")
    if made["code"]:
        say(f"code:       {made['code']}   (shown this once)")
        say(f"link:       {made['page_url']}#{made['code']}")
    else:
        say("code:       none needed")


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
        list[str] | None,
        typer.Option(
            help="An age recipient instead of the configured roots, or a file with one a line. May be repeated."
        ),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(help="A mail address that is told what arrived; needs section [mail]. May be repeated."),
    ] = None,
    retain: Annotated[
        str | None, typer.Option(help="Shred finished uploads so long after their completion, e.g. 90d; 0: never.")
    ] = None,
    contact: Annotated[
        str | None, typer.Option(help="Whom an uploader may ask; shown to whoever has the code.")
    ] = None,
    sealed: Annotated[
        bool | None, typer.Option("--sealed/--managed", help="Whether not even this server can read finished uploads.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a drop-off and show its URL and its code, which is shown this once.

    Send the code and the address in separate messages. What is not said here comes from section [dropoffs]; an empty
    value, as in --notify '', empties a list of it. Types and names are compared without case, and are what the client
    says they are: nobody looks into the file.

    Example: dropoff-tus drop create --name "Cohort 7" --expires 30d --max-total-bytes 2TiB
    """
    from dropoff_tus.model import Limits
    from server.settings.config import config_path
    from server.usecases.dropoffs import NewDrop

    loaded = read_config(config)
    defaults = loaded.dropoffs
    new = NewDrop(
        name=name,
        id=drop_id,
        with_code=not no_code,
        limits=Limits(
            max_upload_bytes=size_option(max_upload_bytes, defaults.max_upload_bytes, "--max-upload-bytes"),
            max_total_bytes=size_option(max_total_bytes, defaults.max_total_bytes, "--max-total-bytes"),
            max_uploads=defaults.max_uploads if max_uploads is None else max_uploads,
            allowed_types=defaults.allowed_types if allow_type is None else listed(allow_type),
            name_patterns=defaults.name_patterns if allow_name is None else listed(allow_name),
        ),
        recipients=recipients_option(recipient or ()),
        sealed=defaults.sealed if sealed is None else sealed,
        opens_at=time_option(opens, "--opens"),
        expires_at=time_option(defaults.expires if expires is None else expires, "--expires"),
        notify=defaults.notify if notify is None else listed(notify),
        retain_seconds=int(duration_option(retain, defaults.retain, "--retain")),
        contact=defaults.contact if contact is None else contact,
    )

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        return created_json(conf, *await create_drop(catalog, load_keys(conf), new))

    made = with_catalog(config, work)
    if new.sealed and (config_path(config).resolve().parent / ROOT_IDENTITY).exists():
        note(f"warning: {ROOT_IDENTITY} is still on this machine, so sealed uploads can be read here; move it away")
    if new.notify and loaded.mail.server is None:
        note("warning: section [mail] names no server, so nobody is notified; see config.example.toml")
    if as_json:
        print_json(made)
    else:
        say_created(made)


@app.command("list")
def list_drops(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all drop-offs, oldest first.

    Example: dropoff-tus drop list --json
    """

    async def work(catalog: SqlCatalog, conf: Config) -> list[dict[str, Any]]:
        from server.answers import DropAnswer

        base_url = conf.server.base_url
        return [DropAnswer.of(base_url, dropoff).model_dump(mode="json") for dropoff in await catalog.dropoffs()]

    found = with_catalog(config, work)
    if as_json:
        print_json(found)
        return
    for item in found:
        say(f"{item['id']}  {item['state']}  {item['mode']}  {show(item['name'])}")
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
    from server.answers import DropUsageAnswer

    dropoff = await catalog.dropoff(drop_id)
    if dropoff is None:
        raise _unknown()
    usage = await catalog.usage(drop_id)
    return DropUsageAnswer.with_usage(config.server.base_url, dropoff, usage).model_dump(mode="json")


def _say_shown(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if key == "recipients":
            say(f"recipients: {', '.join(value) or 'the configured roots'}")
        elif key == "notify":
            say(f"notify: {', '.join(value) or 'nobody'}")
        elif key == "retain_seconds":
            say(f"retain: {f'{value / 86400:g} days after completion' if value else 'for ever'}")
        elif key.startswith("max_") and not value:
            say(f"{key}: no limit")
        elif key.endswith("bytes"):
            say(f"{key}: {value} ({size(value)})")
        elif key in {"allowed_types", "name_patterns"}:
            say(f"{key}: {show(', '.join(value)) or 'any'}")
        elif isinstance(value, bool):
            say(f"{key}: {'yes' if value else 'no'}")
        else:
            say(f"{key}: {'-' if value in (None, '') else show(str(value))}")


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
        from server.usecases.closing import set_closed
        from storage.files.marks import ended_drops

        ended = ended_drops(Path(conf.store.keys_dir))
        if not await set_closed(catalog, ended, drop_id, closed=closed, end_open=end_open):
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
            if found["state"] == "open"
            else f"not closed any more, but {found['state']}: `drop edit` changes its times"
        )


@app.command("new-code")
def new_code(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Replace the code, and show the new one this once; the old one is refused from now on.

    Example: dropoff-tus drop new-code 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        return created_json(conf, *await dropoffs(catalog, load_keys(conf)).new_code(drop_id))

    made = with_catalog(config, work)
    if as_json:
        print_json(made)
    else:
        say_created(made)


def _unknown() -> CommandError:
    return CommandError("there is no such drop-off; list them with `dropoff-tus drop list`")
