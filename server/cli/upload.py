"""`upload …`: what was received."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from dropoff_tus.errors import DropoffError, UploadNotFoundError
from dropoff_tus.model import Role, UploadRow, UploadState
from server.cli.context import (
    CommandError,
    ConfigOption,
    JsonOption,
    find_upload,
    note,
    print_json,
    say,
    show,
    stamp,
    with_services,
)
from server.config import Config
from server.services import Services
from storage.keys import read_identity_file

app = typer.Typer(help="List, export and delete what was received.", no_args_is_help=True)
UploadArgument = Annotated[str, typer.Argument(metavar="UPLOAD", help="An upload's id, token or URL.")]
IdentityOption = Annotated[Path | None, typer.Option("--identity", help="An age identity file, for sealed uploads.")]


async def _row_json(services: Services, row: UploadRow, identities: list[str]) -> dict[str, Any]:
    filename, digest, offset = None, None, row.size_bytes or 0
    with suppress(DropoffError):
        stored = await services.store.stat(row.id)
        offset = stored.offset
        if row.state is UploadState.COMPLETE:
            receipt = await services.store.receipt(row.id, identities)
            if receipt is not None:
                digest, filename = receipt.get("sha256"), receipt.get("path")
        if filename is None:
            metadata = await services.store.metadata(row.id)
            filename = metadata.filename if metadata is not None else None
    return {
        "id": row.id,
        "drop_id": row.drop_id,
        "state": row.state.value,
        "filename": filename,
        "length": row.length,
        "offset": offset,
        "sha256": digest,
        "created_at": stamp(row.created_at),
        "completed_at": stamp(row.completed_at),
    }


@app.command("list")
def list_uploads(
    drop: Annotated[str | None, typer.Option("--drop", help="Of this drop-off only.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also partial uploads.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List uploads, oldest first."""

    async def work(services: Services, _conf: Config) -> list[dict[str, Any]]:
        rows = await services.catalog.uploads(drop_id=drop, partials=every)
        return [await _row_json(services, row, []) for row in rows]

    found = with_services(config, work)
    if as_json:
        print_json(found)
        return
    for item in found:
        of = "?" if item["length"] is None else item["length"]
        say(f"{item['id']}  {item['state']:<10}  {item['offset']}/{of}  {show(item['filename'] or '-')}")


@app.command("show")
def show_upload(
    upload: UploadArgument, identity: IdentityOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show one upload."""
    identities = read_identity_file(identity) if identity else []

    async def work(services: Services, _conf: Config) -> dict[str, Any]:
        row = await services.catalog.upload(await find_upload(services, upload))
        assert row is not None  # noqa: S101 - found just now
        return await _row_json(services, row, identities)

    found = with_services(config, work)
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        say(f"{key}: {show(str(value))}")


@app.command()
def export(
    upload: UploadArgument,
    output: Annotated[str, typer.Option("--output", help="A file, or - for stdout.", show_default=False)],
    identity: IdentityOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write an upload's plain bytes; the file appears only when it is whole and verified."""
    identities = read_identity_file(identity) if identity else []
    target = Path(output)
    if output != "-" and target.exists() and not force:
        message = f"{target} exists already and was left as it is; use --force to replace it"
        raise CommandError(message)

    async def work(services: Services, _conf: Config) -> None:
        found = await find_upload(services, upload)
        stored = await services.store.stat(found)
        row = await services.catalog.upload(found)
        if not stored.final or row is None or row.state is not UploadState.COMPLETE:
            message = (
                f"the upload is not finished ({row.state.value if row else 'unknown'}, {stored.offset} bytes are here)"
            )
            raise UploadNotFoundError(message)
        pieces = services.store.read(found, identities=identities)
        if output == "-":
            async for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        await _to_file(target, pieces, stored.offset)

    with_services(config, work)


async def _to_file(target: Path, pieces: Any, total: int) -> None:  # noqa: ANN401 - an async iterator
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    console = Console(stderr=True)
    try:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            file = os.fdopen(os.open(temporary, flags, 0o600), "wb")
        except OSError as error:
            message = f"cannot write in {target.parent}: {error.strerror}"
            raise CommandError(message) from None
        with file, Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("export", total=total)
            async for piece in pieces:
                file.write(piece)
                progress.advance(task, len(piece))
            file.flush()
            os.fsync(file.fileno())  # noqa: TID251 - the operator's own file, not the store
        temporary.rename(target)
    except OSError as error:
        message = f"cannot write {target}: {error.strerror}; nothing was left there"
        raise CommandError(message) from None
    finally:
        temporary.unlink(missing_ok=True)


@app.command()
def delete(
    upload: UploadArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shred an upload: its keys first, then its bytes. There is no way back."""
    if not yes and not as_json:
        if not sys.stdin.isatty():
            message = "there is nobody to ask; say --yes to shred without asking"
            raise CommandError(message)
        typer.confirm("Shred this upload? There is no way back", abort=True)

    async def work(services: Services, _conf: Config) -> str:
        found = await find_upload(services, upload)
        row = await services.catalog.upload(found)
        if row is not None and row.role is Role.PARTIAL and row.final_id is not None:
            message = f"it is a part of upload {row.final_id}; delete that one"
            raise CommandError(message)
        await services.uploads.delete(found)
        return found

    found = with_services(config, work)
    if as_json:
        print_json({"id": found, "state": "deleted"})
    else:
        note("shredded; copies in backups are not touched")


@app.command()
def receipt(upload: UploadArgument, identity: IdentityOption = None, config: ConfigOption = None) -> None:
    """Print an upload's receipt as JSON."""
    identities = read_identity_file(identity) if identity else []

    async def work(services: Services, _conf: Config) -> dict[str, Any] | None:
        return await services.store.receipt(await find_upload(services, upload), identities)

    found = with_services(config, work)
    if found is None:
        message = "there is no receipt that can be read here; for a sealed upload give --identity"
        raise CommandError(message)
    print_json(found)
