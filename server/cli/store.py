"""`store …`: verify and clean what is stored."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.context import ConfigOption, JsonOption, find_upload, group, with_services
from server.cli.output import note, print_json, say

if TYPE_CHECKING:
    from server.config import Config
    from server.services import Services
    from storage.check import Finding

app = group("Verify and clean the store.")


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
