"""Someone with a copy of folders, who tries every key that lies in them on every age file that lies in them."""

import base64
import binascii
import re
from collections.abc import Iterable
from pathlib import Path

from storage.age import AgeError, Identity, KeyType, decrypt, open_header

_IDENTITY = re.compile(rb"AGE-SECRET-KEY-[A-Z0-9-]+")
_KEY = re.compile(rb"[A-Za-z0-9+/]{43}=")
_SEED = re.compile(rb'"([0-9a-f]{64})"')
_MAGIC = b"age-encryption.org/v1\n"


def opened(*folders: Path) -> set[str]:
    """Return the names of all age files below these folders that keys below them open.

    Every file that opens is searched for further keys. Secrets of other kinds are tried as if they were identities. A
    segment within a larger file is named by the file and its offset.
    """
    files = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    closed = {
        f"{path.parent.name}/{path.name}@{offset}": raw[offset:]
        for path, raw in files.items()
        for offset in _offsets(raw)
    }
    identities = _identities(files.values())
    found: set[str] = set()
    while identities:
        fresh: list[bytes] = []
        for name, blob in list(closed.items()):
            plain = _plain(blob, identities)
            if plain is not None:
                fresh += [plain, *(base64.b64encode(bytes.fromhex(word.decode())) for word in _SEED.findall(plain))]
                found.add(name)
                del closed[name]
        identities = _identities(fresh)
    return found


def _offsets(raw: bytes) -> Iterable[int]:
    at = raw.find(_MAGIC)
    while at >= 0:
        yield at
        at = raw.find(_MAGIC, at + 1)


def _plain(blob: bytes, identities: list[Identity]) -> bytes | None:
    """Return what a file holds; empty where only its header opens, which is enough to have lost."""
    try:
        return decrypt(blob, identities)
    except AgeError:
        pass
    try:
        open_header(blob, identities)
    except AgeError:
        return None
    return b""


def _identities(texts: Iterable[bytes]) -> list[Identity]:
    found: list[Identity] = []
    for text in texts:
        found += [Identity.parse(word.decode("ascii")) for word in _IDENTITY.findall(text)]
        for word in _KEY.findall(text):
            try:
                seed = base64.b64decode(word, validate=True)
                found += [Identity(kind, seed) for kind in KeyType]
            except (binascii.Error, AgeError):
                continue
    return found
