"""Receipts: fetched for the operator, and verified by whoever has one, with nothing but a pinned key."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.context import ConfigOption, JsonOption, find_upload, pinned_key, with_services
from server.cli.output import CommandError, note, print_json, progress, say, show
from server.cli.upload import IdentityOption, UploadArgument, app, identities_in

if TYPE_CHECKING:
    from server.services import Services
    from server.settings.config import Config

_PIECE_BYTES = 1 << 20
_MAX_LINE_BYTES = 256 << 20
"""A certificate of erasure names every upload of a drop-off."""
_DIGESTS = frozenset({"sha256", "sha512", "sha1", "md5", "blake3"})


@app.command()
def receipt(
    upload: UploadArgument, identity: IdentityOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Print an upload's receipt: one signed line, to keep and to verify later; with --json what it says.

    Example: dropoff-tus upload receipt 5f0c… > receipt.txt
    """
    identities = identities_in(identity)

    async def work(services: Services, _conf: Config) -> bytes | None:
        found = await find_upload(services.catalog, services.store, upload)
        await services.store.stat(found)  # what is not there has no receipt for another reason
        return await services.store.signed_receipt(found, identities)

    line = with_services(config, work, reading=True)
    if line is None:
        message = "there is no receipt that can be read here; for a sealed upload give --identity FILE"
        raise CommandError(message)
    if as_json:
        print_json(json.loads(line.rpartition(b" ")[0]))
    else:
        say(line.decode("ascii").rstrip("\n"))


def verify(
    receipt_file: Annotated[str, typer.Argument(metavar="RECEIPT", help="A file with the receipt; - is stdin.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The uploaded file, to compare.", show_default=False)
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="K",
            help="The server's public key, as `keys show` prints it, or a file with it. Repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a receipt, and a file against it. Works offline, with no configuration.

    The key is the one that you were given, once, by a way you trust (`dropoff-tus keys show` on the server). A key that
    comes with a receipt proves nothing, so none in it is looked at.

    Example: dropoff-tus verify-receipt receipt.txt scan.zip --key 3yI9…=
    """
    from storage.uploads.log import verify_receipt

    signing = pinned_key(key)
    payload = verify_receipt(signed_line(receipt_file), signing)
    if payload is None:
        message = "the receipt was not signed by this key, or was changed since; do not rely on it"
        raise CommandError(message)
    compared = None if file is None else _compare(file, payload)
    if as_json:
        print_json({"receipt": payload, "file": compared})
    else:
        for name, value in payload.items():
            say(f"{name}: {show(str(value))}")
        note("the signature is the server's")
        if compared is not None:
            note(f"the file is what was uploaded (length and {', '.join(compared['digests'])} agree)")


def signed_line(name: str) -> bytes:
    """Return the signed line in a file, or on stdin.

    Raises:
        CommandError: It cannot be read, or is no text, which is another thing than a text that was changed.
    """
    from dropoff_tus.text import decode_text

    try:
        if name == "-":
            raw = sys.stdin.buffer.read(_MAX_LINE_BYTES)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(_MAX_LINE_BYTES)
        # Mail programs and editors add line ends, and marks; the signature is over what is between them.
        return decode_text(raw).strip("\r\n\t ").encode() + b"\n"
    except OSError as error:
        message = f"cannot read {name}: {error.strerror}"
    except ValueError as error:
        message = f"{'what came on stdin' if name == '-' else name} {error}"
    raise CommandError(message)


def _compare(path: Path, payload: dict[str, Any]) -> dict[str, Any]:
    """Compare a file with a verified receipt.

    Raises:
        CommandError: It differs, cannot be read, or the receipt has no digest to compare.
    """
    from blake3 import blake3

    names = sorted(_DIGESTS & payload.keys())
    if not names:
        message = "the receipt has no digest (the server's store.digest is none), so no file can be compared with it"
        raise CommandError(message)
    hashes: dict[str, Any] = {name: blake3() if name == "blake3" else hashlib.new(name) for name in names}
    length = 0
    try:
        with path.open("rb") as file, progress("compare", path.stat().st_size) as advance:
            while piece := file.read(_PIECE_BYTES):
                length += len(piece)
                for running in hashes.values():
                    running.update(piece)
                advance(len(piece))
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise CommandError(message) from None
    if length != payload["length"]:
        message = f"the file is not what was uploaded: it has {length} bytes, the receipt says {payload['length']}"
        raise CommandError(message)
    wrong = [name for name, running in hashes.items() if running.hexdigest() != payload[name]]
    if wrong:
        message = f"the file is not what was uploaded: its {', '.join(wrong)} differs"
        raise CommandError(message)
    return {"path": str(path), "length": length, "digests": names}
