"""Secrets in every form in which they could leak, and a search for them."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from blake3 import blake3

# How many leading base64 characters depend on what stands before, by the number of bytes that do.
_FIRST_PURE = (0, 2, 3)


def of_text(text: str) -> set[bytes]:
    """Return a text's forms: as it is, in the other case, and as JSON, URLs and encodings write it."""
    written = {text, text.lower(), text.upper(), json.dumps(text)[1:-1], quote(text, safe=""), quote(text)}
    encoded = {form.encode() for form in written}
    return encoded | {needle for form in encoded for needle in of_bytes(form)} | {text.encode("utf-16-le")}


def of_bytes(data: bytes) -> set[bytes]:
    """Return the forms of bytes: raw, hexadecimal, and as part of anything in base64."""
    hexadecimal = data.hex().encode()
    needles = {data, hexadecimal, hexadecimal.upper()}
    for shift, first in enumerate(_FIRST_PURE):
        shifted = bytes(shift) + data
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            pure = encode(shifted).rstrip(b"=")[first:]
            # The last character of an incomplete group depends on what follows.
            needles.add(pure[:-1] if len(shifted) % 3 else pure)
    return needles


def digests_of(data: bytes) -> set[bytes]:
    """Return the forms of all plain digests of some content, which would give low-entropy content back."""
    digests = [hashlib.new(name, data).digest() for name in ("md5", "sha1", "sha256", "sha512")]
    return {needle for digest in (*digests, blake3(data).digest()) for needle in of_bytes(digest)}


def find(needles: Iterable[bytes], places: Iterable[Path]) -> list[str]:
    """Search files, and the files' names, and name what was found where.

    Args:
        needles: The bytes to look for.
        places: Files, and folders with all that is below.
    """
    wanted = tuple(needles)
    found = []
    for path in _files(places):
        haystack = str(path).encode() + b"\n" + path.read_bytes()
        found += [f"{needle!r} in {path}" for needle in wanted if needle in haystack]
    return found


def _files(places: Iterable[Path]) -> list[Path]:
    return [
        path for place in places for path in (sorted(place.rglob("*")) if place.is_dir() else [place]) if path.is_file()
    ]
