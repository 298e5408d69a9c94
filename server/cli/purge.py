"""`drop purge` and `verify-certificate`: erasing a drop-off's uploads, and proof of what was erased."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.context import ConfigOption, JsonOption, key_text, with_services
from server.cli.output import CommandError, note, print_json, say, show, steps
from server.cli.receipts import signed_line
from server.cli.target import new_file

if TYPE_CHECKING:
    from dropoff_tus.model import UploadRow
    from server.config import Config
    from server.services import Services

_BACKUPS = "copies in backups are not included"


def register(app: typer.Typer, drop: typer.Typer) -> None:
    """Add the commands."""
    drop.command("purge")(purge)
    app.command("verify-certificate")(verify)


def purge(
    drop_id: Annotated[str, typer.Argument(metavar="ID", help="The drop-off's id.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="PATH", help="A new file for the certificate; else erasure-ID.txt here."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close a drop-off and shred all that it received: keys first, then bytes. There is no way back.

    What is being uploaded is ended. Tombstones stay: ids, sizes, times and the signed logs, which hold no content and
    no name; and the drop-off itself. The certificate is a signed line that says what was removed; it is written when
    nothing is left. Stopped at any moment, a second run goes on. Copies in backups are not touched.

    Example: dropoff-tus drop purge 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --output erasure.txt
    """
    target = output or Path(f"erasure-{Path(drop_id).name}.txt")
    if not yes:
        if not sys.stdin.isatty() or as_json:
            message = "there is nobody to ask; say --yes to shred without asking. Nothing was changed"
            raise CommandError(message)
        typer.confirm("Shred everything of this drop-off? There is no way back", abort=True, err=True)
    if target.exists():
        message = f"{target} exists already; name another file for the certificate. Nothing was changed"
        raise CommandError(message)

    async def work(services: Services, _conf: Config) -> dict[str, Any]:
        return await _purge(services, drop_id, target)

    found = with_services(config, work)
    if as_json:
        print_json(found)
    else:
        for item in found["kept"]:
            say(f"{item['id']}: not removed: {item['why']}")
        if not found["kept"]:
            note(f"removed {found['removed']} uploads; the certificate is in {target}; {_BACKUPS}")
    if found["kept"]:
        if not as_json:
            note("no certificate was written; run the command again to go on")
        sys.exit(1)


async def _purge(services: Services, drop_id: str, target: Path) -> dict[str, Any]:
    from dropoff_tus.audit import Act, Event
    from dropoff_tus.errors import DropoffError
    from dropoff_tus.model import UploadState
    from storage.audit import sign_certificate

    # First, so that nothing comes while it goes; a running server ends what it is receiving.
    if not await services.catalog.set_closed(drop_id, closed=True, end_open=True):
        message = "there is no such drop-off; list them with `dropoff-tus drop list`"
        raise CommandError(message)
    # Concatenations before the parts that end with them.
    rows = sorted(await services.catalog.uploads(drop_id=drop_id), key=lambda row: row.final_id is not None)
    kept: list[dict[str, str]] = []
    removed: list[dict[str, Any]] = []
    with steps("shred", len(rows)) as advance:
        for row in rows:
            try:
                # A part has ended with its final meanwhile.
                present = await services.catalog.upload(row.id)
                if present is None or present.state is not UploadState.DELETED:
                    await services.uploads.delete(row.id)
                removed.append(await _tombstone(services, row))
            except DropoffError as error:
                kept.append({"id": row.id, "why": error.message})
            advance(1)
    if kept:
        return {"drop": drop_id, "removed": len(removed), "kept": kept, "certificate": None}
    payload = {
        "drop": drop_id,
        "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "uploads": removed,
        "bytes": sum(item["bytes"] for item in removed),
        "backups": _BACKUPS,
    }
    line = sign_certificate(payload, services.keys.signing)
    with new_file(target, replace=False) as file:
        file.write(line)
    digest = hashlib.sha256(line).hexdigest()
    await services.catalog.record(
        Event(Act.DROP_PURGE, drop_id, size_bytes=payload["bytes"], final=digest, count=len(removed))
    )
    return {"drop": drop_id, "removed": len(removed), "kept": [], "certificate": str(target), "sha256": digest}


async def _tombstone(services: Services, row: UploadRow) -> dict[str, Any]:
    """Return what the log still says of an upload whose keys and bytes are gone; the catalog, where there is no log."""
    from dropoff_tus.errors import UploadNotFoundError

    try:
        chain = await services.store.run(services.store.chain, row.id)
    except UploadNotFoundError:
        created = row.created_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"id": row.id, "bytes": row.size_bytes or 0, "created_at": created, "removed_at": None, "final": None}
    state = chain.state
    return {
        "id": row.id,
        "bytes": state.offset,
        "created_at": state.create["at"],
        "removed_at": state.last_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "final": state.final_hash,
    }


def verify(
    certificate: Annotated[str, typer.Argument(metavar="CERTIFICATE", help="A file with it; - is stdin.")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", metavar="K", help="The server's public key (`keys show`), or a file with it. Repeatable."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a certificate of erasure, offline, with the key that you were given by a way you trust.

    Example: dropoff-tus verify-certificate erasure.txt --key 3yI9…=
    """
    from storage.audit import verify_certificate
    from storage.keys import verifying_keys

    if not key:
        message = "--key is missing: give the server's public key, as `dropoff-tus keys show` prints it there"
        raise CommandError(message)
    keys = verifying_keys([key_text(text) for text in key], Path("/nonexistent"))
    payload = verify_certificate(signed_line(certificate), keys.signing)
    if payload is None:
        message = "the certificate was not signed by this key, or was changed since; do not rely on it"
        raise CommandError(message)
    if as_json:
        print_json({"certificate": payload})
        return
    for name, value in payload.items():
        say(f"{name}: {show(value if isinstance(value, str) else json.dumps(value))}")
    note("the signature is the server's")
