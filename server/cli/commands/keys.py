"""`keys generate` and `keys rotate`."""

import base64
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from dropoff_tus.audit import Act, Event
from server.cli.context import ConfigOption, JsonOption, group
from server.cli.opening import check_drop, find_upload, with_catalog, with_services
from server.cli.output import CommandError, note, print_json, say, steps
from server.cli.target import STDOUT, check_output, output_file
from server.services import Services, identify_store, store_settings
from server.settings.config import Config, load_config
from server.usecases.operating.rotating import RootRotation
from storage.keyring.identities import check_recipients, new_root_identity, read_identity_file
from storage.keyring.rotation import hold_store
from storage.keyring.signing import key_id, load_signing_key
from storage.open import SigningRotation
from storage.uploads.maintenance.rotation import Handed, Outcome, Rewrapped

app = group("Make, show and rotate keys.")


@app.command()
def generate(
    output: Annotated[
        str,
        typer.Option(
            "--output", metavar="PATH", help="A new file for the identity, or - for stdout.", show_default=False
        ),
    ],
    key_type: Annotated[str, typer.Option(help="hybrid (post-quantum) or x25519.")] = "hybrid",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an age identity in a file only for you, and print its recipient; on stderr if the identity is on stdout.

    The recipient goes into keys.root_recipients or --recipient; the file opens uploads and belongs on another machine.

    Example: dropoff-tus keys generate --output root-identity.txt
    """
    del config  # taken by every command; nothing of it is needed here
    if key_type not in {"hybrid", "x25519"}:
        raise CommandError("--key-type must be hybrid or x25519")
    check_output(output, as_json=as_json)
    text, recipient = new_root_identity(key_type)
    with output_file(output) as file:
        file.write(text.encode("ascii"))
    if as_json:
        print_json({"identity_file": output, "recipient": recipient})
    elif output == STDOUT:
        note(recipient)
    else:
        say(recipient)


@app.command("show")
def show_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the public key that signs receipts and logs, to pin; nothing secret.

    Give it to the people who verify receipts, by a way they trust. After a rotation older receipts still verify with
    the key of their time, which --json lists as retired.

    Example: dropoff-tus keys show > signing-key.pub
    """
    loaded = load_config(config)
    signing = load_signing_key(loaded.keys.signing_key)
    shown = _public_key(signing.public_bytes)
    if as_json:
        retired = [_public_key(raw) for raw in signing.retired]
        print_json({**shown, "retired": retired, "recipients": list(loaded.keys.root_recipients)})
        return
    say(shown["key"])
    note(f"public signing key {signing.id}; for `dropoff-tus verify-receipt --key`")


def _public_key(raw: bytes) -> dict[str, str]:
    return {"id": key_id(raw), "key": base64.b64encode(raw).decode("ascii")}


@app.command()
def rotate(
    upload: Annotated[str | None, typer.Argument(metavar="[UPLOAD]", help="One upload; else all.")] = None,
    drop: Annotated[str | None, typer.Option("--drop", help="Only the uploads of this drop-off.")] = None,
    identity: Annotated[
        list[Path] | None,
        typer.Option("--identity", help="A root identity that opens uploads now; sealed ones need it. Repeatable."),
    ] = None,
    signing: Annotated[bool, typer.Option("--signing", help="Rotate the server's signing key instead.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="With --signing: a new file, if the key does not come from a file."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wrap the envelopes of uploads for the present root recipients, or change the signing key.

    Roots: write the new list into keys.root_recipients, restart the server, then run this; the server may go on.
    Uploads of a drop-off with recipients of its own are wrapped for those. Sealed uploads need --identity. Exits with 1
    if any was skipped, and says why. If it is stopped, a second run goes on.

    Signing key: stop the server, run `keys rotate --signing`, start it. Signatures of the old key stay valid.

    Example: dropoff-tus keys rotate --identity old-root-identity.txt
    """
    if signing:
        if upload or drop or identity:
            message = "--signing is for all uploads and needs no identity; leave UPLOAD, --drop and --identity out"
            raise CommandError(message)
        _rotate_signing(config, output, dry_run=dry_run, as_json=as_json)
        return
    if output is not None:
        raise CommandError("--output belongs to --signing")
    identities = [text for path in identity or () for text in read_identity_file(path)]

    async def work(services: Services, conf: Config) -> list[Rewrapped]:
        check_recipients(conf.keys.root_recipients)
        ids = await _chosen(services, upload, drop)
        with services.store.rewrapper(identities, dry_run=dry_run) as rewrapper:
            if not dry_run:
                await services.catalog.record(Event(Act.KEYS_ROTATE, drop, result="roots", count=len(ids)))
            found = []
            rotation = RootRotation(services.store, services.catalog, conf.keys.root_recipients)
            with steps("re-wrap", len(ids)) as advance:
                async for wrapping in rotation.plan(ids):
                    found.append(
                        await services.store.run(rewrapper.rewrap, wrapping.upload_id, wrapping.recipients)
                        if wrapping.why is None
                        else Rewrapped(wrapping.upload_id, Outcome.SKIPPED, wrapping.why)
                    )
                    advance(1)
            return found

    _report_roots(with_services(config, work), dry_run=dry_run, as_json=as_json)


async def _chosen(services: Services, upload: str | None, drop: str | None) -> list[str]:
    """Return the ids to rotate; a concatenation comes with its parts."""
    if upload is not None and drop is not None:
        raise CommandError("give UPLOAD or --drop, not both")
    if upload is not None:
        found = await find_upload(services.catalog, services.store, upload)
        return [found, *(await services.store.stat(found)).parts]
    if drop is None:
        return await services.store.upload_ids()
    await check_drop(services.catalog, drop)
    return [row.id for row in await services.catalog.uploads(drop_id=drop)]


def _report_roots(done: list[Rewrapped], *, dry_run: bool, as_json: bool) -> None:
    counts = Counter(item.outcome for item in done)
    skipped = [item for item in done if item.outcome is Outcome.SKIPPED]
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                **{outcome.value: counts[outcome] for outcome in Outcome if outcome is not Outcome.SKIPPED},
                "skipped": [{"id": item.upload_id, "why": item.why} for item in skipped],
            }
        )
    else:
        for item in skipped:
            say(f"{item.upload_id}: skipped: {item.why}")
        would = "would be " if dry_run else ""
        say(f"{would}re-wrapped {counts[Outcome.REWRAPPED]}, current {counts[Outcome.CURRENT]}, skipped {len(skipped)}")
    if skipped:
        sys.exit(1)


def _rotate_signing(config: Path | None, output: Path | None, *, dry_run: bool, as_json: bool) -> None:
    if output is not None:
        _check_key_file(output)
    loaded = load_config(config)
    settings = store_settings(loaded)
    # With another folder in its place the old key would retire, and what it signed would stay behind.
    with_catalog(config, lambda catalog, conf: identify_store(conf, catalog, adopt=not dry_run))
    with hold_store(settings.root, alone=True):
        rotation = SigningRotation(settings, loaded.keys.ingest_dir, loaded.keys.signing_key, output)
        if not dry_run:
            event = Event(Act.KEYS_ROTATE, result="signing")
            with_catalog(config, lambda catalog, _conf: catalog.record(event))
        try:
            reports = _hand_over(rotation, dry_run=dry_run)
        except OSError as error:
            place = f"{error.filename}: {error.strerror}"
            raise CommandError(f"the disk failed ({place}); nothing was lost, run the command again to go on") from None
    _report_signing(rotation, reports, output, dry_run=dry_run, as_json=as_json)


def _check_key_file(output: Path) -> None:
    if str(output) == STDOUT:
        message = "a run that was cut off goes on with the new key, so it needs a file; name one with --output"
        raise CommandError(message)
    check_output(output, as_json=False)


def _hand_over(rotation: SigningRotation, *, dry_run: bool) -> list[Handed]:
    if not dry_run:
        rotation.prepare()
    ids, reports = list(rotation.upload_ids()), []
    with steps("hand over", len(ids)) as advance:
        for upload_id in ids:
            reports.append(rotation.hand_over(upload_id, dry_run=dry_run))
            advance(1)
    if not dry_run:
        rotation.finish()
    return [report for report in reports if report is not None]


def _report_signing(
    rotation: SigningRotation, reports: list[Handed], output: Path | None, *, dry_run: bool, as_json: bool
) -> None:
    skipped = [report for report in reports if not report.handed]
    found: dict[str, Any] = {
        "dry_run": dry_run,
        "resumed": rotation.resumed,
        "old": rotation.old_id,
        # A key that was only thought of is not worth a name.
        "new": None if dry_run and not rotation.resumed else _public_key(rotation.new_public),
        "handed_over": len(reports) - len(skipped),
        "skipped": [{"id": report.upload_id, "why": report.why} for report in skipped],
    }
    if as_json:
        print_json(found)
    else:
        for item in skipped:
            say(f"{item.upload_id}: skipped: {item.why}")
        would = "would be " if dry_run else ""
        say(f"{would}handed over {found['handed_over']} unfinished uploads, skipped {len(skipped)}")
        if found["new"]:
            say(f"signing: {found['new']['key']}  ({found['new']['id']})")
        if output is not None and not dry_run:
            note(f"put {output} in the place that keys.signing_key names before the server starts")
    if skipped:
        sys.exit(1)
