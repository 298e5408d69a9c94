"""`store …` and `keys …`."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.context import ConfigOption, JsonOption, find_upload, group, with_services
from server.cli.output import CommandError, note, print_json, say

if TYPE_CHECKING:
    from server.config import Config
    from server.services import Services
    from storage.check import Finding

app = group("Verify and clean the store.")
keys_app = group("Make keys, and show the public one.")


@app.command()
def check(
    upload: Annotated[str | None, typer.Argument(metavar="[UPLOAD]", help="One upload; else all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The signed logs alone, not every byte.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read and verify every byte of ciphertext, with no key. Exits with 1 on any finding.

    Example: dropoff-tus store check --quick
    """
    from storage.check import check_store

    async def work(services: Services, _conf: Config) -> list[Finding]:
        ids = [await find_upload(services, upload)] if upload else await services.store.upload_ids()
        return [finding async for finding in check_store(services.store, ids, quick=quick)]

    findings = with_services(config, work)
    bad = [finding for finding in findings if finding.problem is not None]
    if as_json:
        answer: dict[str, Any] = {
            "checked": len(findings),
            "bytes": sum(finding.ciphertext_bytes for finding in findings),
            "findings": [asdict(finding) for finding in bad],
        }
        print_json(answer)
    else:
        for finding in bad:
            say(f"{finding.upload_id}: {finding.problem}")
        note(f"{len(findings)} uploads checked, {len(bad)} with findings")
    if bad:
        sys.exit(1)


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End what has expired, and remove files of uploads that the catalog does not know and that hold no byte.

    Example: dropoff-tus store sweep --dry-run
    """
    from dropoff_tus.errors import DropoffError
    from dropoff_tus.model import Role

    async def work(services: Services, _conf: Config) -> dict[str, Any]:
        orphans: list[str] = []
        for upload_id in await services.store.upload_ids():
            if await services.catalog.upload(upload_id) is not None:
                continue
            # Damaged, finished or begun uploads are never removed, whatever the catalog says: they may be all there is.
            with suppress(DropoffError):
                stored = await services.store.stat(upload_id)
                if stored.offset == 0 and not stored.final and stored.role is not Role.FINAL and not stored.parts:
                    orphans.append(upload_id)
        expired = 0
        if not dry_run:
            for upload_id in orphans:
                await services.store.forget(upload_id)
            expired = await services.uploads.expire()
        return {"dry_run": dry_run, "orphans": orphans, "expired": expired}

    done = with_services(config, work)
    if as_json:
        print_json(done)
    else:
        say(f"{'would remove' if dry_run else 'removed'} {len(done['orphans'])} orphans, expired {done['expired']}")


@keys_app.command()
def generate(
    output: Annotated[Path, typer.Option("--output", help="A new file for the identity.", show_default=False)],
    key_type: Annotated[str, typer.Option(help="hybrid (post-quantum) or x25519.")] = "hybrid",
    as_json: JsonOption = False,
) -> None:
    """Make an age identity in a file of yours alone, and print its recipient.

    Example: dropoff-tus keys generate --output root-identity.txt
    """
    if key_type not in {"hybrid", "x25519"}:
        message = "--key-type must be hybrid or x25519"
        raise CommandError(message)
    from storage.keys import generate_root_identity

    recipient = generate_root_identity(output, key_type)
    if as_json:
        print_json({"identity_file": str(output), "recipient": recipient})
    else:
        say(recipient)
