"""`audit …`: who did what, and whether the record of it is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.context import ConfigOption, JsonOption, group, with_catalog
from server.cli.output import CommandError, note, print_json, say, steps
from server.cli.target import STDOUT, check_output, output_file

if TYPE_CHECKING:
    from dropoff_tus.model import Dropoff
    from server.config import Config
    from storage.audit import Checkpoint, Verifier
    from storage.catalog import SqlCatalog
    from storage.keys import SigningKey

app = group("Export and verify the audit: who did what, chained so that no row can be changed unseen.")
_PAGE_ROWS = 1000
Rows = list[tuple[int, str]]


def _signing_key(config: Config) -> SigningKey:
    from storage.keys import load_signing_key

    return load_signing_key(config.keys.signing_key)


async def _pages(catalog: SqlCatalog, since: int) -> AsyncIterator[Rows]:
    while page := await catalog.audit_rows(since, _PAGE_ROWS):
        yield page
        since = page[-1][0]


@app.command()
def export(
    since: Annotated[int, typer.Option("--since", metavar="N", help="Rows after this number only.", min=0)] = 0,
    output: Annotated[str, typer.Option("--output", metavar="PATH", help="A new file, or - for stdout.")] = STDOUT,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the audit, a row of JSON a line, and behind it a signed checkpoint of how far it goes.

    Keep the file on another machine: `audit verify --anchor FILE` shows later whether all of it is still there as it
    was, which nothing on this machine alone can. Rows hold ids, numbers and fixed words; docs/audit.md says which. With
    --json on stdout the rows are one JSON document.

    Example: dropoff-tus audit export --output audit-2026-03.jsonl
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        if output == STDOUT:
            rows: list[str] = []
            found = await _copy(catalog, _signing_key(conf), since, rows.append if as_json else say)
            return {"rows": [json.loads(row) for row in rows], **found}
        with output_file(output) as file:

            def write(line: str) -> None:
                file.write(line.encode() + b"\n")

            found = await _copy(catalog, _signing_key(conf), since, write)
            write(found["checkpoint"])
        return {"output": output, **found}

    check_output(output, as_json=False)
    found = with_catalog(config, work)
    if as_json:
        print_json(found)
    elif output == STDOUT:
        say(found["checkpoint"])
    else:
        note(f"{found['count']} rows in all, the last with the hash {found['hash']}")


async def _copy(catalog: SqlCatalog, key: SigningKey, since: int, write: Callable[[str], None]) -> dict[str, Any]:
    """Write the rows, checked as far as can be seen from here; return the checkpoint."""
    from dropoff_tus.audit import AuditBrokenError, Chain
    from storage.audit import Verifier, sign_checkpoint

    chain = await catalog.audit_end()
    if since > chain.count:
        message = f"there are {chain.count} rows only; give --since a smaller number"
        raise CommandError(message)
    verifier = Verifier(key)
    if since:
        # What is before stands or falls with the exports that have it.
        verifier.chain = Chain.at(*(await catalog.audit_rows(since - 1, 1))[0])
    try:
        async for page in _pages(catalog, since):
            verifier.follow(page)
            for _, text in page:
                write(text)
    except AuditBrokenError as error:
        message = f"{error}; no checkpoint was signed. `dropoff-tus audit verify` says more"
        raise CommandError(message) from None
    chain = verifier.chain
    return {
        "count": chain.count,
        "hash": chain.last,
        "checkpoint": sign_checkpoint(chain.count, chain.last, datetime.now(UTC), key),
    }


@app.command()
def verify(
    anchor: Annotated[
        list[Path] | None,
        typer.Option("--anchor", metavar="FILE", help="An earlier export, which must still be in it. Repeatable."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every row against the one before, the server's own checkpoints, and earlier exports; exits with 1 if not.

    Removed, changed and moved rows are found, and drop-offs and API tokens that are not what was recorded last: earlier
    terms that were put back, say. Rows cut off at the end, or written anew by someone with the
    server's key, show against an export that was kept elsewhere.

    Example: dropoff-tus audit verify --anchor audit-2026-03.jsonl
    """
    from dropoff_tus.audit import AuditBrokenError
    from storage.audit import Verifier

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        key = _signing_key(conf)
        verifier = Verifier(key, [_anchor(path, key) for path in anchor or ()])
        total = (await catalog.audit_end()).count
        problem: str | None = None
        changed: list[str] = []
        revived: list[str] = []
        try:
            with steps("verify", total) as advance:
                async for page in _pages(catalog, 0):
                    verifier.follow(page)
                    advance(len(page))
            changed, revived = await _changed(catalog, verifier)
            verifier.finish()
        except AuditBrokenError as error:
            problem = str(error)
        return {
            "whole": problem is None,
            "problem": problem,
            "changed_drops": changed,
            "revived_tokens": revived,
            "rows": verifier.chain.count,
            "hash": verifier.chain.last,
            "checkpoints": verifier.checkpoints,
        }

    found = with_catalog(config, work)
    if as_json:
        print_json(found)
    elif found["problem"] is None:
        say(f"{found['rows']} rows, each follows the one before; {found['checkpoints']} checkpoints agree")
    if found["problem"] is not None and not as_json:
        message = f"the audit is not what was written: {found['problem']}"
        raise CommandError(message)
    if found["changed_drops"] and not as_json:
        message = (
            "these drop-offs are not what was recorded last, so somebody changed the database; look at them with `drop "
            f"show`, and sign what is to hold with `drop edit --confirm`: {', '.join(found['changed_drops'])}"
        )
        raise CommandError(message)
    if found["revived_tokens"] and not as_json:
        message = (
            "the database says no more that these API tokens were revoked, so somebody changed it; the server refuses "
            f"them: {', '.join(found['revived_tokens'])}"
        )
        raise CommandError(message)
    if found["problem"] is not None or found["changed_drops"] or found["revived_tokens"]:
        sys.exit(1)


async def _changed(catalog: SqlCatalog, verifier: Verifier) -> tuple[list[str], list[str]]:
    """Return the drop-offs and the API tokens that are not what was signed, or not what the audit recorded last."""
    while True:
        before, dropoffs, tokens = verifier.chain.count, await catalog.dropoffs(), await catalog.tokens()
        # What is changed at this moment has a row that was not read yet.
        async for page in _pages(catalog, before):
            verifier.follow(page)
        if verifier.chain.count == before:
            drops = [drop.id for drop in dropoffs if not _is_as_recorded(drop, verifier)]
            revived = [one.id for one in tokens if one.revoked_at is None and one.id in verifier.revoked]
            return drops, revived


def _is_as_recorded(drop: Dropoff, verifier: Verifier) -> bool:
    from dropoff_tus.audit import policy_hash
    from dropoff_tus.errors import PolicyTamperedError
    from storage.keys import ServerKeys

    try:
        ServerKeys(verifier.key, b"", (), Path()).verify_policy(drop.id, drop.policy)
    except PolicyTamperedError:
        return False
    recorded = verifier.policies.get(drop.id)
    return policy_hash(drop.policy) == recorded and drop.closed == verifier.closed.get(drop.id, False)


def _anchor(path: Path, key: SigningKey) -> Checkpoint:
    """Return the checkpoint of an earlier export: its last line, or that of a JSON document."""
    from dropoff_tus.text import decode_text
    from storage.audit import read_checkpoint

    last = b""
    try:
        with path.open("rb") as file:
            for raw in file:
                last = raw if raw.strip() else last
            line = decode_text(last)
            if line.strip() == "}":
                file.seek(0)
                line = str(json.loads(decode_text(file.read())).get("checkpoint"))
    except (json.JSONDecodeError, RecursionError):
        message = f"cannot read the anchor {path}: it is no export"
        raise CommandError(message) from None
    except (OSError, ValueError) as error:
        message = f"cannot read the anchor {path}: {getattr(error, 'strerror', None) or f'it {error}'}"
        raise CommandError(message) from None
    found = read_checkpoint(line, key)
    if found is None:
        message = f"{path} does not end in a checkpoint that this server signed; name a file of `audit export`"
        raise CommandError(message)
    return found
