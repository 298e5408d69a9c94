"""`drop edit`: changing what a drop-off takes, for whom it is, and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from server.cli.context import (
    ConfigOption,
    JsonOption,
    duration_option,
    read_config,
    recipients_option,
    size_option,
    time_option,
    with_catalog,
)
from server.cli.drop import MOST_UPLOADS, DropId, dropoffs, listed, load_keys, refused
from server.cli.output import CommandError, note, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.settings.config import Config
    from server.usecases.dropoffs import DropEdit
    from storage.catalog import SqlCatalog


def register(drop: typer.Typer) -> None:
    """Add the command."""
    drop.command("edit")(edit)


def edit(  # noqa: PLR0917 - its options
    drop_id: DropId,
    name: Annotated[str | None, typer.Option(help="What you call it.")] = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Let anyone who has the URL upload from now on.")] = False,
    opens: Annotated[str | None, typer.Option(help="When it begins to take uploads: 2d, or a time; 0: now.")] = None,
    expires: Annotated[str | None, typer.Option(help="7d, or 2030-01-31T12:00:00Z; 0: never.")] = None,
    max_upload_bytes: Annotated[str | None, typer.Option(help="Of one upload; e.g. 10GiB. 0: no limit.")] = None,
    max_total_bytes: Annotated[str | None, typer.Option(help="Of all uploads together. 0: no limit.")] = None,
    max_uploads: Annotated[int | None, typer.Option(help="How many; 0: no limit.", min=0, max=MOST_UPLOADS)] = None,
    allow_type: Annotated[
        list[str] | None, typer.Option(help="The media types it takes from now on. May be repeated; '': any.")
    ] = None,
    allow_name: Annotated[
        list[str] | None, typer.Option(help="The patterns of file names it takes. May be repeated; '': any.")
    ] = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option(help="The age recipients, or a file with one a line. May be repeated; '': the configured roots."),
    ] = None,
    notify: Annotated[
        list[str] | None, typer.Option(help="The mail addresses that are told. May be repeated; '': nobody.")
    ] = None,
    retain: Annotated[
        str | None, typer.Option(help="Shred finished uploads so long after their completion, e.g. 90d; 0: never.")
    ] = None,
    contact: Annotated[str | None, typer.Option(help="Whom an uploader may ask; '': nobody is named.")] = None,
    sealed: Annotated[
        bool | None, typer.Option("--sealed/--managed", help="Whether not even this server can read finished uploads.")
    ] = None,
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="Sign what `drop show` tells, although somebody changed it in the database."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a drop-off; what is not said stays. A running server knows at once.

    What has been created keeps its mode, its recipients (see `keys rotate --drop`) and its place, whatever the new
    limits. --retain holds for what is here too: a shorter one shreds within a minute what is older. All its terms
    are signed anew. --no-code takes the code away, and `drop new-code` makes one again. `drop close` and
    `reopen` change the rest.

    Example: dropoff-tus drop edit 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --expires 30d --max-uploads 0
    """
    from dropoff_tus.errors import InvalidFieldError
    from dropoff_tus.model import Mode

    loaded = read_config(config)
    options: dict[str, tuple[Any, Callable[[Any], object]]] = {
        "name": (name, str),
        "has_code": (False if no_code else None, bool),
        "opens_at": (opens, lambda text: time_option(text, "--opens")),
        "expires_at": (expires, lambda text: time_option(text, "--expires")),
        "max_upload_bytes": (max_upload_bytes, lambda text: size_option(text, 0, "--max-upload-bytes")),
        "max_total_bytes": (max_total_bytes, lambda text: size_option(text, 0, "--max-total-bytes")),
        "max_uploads": (max_uploads, int),
        "allowed_types": (allow_type, listed),
        "name_patterns": (allow_name, listed),
        "recipients": (recipient, recipients_option),
        "notify": (notify, listed),
        "retain_seconds": (retain, lambda text: int(duration_option(text, 0, "--retain"))),
        "contact": (contact, str),
        "mode": (sealed, lambda on: Mode.SEALED if on else Mode.MANAGED),
    }
    given = {field: read(value) for field, (value, read) in options.items() if value is not None}
    wanted = cast("DropEdit", given)
    if not wanted and not confirm:
        message = "say what is to be changed, e.g. --expires 30d; `dropoff-tus drop edit --help` lists it all"
        raise CommandError(message)

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        from server.answers import DropUsageAnswer

        try:
            done = await dropoffs(catalog, load_keys(conf)).edit(drop_id, wanted, confirm=confirm)
        except InvalidFieldError as error:
            raise refused(error) from None
        return DropUsageAnswer.with_usage(conf.server.base_url, *done).model_dump(mode="json")

    changed = with_catalog(config, work)
    if no_code:
        note(
            "no code is needed any more: anyone who has the URL can upload; `dropoff-tus drop new-code` makes one again"
        )
    if changed["notify"] and loaded.mail.server is None:
        note("warning: section [mail] names no server, so nobody is notified; see config.example.toml")
    if as_json:
        print_json(changed)
    else:
        note("changed; see it with `dropoff-tus drop show`")
