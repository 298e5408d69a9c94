"""`upload …`: received files."""

import json
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import CatalogTamperedError, UploadDamagedError, UploadNotFoundError
from dropoff_tus.model import Role, UploadRow
from dropoff_tus.protocol import check_agrees
from dropoff_tus.states import UploadState
from server import answers
from server.cli.context import (
    ConfigOption,
    IdentityOption,
    JsonOption,
    KeyOption,
    SinceOption,
    StoreOption,
    YesOption,
    confirm,
    group,
    past,
)
from server.cli.history import history_of
from server.cli.opening import (
    check_drop,
    compared,
    exportable,
    find_upload,
    identities_in,
    opened,
    with_reading,
    with_services,
)
from server.cli.output import CommandError, answer, note, print_json, progress, say, show
from server.cli.target import STDOUT, check_no_terminal, check_output, output_file, write_pieces
from server.clock import SystemClock
from server.services import Services
from server.settings.config import Config
from server.usecases.operating.exporting import is_since
from server.usecases.operating.stored_rows import StoredRows
from storage.catalog import SqlCatalog
from storage.open import FileStore

app = group("List, export and delete uploads.")
UploadArgument = Annotated[
    str, typer.Argument(metavar="UPLOAD", help="An upload's id, token or URL.", show_default=False)
]
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})?")


@app.command("list")
def list_uploads(  # noqa: PLR0917 - its options
    drop: Annotated[str | None, typer.Option("--drop", metavar="ID", help="Only uploads of this drop-off.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also partial uploads.")] = False,
    state: Annotated[
        list[UploadState] | None, typer.Option("--state", help="Only uploads in this state. May be repeated.")
    ] = None,
    since: SinceOption = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N of them.")] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="UPLOAD", help="Only uploads behind this one in the list.")
    ] = None,
    identity: IdentityOption = None,
    store: StoreOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List uploads, oldest first: id, state, bytes here of bytes expected, name, and why it ended if it did.

    Names and digests of sealed uploads are shown only with --identity, since the server cannot read them. With very
    many uploads, list them in pages: --limit 200, and the last id of each page as --after of the next. With --store it
    lists a copy on a machine without the server, names only with --identity.

    Example: dropoff-tus upload list --drop 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --state complete --since 7d
    """
    begin = past(since, SystemClock().now())

    identities = identities_in(identity)

    async def work(opened_store: FileStore, catalog: SqlCatalog | StoredRows) -> list[dict[str, Any]]:
        if drop is not None:
            await check_drop(catalog, drop)
        rows: list[UploadRow] = []
        behind = None if after is None else await _place(catalog, opened_store, after)
        while True:
            page = await catalog.uploads(drop_id=drop, partials=every, states=state or (), after=behind, limit=limit)
            rows += [row for row in page if is_since(row, begin)]
            if limit is None or len(page) < limit or len(rows) >= limit:
                break
            behind = (page[-1].created_at, page[-1].id)
        shown = await answers.upload_answers(opened_store, rows[:limit], identities)
        return [answer.model_dump(mode="json") for answer in shown]

    found = with_reading(config, store, key or [], work)
    if as_json:
        print_json(found)
        return
    for item in found:
        of = "?" if item["length"] is None else item["length"]
        why = "" if item["reason"] is None else f"  ({item['reason']})"
        sealed = "" if item["sealed_by"] is None else "  (sealed in the browser)"
        name = item["relative_path"] or item["filename"] or "-"
        whose = f"  (of {item['drop_id']})" if store is not None and drop is None else ""
        say(f"{item['id']}  {item['state']:<10}  {item['offset']}/{of}  {show(name)}{sealed}{why}{whose}")


async def _place(catalog: SqlCatalog | StoredRows, store: FileStore, upload: str) -> tuple[datetime, str]:
    """Return the place of an upload in the list, by its creation and id."""
    row = await catalog.upload(await find_upload(catalog, store, upload))
    if row is None:
        raise CommandError("the catalog does not know the upload that --after names; begin the list again without it")
    return row.created_at, row.id


@app.command("show")
def show_upload(
    upload: UploadArgument,
    identity: IdentityOption = None,
    with_history: Annotated[
        bool, typer.Option("--history", help="Also what happened to it, and whether somebody sends to it now.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="FILE", help="The server's log for --history, in JSON; - for stdin.", show_default=False
        ),
    ] = None,
    store: StoreOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one upload, with the sender's message.

    --history adds a line for each thing that happened: from the upload's own signed log when bytes became durable, from
    the audit who began, ended, exported it or changed its drop-off, and with --log each request: its bytes, its speed
    and why it was cut off. The last line says how it stands now.

    Example: dropoff-tus upload show 5f0c… --history --log server.log
    """
    identities = identities_in(identity)
    if log is not None and not with_history:
        raise CommandError("--log is for --history; say that too")
    if store is not None and with_history:
        raise CommandError("a copy of the store has no history: the audit is in the server's catalog")

    async def work(opened_store: FileStore, catalog: SqlCatalog | StoredRows) -> tuple[UploadRow, dict[str, Any]]:
        found = await find_upload(catalog, opened_store, upload)
        row = await catalog.upload(found)
        if row is None:
            raise CommandError(
                f"the catalog does not know upload {found}, but the store has it: `store check {found}` verifies it, "
                f"`upload export {found}` reads it if it is finished"
            )
        with suppress(UploadNotFoundError, UploadDamagedError):
            check_agrees(row, await opened_store.stat(found))
        return row, (await answers.upload_details(opened_store, row, identities)).model_dump(mode="json")

    async def with_past(services: Services, conf: Config) -> dict[str, Any]:
        row, told = await work(services.store, services.catalog)
        return {**told, **await history_of(services, conf, row, log)}

    if with_history:
        found = with_services(config, with_past, reading=True)
    else:
        found = with_reading(config, store, key or [], work)[1]
    if as_json:
        print_json(found)
    else:
        _say_details(found)


def _say_details(found: dict[str, Any]) -> None:
    entries, now = found.pop("history", ()), found.pop("now", None)
    for name, value in found.items():
        say(f"{name}: {'-' if value is None else show(str(value))}")
    for entry in entries:
        say(f"{entry['at']}  {entry['source']:<5}  {show(entry['text'])}")
    if now is not None:
        say(f"now: {now}")


@app.command()
def export(  # noqa: PLR0917 - its options
    upload: UploadArgument,
    output: Annotated[
        str, typer.Option("--output", metavar="PATH", help="A file, or - for stdout.", show_default=False)
    ],
    identity: IdentityOption = None,
    part: Annotated[
        str | None, typer.Option("--range", metavar="START-END", help="Only these bytes, both ends included.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    keep_sealed: Annotated[
        bool,
        typer.Option(
            "--keep-sealed", help="With --identity: leave a file that the browser sealed as it is, an age file."
        ),
    ] = False,
    store: StoreOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an upload's bytes as they were sent; the file appears only when it is whole and verified.

    Every byte is checked against the signed log on its way, and the whole with its receipt. On stdout bytes come
    before the end has been checked: rely on them only when the exit code is 0. A range is written as in HTTP:
    0-1023 are the first 1,024 bytes, 1024- is the rest. With --store and --identity it reads a copy of store and
    envelopes on a machine that has neither the server's keys nor its catalog.

    A file that the browser sealed is written as the age file that was sent, for `age -d`; with --identity it is opened
    too, unless --keep-sealed says otherwise.

    Example: dropoff-tus upload export 5f0c0b6d3a5e4f0e9d0a0e3a6d6f1c11 --output scan.zip
    """
    identities = identities_in(identity)
    wanted = _parse_range(part)
    check_output(output, as_json=as_json)
    if output == STDOUT:
        check_no_terminal()
    if store is not None and not identities:
        raise CommandError("with --store the server's own keys are not looked at; give --identity FILE as well")

    async def work(store: FileStore, catalog: SqlCatalog | StoredRows) -> dict[str, Any]:
        found = await find_upload(catalog, store, upload)
        total, final = await exportable(store, catalog, found, by_root=bool(identities))
        start, stop = _within(wanted, total)
        sealed, opening = await _sealing(store, found, identities, keep=keep_sealed, ranged=wanted is not None)
        # Before the first byte, so that none leaves unrecorded.
        drop_id = (await store.stat(found)).drop_id
        await catalog.record(Event(Act.UPLOAD_EXPORT, drop_id, found, size_bytes=stop - start))
        pieces = store.read(found, start=start, stop=stop, identities=identities, unfinished_ok=not final)
        if stop - start == total:
            pieces = compared(pieces, found, await store.receipt(found, identities) or {})
        with (
            progress("export", stop - start) as advance,
            output_file(output, replace=force, otherwise="use --force to replace it") as file,
        ):
            await write_pieces(file, opened(pieces, identities) if opening else pieces, advance, here=output == STDOUT)
        if not store.here(found).receipt:
            note("there is no receipt of it: only the signed log vouches for its bytes")
        if sealed and not opening:
            note("the browser sealed it: this is an age file, which `age -d -i IDENTITY` opens, or --identity here")
        return {"id": found, "output": output, "start": start, "bytes": stop - start, "opened": opening}

    done = with_reading(config, store, key or [], work)
    if as_json:
        print_json(done)


def _parse_range(text: str | None) -> tuple[int, int | None] | None:
    """Return start and stop (exclusive, None: the end)."""
    if text is None:
        return None
    found = _RANGE.fullmatch(text.strip())
    if found is None or (found[2] is not None and int(found[2]) < int(found[1])):
        message = "--range must be START-END in bytes with both ends included, e.g. 0-1023, or 1024- for the rest"
        raise CommandError(message)
    return int(found[1]), None if found[2] is None else int(found[2]) + 1


def _within(wanted: tuple[int, int | None] | None, total: int) -> tuple[int, int]:
    if wanted is None:
        return 0, total
    start, stop = wanted
    if start >= total:
        raise CommandError(f"--range begins at byte {start}, but the upload has {total} bytes; nothing was written")
    return start, total if stop is None else min(stop, total)


async def _sealing(
    store: FileStore, upload_id: str, identities: list[str], *, keep: bool, ranged: bool
) -> tuple[bool, bool]:
    """Tell whether the browser sealed an upload, and whether it is to be opened.

    Raises:
        CommandError: A range of what is to be opened.
    """
    receipt = await store.receipt(upload_id, identities)
    sealed = receipt is not None and "sealed_by" in receipt
    if receipt is None:
        (seen,) = await store.look([upload_id], identities)
        sealed = seen.metadata is not None and seen.metadata.sealed_by is not None
    opening = sealed and bool(identities) and not keep
    if opening and ranged:
        raise CommandError("a range is of the file as it was sealed; say --keep-sealed for that. Nothing was written")
    return sealed, opening


@app.command()
def receipt(
    upload: UploadArgument,
    identity: IdentityOption = None,
    store: StoreOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print an upload's receipt: one signed line, to keep and to verify later; with --json its members.

    Example: dropoff-tus upload receipt 5f0c… > receipt.txt
    """
    identities = identities_in(identity)

    async def work(opened_store: FileStore, catalog: SqlCatalog | StoredRows) -> bytes | None:
        found = await find_upload(catalog, opened_store, upload)
        await opened_store.stat(found)  # what is not there has no receipt for another reason
        return await opened_store.signed_receipt(found, identities)

    line = with_reading(config, store, key or [], work)
    if line is None:
        raise CommandError("there is no receipt that can be read here; for a sealed upload give --identity FILE")
    if as_json:
        print_json(json.loads(line.rpartition(b" ")[0]))
    else:
        say(line.decode("ascii").rstrip("\n"))


@app.command()
def delete(
    upload: UploadArgument,
    yes: YesOption = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Also if it does not verify, or its row in the catalog was changed.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shred an upload: its keys first, then its bytes. There is no way back.

    Copies in backups are not touched. An upload that was damaged or tampered with is refused, since you may want to
    investigate or restore it; --damaged shreds it, and keeps its log, which has no content, as log.damaged.

    Example: dropoff-tus upload delete 5f0c0b6d3a5e4f0e9d0a0e3a6d6f1c11 --yes
    """
    confirm("Shred this upload? There is no way back", "shred", yes=yes, as_json=as_json)

    async def work(services: Services, _conf: Config) -> str:
        found = await find_upload(services.catalog, services.store, upload)
        row = await services.catalog.upload(found)
        if row is not None and row.role is Role.PARTIAL and row.final_id is not None:
            raise CommandError(f"it is a part of upload {row.final_id}; delete that one. Nothing was changed")
        if damaged:
            await services.uploads.ender.delete_damaged(found)
            return found
        try:
            await services.uploads.ender.delete(found)
        except (UploadDamagedError, CatalogTamperedError) as error:
            message = f"{error.message}. Look into it first; `upload delete {found} --damaged` shreds it anyway"
            raise CommandError(message) from None
        return found

    found = with_services(config, work)
    answer({"id": found, "state": "deleted"}, "shredded; copies in backups are not touched", as_json=as_json)
