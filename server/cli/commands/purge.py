"""`drop purge`: erasing a drop-off's uploads, and the certificate of it."""

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.commands.drop import app
from server.cli.context import ConfigOption, DropId, JsonOption, YesOption, confirm
from server.cli.opening import with_services
from server.cli.output import CommandError, note, print_json, say, steps
from server.cli.target import STDOUT, check_output, output_file
from server.services import Services
from server.settings.config import Config
from server.usecases.operating.purging import BACKUPS, Purged
from storage.catalog.checkpoints import rows_between
from storage.failpoints import failpoint
from storage.keyring.lines import verify_certificate


@app.command()
def purge(
    drop_id: DropId,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="PATH",
            help="A new file for the certificate, or - for stdout; else erasure-ID.txt here.",
        ),
    ] = None,
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close a drop-off and shred all that it received: keys first, then bytes. There is no way back.

    Running uploads end, uploads that the catalog has lost are found in the store, and damaged ones go too.
    Tombstones stay (ids, sizes and times in signed logs, without content and names), and so does the drop-off itself.
    The certificate is a signed line that lists the removed uploads; it is written when nothing is left. If it is
    stopped, a second run goes on and lists everything. Copies in backups are not touched.

    Example: dropoff-tus drop purge 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --output erasure.txt
    """
    target = output or Path(f"erasure-{Path(drop_id).name}.txt")
    there = check_output(target, as_json=as_json)
    confirm("Shred everything of this drop-off? There is no way back", "shred", yes=yes, as_json=as_json)
    earlier = _certificate_in(target, drop_id) if there else None

    async def work(services: Services, _conf: Config) -> dict[str, Any]:
        return await _purge(services, drop_id, target, earlier)

    found = with_services(config, work)
    if as_json:
        print_json(found)
    else:
        for item in found["kept"]:
            say(f"{item['id']}: not removed: {item['why']}")
        _explain(found)
    if found["kept"]:
        if not as_json:
            note("no certificate was written; run the command again to go on")
        sys.exit(1)


def _explain(found: dict[str, Any]) -> None:
    if found["damaged"]:
        note(f"{found['damaged']} of them did not verify; they were shredded too, and the certificate says so")
    if found["unread"]:
        note(
            f"{len(found['unread'])} uploads in the store say of no drop-off and are in no catalog, so they were left; "
            "`dropoff-tus store check` names them"
        )
    if not found["kept"]:
        place = "on stdout" if found["certificate"] == STDOUT else f"in {found['certificate']}"
        note(f"removed {found['removed']} uploads; the certificate is {place}; {BACKUPS}")


def _certificate_in(target: Path, drop_id: str) -> bytes:
    """Return the certificate that an earlier run left.

    Raises:
        CommandError: Something else has the name.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        line = target.read_bytes()
        if json.loads(line.rpartition(b" ")[0])["drop"] == drop_id:
            return line
    raise CommandError(f"{target} exists already; name another file for the certificate. Nothing was changed")


async def _purge(services: Services, drop_id: str, target: Path, earlier: bytes | None) -> dict[str, Any]:
    with contextlib.ExitStack() as bars:
        purged = await services.purger.purge(drop_id, lambda total: bars.enter_context(steps("shred", total)))
    found: dict[str, Any] = {
        "drop": drop_id,
        "removed": len(purged.removed),
        "damaged": sum("damaged" in item for item in purged.removed),
        "unread": purged.unread,
        "kept": [{"id": upload_id, "why": why} for upload_id, why in purged.kept],
        "certificate": None,
    }
    if purged.kept:
        return found
    failpoint("before-certificate")
    if earlier is None:
        line = services.purger.certificate(purged)
        with output_file(target) as file:
            file.write(line)
        failpoint("after-certificate")
        digest = await services.purger.record(purged, line)
    else:
        line = earlier
        digest = await _adopt(services, purged, target, line)
    return {**found, "certificate": str(target), "sha256": digest}


async def _adopt(services: Services, purged: Purged, target: Path, line: bytes) -> str:
    """Keep the certificate of a run that was cut off behind it, if it lists what is listed now."""
    told = verify_certificate(line, services.keys.signing)
    if told is None or {item["id"] for item in told["uploads"]} != {item["id"] for item in purged.removed}:
        raise CommandError(
            f"everything was removed, but {target} is no certificate of all of it; run the command again with another "
            "--output for a new one"
        )
    digest = hashlib.sha256(line).hexdigest()
    async for rows in rows_between(services.catalog, 0, await services.catalog.audit_end()):
        if any(digest in text for _, text in rows):
            return digest
    return await services.purger.record(purged, line)
