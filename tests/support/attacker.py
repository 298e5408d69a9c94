"""Someone with a copy of folders, who tries every key that lies in them on every age file and receipt in them."""

import base64
import binascii
import re
from collections.abc import Iterable
from pathlib import Path

from storage.age import AgeError, Identity, KeyType, Opener, decrypt, open_header
from storage.keyring.keys import own_key
from storage.keyring.secretkey import SecretKey
from storage.uploads.receipts import RECEIPT_HEAD

_IDENTITY = re.compile(rb"AGE-SECRET-KEY-[A-Z0-9-]+")
_KEY = re.compile(rb"[A-Za-z0-9+/]{43}=")
_SEED = re.compile(rb'"([0-9a-f]{64})"')
_MAGIC = b"age-encryption.org/v1\n"


def opened(*folders: Path) -> set[str]:
    """Return the names of all age files and receipts below these folders that keys below them open.

    Every file that opens is searched for further keys. Secrets of one kind are tried as if they were of each other. A
    segment within a larger file is named by the file and its offset.
    """
    files = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    closed = {
        f"{path.parent.name}/{path.name}@{offset}": raw[offset:]
        for path, raw in files.items()
        for offset in _offsets(raw)
    }
    keys = _keys(files.values())
    found: set[str] = set()
    while keys:
        fresh: list[bytes] = []
        for name, blob in list(closed.items()):
            plain = _plain(blob, keys)
            if plain is not None:
                fresh += [plain, *(base64.b64encode(bytes.fromhex(word.decode())) for word in _SEED.findall(plain))]
                found.add(name)
                del closed[name]
        keys = _keys(fresh)
    return found


def _offsets(raw: bytes) -> Iterable[int]:
    for magic in (_MAGIC, RECEIPT_HEAD):
        at = raw.find(magic)
        while at >= 0:
            yield at
            at = raw.find(magic, at + 1)


def _plain(blob: bytes, keys: list[Opener]) -> bytes | None:
    """Return what a file holds; empty where only its header opens, which is enough to have lost."""
    if blob.startswith(RECEIPT_HEAD):
        return _receipt(blob[len(RECEIPT_HEAD) :], keys)
    try:
        return decrypt(blob, keys)
    except AgeError:
        pass
    try:
        open_header(blob, keys)
    except AgeError:
        return None
    return b""


def _receipt(sealed: bytes, keys: list[Opener]) -> bytes | None:
    for key in keys:
        if isinstance(key, SecretKey):
            try:
                return key.open(sealed)
            except AgeError:
                continue
    return None


def _keys(texts: Iterable[bytes]) -> list[Opener]:
    identities: list[Identity] = []
    raws: list[bytes] = []
    for text in texts:
        identities += [Identity.parse(word.decode("ascii")) for word in _IDENTITY.findall(text)]
        for word in _KEY.findall(text):
            try:
                raw = base64.b64decode(word, validate=True)
                identities += [Identity(kind, raw) for kind in KeyType]
            except (binascii.Error, AgeError):
                continue
            raws.append(raw)
    return [*identities, *map(own_key, identities), *map(SecretKey, raws)]
