"""`store …`: verify and clean what is stored."""

import asyncio
import contextlib
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from dropoff_tus.audit import MOST_NAMED, Act, Event, acting
from dropoff_tus.errors import DropoffError
from dropoff_tus.model import Task
from server.cli.context import (
    ConfigOption,
    IdentityOption,
    JsonOption,
    KeyOption,
    StoreOption,
    YesOption,
    confirm,
    group,
    parsed,
)
from server.cli.opening import (
    copied_store,
    find_upload,
    identities_in,
    operator,
    public_key_texts,
    silence_logs,
    with_catalog,
    with_services,
)
from server.cli.output import CommandError, answer, note, print_json, progress, say, steps
from server.places import check_whose
from server.services import Services, identify_store, settle_restore, store_settings
from server.settings.config import Config, load_config
from server.settings.units import parse_duration, stamp
from server.usecases.operating.adopting import Adopter, Adoption
from server.usecases.operating.comparing import compare
from server.usecases.operating.sweeping import Sweep, Sweeper
from storage.catalog import SqlCatalog, open_catalog
from storage.files.marker import check_store as identify_alone
from storage.keyring.keys import ServerKeys, verifying_keys
from storage.open import FileStore
from storage.uploads.maintenance.check import Depth, Finding, check_store, stored_bytes

app = group("Verify and clean the store.")
_LEAST_AGE_SECONDS = 600.0
_TOLD = ("upload_id", "problem", "ciphertext_bytes")
"""Of a finding, with --json."""


@app.command()
def check(
    upload: Annotated[
        str | None, typer.Argument(metavar="[UPLOAD]", help="One upload; else all.", show_default=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read only logs, envelopes and receipts.")] = False,
    identity: IdentityOption = None,
    key: KeyOption = None,
    store_copy: StoreOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the store, and that the catalog agrees with it. Exits with 1 on any finding. Mends nothing.

    Reads every byte of ciphertext and every signature, for which it needs no secret key. --quick reads only the signed
    logs, envelopes and receipts. With --identity everything is decrypted too, in memory, and compared with the digests
    of the receipts. A copy elsewhere is verified with --store, without catalog and configuration. The audit has a row
    of the check, and one of each upload with a finding; a check of all uploads is noted for `/metrics`, too.

    Example: dropoff-tus store check --identity root-identity.txt
    """
    silence_logs()
    identities = tuple(identities_in(identity))
    loaded: Config | None = None
    if store_copy is not None:
        settings, keys = copied_store(store_copy, key or [])
    else:
        loaded = load_config(config)
        settings, keys = store_settings(loaded), public_keys(loaded, key or [])
    ran, began_at = Task.QUICK_CHECK if quick else Task.CHECK, datetime.now(UTC)

    async def work() -> list[Finding]:
        # Only reading needs no syncs.
        store = FileStore(replace(settings, durability="os"), keys)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            if loaded is None:
                catalog = None
                identify_alone(store.layout, None)
            else:
                check_whose(loaded)
                catalog = await stack.enter_async_context(open_catalog(loaded.catalog.url))
                await identify_store(loaded, catalog, adopt=False)
            one = await find_upload(catalog, store, upload) if upload else None
            ids = await store.upload_ids() if one is None else [one, *await _parts(store, one)]
            if one is not None:
                # The comparison reports uploads without a folder.
                ids = [upload_id for upload_id in ids if store.here(upload_id).folder]
            with progress("check", 0 if quick else await stored_bytes(store, ids)) as advance:
                depth = Depth(quick, identities, advance)
                findings = [finding async for finding in check_store(store, ids, depth)]
            known = {finding.upload_id for finding in findings if finding.problem is not None}
            checked = {finding.upload_id: finding.stored for finding in findings if finding.stored is not None}
            apart = {} if catalog is None else await compare(catalog, store, one, checked)
            findings += [Finding(found, problem) for found, problem in apart.items() if found not in known]
            if catalog is not None:
                await _record(catalog, findings, one, ran, began_at, decrypted=bool(identities))
            return findings

    findings = asyncio.run(work())
    bad = [finding for finding in findings if finding.problem is not None]
    checked = len({finding.upload_id for finding in findings})
    if as_json:
        total = sum(finding.ciphertext_bytes for finding in findings)
        told = [{name: getattr(finding, name) for name in _TOLD} for finding in bad]
        print_json({"checked": checked, "bytes": total, "findings": told})
    else:
        for finding in bad:
            say(f"{finding.upload_id}: {finding.problem}")
        note(f"{checked} uploads checked, {len(bad)} with findings")
    if bad:
        sys.exit(1)


async def _record(
    catalog: SqlCatalog, findings: list[Finding], one: str | None, ran: Task, began_at: datetime, *, decrypted: bool
) -> None:
    """Record a check in the audit: a row of the run, and one of each upload with a finding, of very many for some."""
    how = "quick" if ran is Task.QUICK_CHECK else "plaintext" if decrypted else "ciphertext"
    checked = len({finding.upload_id for finding in findings})
    bad = sorted({finding.upload_id for finding in findings if finding.problem is not None})
    run = Event(Act.STORE_CHECK, upload_id=one, result=how, count=checked, began_at=began_at, findings=len(bad))
    named = [found for found in bad if found != one][:MOST_NAMED]
    rows = [Event(Act.STORE_CHECK, upload_id=found, result="finding", began_at=began_at) for found in named]
    # The findings are to be told even where the catalog cannot be written.
    with contextlib.suppress(DropoffError), acting(operator):
        await catalog.record(run, *rows)
        if one is None:
            await catalog.note_run(ran, datetime.now(UTC), len(bad))


async def _parts(store: FileStore, upload_id: str) -> tuple[str, ...]:
    """Return the parts of a concatenation, in which its bytes are."""
    try:
        return (await store.stat(upload_id)).parts
    except DropoffError:
        return ()  # the check itself says what is wrong


def public_keys(config: Config, texts: list[str]) -> ServerKeys:
    """Return keys that verify and do nothing else: those given, else the public ones of the server's signing key."""
    return verifying_keys(public_key_texts(str(config.keys.signing_key), texts), config.keys.ingest_dir)


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    min_age: Annotated[
        str, typer.Option("--min-age", metavar="T", help="The least age of an upload that the catalog does not know.")
    ] = "1h",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove expired uploads, those past their retention, leftovers of ended ones, and empty unknown ones.

    Safe beside a running server, which does the first two by itself. Finished uploads go only when their drop-off keeps
    them no longer (`drop create --retain`); begun and unreadable ones never. --dry-run lists them.

    Example: dropoff-tus store sweep --dry-run
    """
    age = parsed(parse_duration, min_age, "--min-age")
    if age < _LEAST_AGE_SECONDS:
        message = "--min-age must be 10m or more: a younger upload may be a creation that has not come to its end"
        raise CommandError(message)

    async def plan(services: Services, _conf: Config) -> Sweep:
        clock_problem = services.uploads.trusted_time.problem
        if clock_problem is not None:
            note(clock_problem)
        with contextlib.ExitStack() as bars:
            begin = lambda total: bars.enter_context(steps("look", total))  # noqa: E731
            return await Sweeper(services.store, services.uploads, age).plan(begin)

    async def execute(services: Services, _conf: Config) -> Sweep:
        return await Sweeper(services.store, services.uploads, age).execute(planned)

    planned = done = with_services(config, plan, reading=True)
    if not dry_run:
        done = with_services(config, execute)
    if as_json:
        _print_sweep(done, dry_run=dry_run)
        return
    for item in done.items:
        say(f"{item.upload_id}  {item.why}")
    for upload_id, reason in done.kept:
        note(f"{upload_id} stays: {reason}")
    note(f"{'would remove' if dry_run else 'removed'} {len(done.items)}")


def _print_sweep(done: Sweep, *, dry_run: bool) -> None:
    answer: dict[str, Any] = {"dry_run": dry_run}
    names = {"expired": "expired", "retention": "retention", "leftovers": "leftover", "orphans": "orphan"}
    for name, why in names.items():
        answer[name] = [item.upload_id for item in done.items if item.why == why]
    answer["kept"] = [{"id": upload_id, "reason": reason} for upload_id, reason in done.kept]
    print_json(answer)


@app.command()
def adopt(
    restored: Annotated[
        bool,
        typer.Option(
            "--restored", help="The catalog was restored from a copy that `backup` did not make: keep back its events."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken back.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back uploads that the store has and the catalog lacks, after an older catalog was restored.

    Finished ones are complete again, those in progress can go on. A drop-off that is gone too is made again under its
    id, closed and with a code that nobody has; its name and terms are lost. Neither webhook nor mail tells of them.
    Events that waited in a restored catalog are kept back: `outbox list --dead` shows them, `outbox resend` sends
    them. Exits with 1 if an upload could not be taken back whole.

    Example: dropoff-tus store adopt --dry-run
    """

    async def work(services: Services, conf: Config) -> tuple[Adoption, int | None]:
        held = None if dry_run else await settle_restore(conf, services.catalog, restored=restored)
        adopter = Adopter(services.store, services.uploads, services.dropoffs)
        return await adopter.execute(await adopter.plan(), dry_run=dry_run), held

    done, held = with_services(config, work, telling=False)
    if as_json:
        found = [
            {"id": one.id, "drop_id": one.drop_id, "state": None if state is None else state.value, "bytes": one.offset}
            for one, state in done.uploads
        ]
        kept = [{"id": upload_id, "reason": reason} for upload_id, reason in done.kept]
        print_json({"dry_run": dry_run, "adopted": found, "drops": done.drops, "kept": kept, "held_events": held})
    else:
        for one, state in done.uploads:
            say(f"{one.id}  {one.drop_id}  {one.offset} bytes  {'' if state is None else state.value}".rstrip())
        for drop_id in done.drops:
            note(f"drop-off {drop_id} {'would be' if dry_run else 'was'} made again, closed: `drop edit` names it")
        for upload_id, reason in done.kept:
            note(f"{upload_id}: {reason}")
        if held:
            note(f"{held} events that waited are kept back; see `dropoff-tus outbox list --dead`")
        note(f"{'would take' if dry_run else 'took'} back {len(done.uploads)}")
    if done.kept:
        sys.exit(1)


@app.command()
def trust_clock(
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that this machine's clock is right, so that uploads end by time again.

    A server notes the time while it runs. If the clock is more than three days past that, it may have jumped, so
    nothing ends until the clock is set right, or you run this: after a server was off for that long, for instance, or
    its catalog was restored from a backup. Look at the clock first. A running server follows within a minute.

    Example: dropoff-tus store trust-clock
    """
    now = datetime.now(UTC)
    question = f"The clock says {stamp(now)}. Is that right? Uploads that are too old by it end"
    confirm(question, "trust the clock", yes=yes, as_json=as_json)

    async def work(catalog: SqlCatalog, _conf: Config) -> datetime | None:
        before = await catalog.noted_time()
        await catalog.record(Event(Act.CLOCK_TRUST))
        await catalog.note_time(now)
        return before

    before = with_catalog(config, work)
    answer({"trusted": stamp(now), "before": stamp(before)}, f"trusted: {stamp(now)}", as_json=as_json)
