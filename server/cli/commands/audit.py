"""`audit …`: export and verify the record of who did what."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from dropoff_tus.audit import Act, AuditBrokenError, Event, terms_hash
from dropoff_tus.errors import PolicyTamperedError
from dropoff_tus.model import Dropoff
from dropoff_tus.text import canonical, decode_text
from server.cli.context import ConfigOption, JsonOption, YesOption, confirm, group
from server.cli.opening import with_catalog
from server.cli.output import CommandError, answer, note, print_json, say, steps
from server.cli.target import STDOUT, check_output, output_file
from server.services import identify_store
from server.settings.config import Config
from storage.catalog import SqlCatalog
from storage.catalog.checkpoints import Checkpoints, rows_between
from storage.catalog.verifier import Checkpoint, Verifier, read_checkpoint
from storage.keyring.keys import ServerKeys
from storage.keyring.signing import SigningKey, load_signing_key

app = group("Export and verify the audit: who did what, signed so that no row can be changed unseen.")
_SIGNED_WITHIN = timedelta(minutes=10)
"""A server signs each minute; rows that are older than this were signed, or no server has run."""


async def _open(catalog: SqlCatalog, config: Config) -> tuple[Verifier, Checkpoints]:
    """Return what verifies and what signs, once the folder of keys is known to be the catalog's."""
    await identify_store(config, catalog, adopt=False)
    key = load_signing_key(config.keys.signing_key)
    return Verifier(key), Checkpoints(catalog, key, Path(config.store.keys_dir))


@app.command()
def export(
    since: Annotated[int, typer.Option("--since", metavar="N", help="Rows after this number only.", min=0)] = 0,
    output: Annotated[str, typer.Option("--output", metavar="PATH", help="A new file, or - for stdout.")] = STDOUT,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the audit, a row of JSON a line, and at the end the signed checkpoint of the last row.

    Keep the file on another machine: `audit verify --anchor FILE` shows later whether all of it is still there as it
    was, which nothing on this machine can show by itself. Rows hold ids, numbers and fixed words; docs/operate/audit.md
    says which. With --json on stdout the rows are one JSON document.

    Example: dropoff-tus audit export --output audit-2026-03.jsonl
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        if output == STDOUT:
            rows: list[str] = []
            found = await _copy(catalog, conf, since, rows.append if as_json else say)
            return {"rows": [json.loads(row) for row in rows], **found}
        with output_file(output) as file:

            def write(line: str) -> None:
                file.write(line.encode() + b"\n")

            found = await _copy(catalog, conf, since, write)
            write(found["checkpoint"])
        return {"output": output, **found}

    check_output(output, as_json=False)
    found = with_catalog(config, work)
    if as_json:
        print_json(found)
    elif output == STDOUT:
        say(found["checkpoint"])
    else:
        note(f"{found['count']} rows in all, the last is {found['last']}; the checkpoint has the hash {found['hash']}")


async def _copy(catalog: SqlCatalog, conf: Config, since: int, write: Callable[[str], None]) -> dict[str, Any]:
    verifier, checkpoints = await _open(catalog, conf)

    def copy(page: list[tuple[int, str]]) -> None:
        for seq, text in page:
            if seq > since:
                write(canonical({"seq": seq, **json.loads(text)}))

    last = await catalog.audit_end()
    if since > last:
        raise CommandError(f"the last row is {last}; give --since a smaller number")
    try:
        async for page in checkpoints.verify(verifier):
            copy(page)
        signed = await checkpoints.sign()
    except AuditBrokenError as error:
        raise CommandError(f"{error}; no checkpoint was signed. `dropoff-tus audit verify` says more") from None
    if signed is None:
        raise CommandError("the audit has no row yet, so there is nothing to export")
    async for page in rows_between(catalog, verifier.seq, signed.to):
        verifier.follow(page)
        copy(page)
    return {"count": verifier.count, "last": signed.to, "hash": signed.hash, "checkpoint": signed.line}


@app.command()
def verify(
    anchor: Annotated[
        list[Path] | None,
        typer.Option("--anchor", metavar="FILE", help="An earlier export, which must still be in it. Repeatable."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every row with the signed checkpoints and with earlier exports; exits with 1 if one does not agree.

    It finds removed, changed and moved rows, and drop-offs and API tokens that differ from the last record, such as
    restored earlier terms. Rows of the last minute are not signed yet. An export that was kept elsewhere shows rows
    rewritten with the server's key, and folders restored together with the database.

    Example: dropoff-tus audit verify --anchor audit-2026-03.jsonl
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        verifier, checkpoints = await _open(catalog, conf)
        anchors = [(str(path), _anchor(path, verifier.key)) for path in anchor or ()]
        problem = await _problem(catalog, verifier, checkpoints, *anchors)
        changed, revived = ([], []) if problem is not None else await _changed(catalog, verifier)
        return {
            "whole": problem is None,
            "problem": problem,
            "changed_drops": changed,
            "revived_tokens": revived,
            "rows": verifier.count,
            "unsigned": verifier.unsigned.count,
            "hash": None if verifier.last is None else verifier.last.hash,
            "checkpoints": verifier.checkpoints,
        }

    found = with_catalog(config, work)
    if as_json:
        print_json(found)
    elif found["problem"] is None:
        signed = f"{found['rows']} rows, as {found['checkpoints']} checkpoints say"
        say(f"{signed}; {found['unsigned']} came since the last one")
    if found["problem"] is not None and not as_json:
        raise CommandError(f"the audit was changed: {found['problem']}")
    if found["changed_drops"] and not as_json:
        raise CommandError(
            "these drop-offs differ from the last record, so somebody changed the database; look at them with `drop "
            f"show`, and sign the right terms with `drop edit --confirm`: {', '.join(found['changed_drops'])}"
        )
    if found["revived_tokens"] and not as_json:
        raise CommandError(
            "the database lacks the revocation of these API tokens, so somebody changed it; the server refuses "
            f"them: {', '.join(found['revived_tokens'])}"
        )
    if found["problem"] is not None or found["changed_drops"] or found["revived_tokens"]:
        sys.exit(1)


@app.command()
def accept(
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign all rows as they are, if `audit verify` says that they were changed.

    Until then the server signs no checkpoint. Find out first what happened: somebody may have changed the database, or
    restored it from a backup. The audit then begins with the accepted rows, and has a row with your name; earlier
    exports no longer verify, so keep them. A running server follows within a minute.

    Example: dropoff-tus audit accept
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        verifier, checkpoints = await _open(catalog, conf)
        problem = await _problem(catalog, verifier, checkpoints)
        if problem is None:
            return {"accepted": None, "problem": None}
        note(problem)
        confirm("Sign the rows as they are", "sign them as they are", yes=yes, as_json=as_json)
        await catalog.record(Event(Act.AUDIT_ACCEPT))
        accepted = await checkpoints.accept()
        return {"accepted": None if accepted is None else accepted.number, "problem": problem}

    found = with_catalog(config, work)
    done = f"accepted, with checkpoint {found['accepted']}"
    whole = "the audit is whole, so there is nothing to accept"
    answer(found, whole if found["problem"] is None else done, as_json=as_json)


async def _problem(
    catalog: SqlCatalog, verifier: Verifier, checkpoints: Checkpoints, *anchors: tuple[str, Checkpoint]
) -> str | None:
    """Follow the whole audit; say what is wrong with it, or None."""
    try:
        with steps("verify", await catalog.audit_end()) as advance:
            async for page in checkpoints.verify(verifier, *anchors):
                advance(len(page))
    except AuditBrokenError as error:
        return str(error)
    if verifier.last is None and verifier.began is not None and _is_old(verifier.began):
        return (
            f"no checkpoint was ever signed, although the first row is of {verifier.began}; a server that runs signs "
            "one each minute, and `audit export` does"
        )
    return None


def _is_old(at: str) -> bool:
    try:
        return abs(datetime.now(UTC) - datetime.fromisoformat(at)) > _SIGNED_WITHIN
    except (TypeError, ValueError):
        return True


async def _changed(catalog: SqlCatalog, verifier: Verifier) -> tuple[list[str], list[str]]:
    """Return the drop-offs and the API tokens that are not what was signed, or not what the audit recorded last."""
    while True:
        before, dropoffs, tokens = verifier.count, await catalog.dropoffs(), await catalog.tokens()
        # A change at this moment has a row that was not read yet.
        async for page in rows_between(catalog, verifier.seq, await catalog.audit_end()):
            verifier.follow(page)
        if verifier.count == before:
            drops = [drop.id for drop in dropoffs if not _is_as_recorded(drop, verifier)]
            revived = [one.id for one in tokens if one.revoked_at is None and one.id in verifier.revoked]
            return drops, revived


def _is_as_recorded(drop: Dropoff, verifier: Verifier) -> bool:
    try:
        ServerKeys(verifier.key, b"", (), Path()).verify_terms(drop)
    except PolicyTamperedError:
        return False
    recorded = verifier.policies.get(drop.id)
    return terms_hash(drop) == recorded and drop.closed == verifier.closed.get(drop.id, False)


def _anchor(path: Path, key: SigningKey) -> Checkpoint:
    """Return the checkpoint of an earlier export: its last line, or that of a JSON document."""
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
        raise CommandError(f"cannot read the anchor {path}: it is no export") from None
    except (OSError, ValueError) as error:
        message = f"cannot read the anchor {path}: {getattr(error, 'strerror', None) or f'it {error}'}"
        raise CommandError(message) from None
    found = read_checkpoint(line, key)
    if found is None:
        message = f"{path} does not end in a checkpoint that this server signed; name a file of `audit export`"
        raise CommandError(message)
    return found
