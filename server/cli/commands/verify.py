"""`verify-receipt`, `verify-certificate`: for anybody, offline, with only a pinned key."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from blake3 import blake3

from dropoff_tus.text import decode_text
from server.cli.context import JsonOption, KeyOption, key_text
from server.cli.output import CommandError, note, print_json, progress, say, show
from storage.keyring import lines
from storage.keyring.keys import verifying_keys
from storage.keyring.signing import SigningKey
from storage.uploads import log

_PIECE_BYTES = 1 << 20
_MAX_LINE_BYTES = 256 << 20
"""A certificate of erasure names every upload of a drop-off."""
_DIGESTS = frozenset({"sha256", "sha512", "sha1", "md5", "blake3"})


def verify_receipt(
    receipt_file: Annotated[
        str, typer.Argument(metavar="RECEIPT", help="A file with receipts, one a line; - is stdin.")
    ],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The uploaded file, to compare.", show_default=False)
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a receipt or many, and a file against them. Works offline, with no configuration.

    Get the key once, by a way you trust (`dropoff-tus keys show` on the server). A key that comes with a receipt proves
    nothing, so it is ignored. RECEIPT may have many receipts, one a line, as the upload page saves them: all have to
    verify, and one of them has to be FILE's.

    Example: dropoff-tus verify-receipt receipts.txt scan.zip --key 3yI9…=
    """
    signing = _pinned_key(key)
    receipts = _verified(_signed_text(receipt_file), signing)
    compared, of_file = (None, receipts[0]) if file is None else _compare(file, receipts)
    one = of_file if file is not None or len(receipts) == 1 else None
    if as_json:
        print_json({"receipt": one, "receipts": receipts, "file": compared})
        return
    if one is not None:
        for name, value in one.items():
            say(f"{name}: {show(str(value))}")
    else:
        for item in receipts:
            name = item.get("relative_path") or item["path"] or "-"
            say(f"{item['completed_at']}  {item['upload']}  {item['length']}  {show(name)}")
    note("the signature is the server's" if len(receipts) == 1 else f"all {len(receipts)} signatures are the server's")
    if compared is not None:
        note(f"the file is the uploaded one (length and {', '.join(compared['digests'])} agree)")


def verify_certificate(
    certificate: Annotated[str, typer.Argument(metavar="CERTIFICATE", help="A file with it; - is stdin.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a certificate of erasure, offline, with the key that you were given by a way you trust.

    Example: dropoff-tus verify-certificate erasure.txt --key 3yI9…=
    """
    signing = _pinned_key(key)
    payload = lines.verify_certificate(_signed_text(certificate).encode() + b"\n", signing)
    if payload is None:
        raise CommandError("the certificate was not signed by this key, or was changed since; do not rely on it")
    if as_json:
        print_json({"certificate": payload})
        return
    for name, value in payload.items():
        say(f"{name}: {show(value if isinstance(value, str) else json.dumps(value))}")
    note("the signature is the server's")


def _verified(text: str, signing: SigningKey) -> list[dict[str, Any]]:
    """Return what the receipts say.

    Raises:
        CommandError: One does not verify, or there is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    receipts = [log.verify_receipt(line.encode() + b"\n", signing) for line in lines]
    for number, receipt in enumerate(receipts, 1):
        if receipt is None:
            which = "the receipt" if len(receipts) == 1 else f"receipt {number} of {len(receipts)}"
            raise CommandError(f"{which} was not signed by this key, or was changed since; do not rely on it")
    return [receipt for receipt in receipts if receipt is not None]


def _pinned_key(public_keys: Sequence[str] | None) -> SigningKey:
    """Return a verifier with only the public keys of `--key`: offline, with no key of this machine.

    Raises:
        CommandError: There is none, or one cannot be read.
    """
    if not public_keys:
        raise CommandError("--key is missing: give the server's public key, as `dropoff-tus keys show` prints it there")
    return verifying_keys([key_text(text) for text in public_keys], Path("/nonexistent")).signing


def _signed_text(name: str) -> str:
    """Return the signed lines in a file, or on stdin.

    Raises:
        CommandError: It cannot be read, or is no text, which is another thing than a text that was changed.
    """
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(_MAX_LINE_BYTES)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(_MAX_LINE_BYTES)
        # Mail programs and editors add line ends, and marks; the signature is over what is between them.
        return decode_text(raw).strip("\r\n\t ")
    except OSError as error:
        message = f"cannot read {name}: {error.strerror}"
    except ValueError as error:
        message = f"{'what came on stdin' if name == '-' else name} {error}"
    raise CommandError(message)


def _compare(path: Path, receipts: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare a file with verified receipts; returns what agrees, and the receipt it agrees with.

    Raises:
        CommandError: It differs from all, cannot be read, or there is no digest to compare.
    """
    names = sorted({name for receipt in receipts for name in _DIGESTS & receipt.keys()})
    if not names:
        message = "the receipt has no digest (the server's store.digest is none), so no file can be compared with it"
        raise CommandError(message)
    length, found = _digests(path, names)
    alike = [receipt for receipt in receipts if receipt["length"] == length]
    for receipt in alike:
        agreeing = sorted(_DIGESTS & receipt.keys())
        if agreeing and all(found[name] == receipt[name] for name in agreeing):
            return {"path": str(path), "length": length, "digests": agreeing}, receipt
    if len(receipts) > 1:
        message = f"the file, of {length} bytes, belongs to none of the {len(receipts)} receipts"
    elif not alike:
        message = f"the file is not the uploaded one: it has {length} bytes, the receipt says {receipts[0]['length']}"
    else:
        wrong = [name for name in names if found[name] != receipts[0][name]]
        message = f"the file is not the uploaded one: its {', '.join(wrong)} differs"
    raise CommandError(message)


def _digests(path: Path, names: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Return a file's length, and its digests in hex by their names."""
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
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    return length, {name: running.hexdigest() for name, running in hashes.items()}
