"""The journal of a rotation of the roots: the file that replaced an upload's envelope, and its recipients.

A line is durable before the rename that makes it true and names the new file's hash, so it holds whenever the process
dies. An envelope that the journal does not name is the one of its creation, wrapped for what its create record says.

Source: docs/reference/format.md, Rotation.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from storage.files.durable import FILE_MODE, Disk
from storage.files.locks import try_lock
from storage.keyring.keysource import RotationError

JOURNAL = "rewrapped"
_LINE = re.compile(r"([0-9a-f]{32}) ([0-9a-f]{64}) ([0-9a-f]{64})")


class Journal:
    """Which list of recipients an envelope is wrapped for: `<id> <roots> <SHA-256 of the file>`, the last line wins."""

    def __init__(self, path: Path, disk: Disk, *, writable: bool) -> None:
        """Take the file's path, and whether it is to be written; `open` reads it."""
        self._path, self._disk, self._writable = path, disk, writable
        self._descriptor = -1
        self._size = 0
        self._known: dict[str, tuple[str, str]] = {}

    def open(self) -> None:
        """Read it, and keep other writers out.

        Raises:
            RotationError: Another rotation runs.
        """
        if not self._writable:
            self._read(self._path.read_bytes() if self._path.exists() else b"")
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, FILE_MODE)
        if not try_lock(self._descriptor):
            self.close()
            raise RotationError("another rotation of the roots is running; wait until it is done")
        raw = self._path.read_bytes()
        self._read(raw)
        # A line that a crash cut in two is overwritten: it was of an upload that was not renamed yet.
        self._size = raw.rfind(b"\n") + 1

    def _read(self, raw: bytes) -> None:
        self._known |= {upload_id: (roots, digest) for upload_id, roots, digest in _lines(raw)}

    def wrapped_for(self, upload_id: str, blob: bytes, created_for: str) -> str:
        """Return the hash of the recipients an envelope is wrapped for; without a rotation those of its creation."""
        roots, digest = self._known.get(upload_id, ("", ""))
        return roots if digest == hashlib.sha256(blob).hexdigest() else created_for

    def add(self, upload_id: str, roots: str, blob: bytes) -> None:
        """Say, durably, what a file with these bytes is wrapped for."""
        digest = hashlib.sha256(blob).hexdigest()
        line = f"{upload_id} {roots} {digest}\n".encode("ascii")
        self._disk.write_at(self._descriptor, line, self._size)
        self._disk.sync_file(self._descriptor)
        if not self._size:
            self._disk.sync_path(self._path.parent)
        self._size += len(line)
        self._known[upload_id] = (roots, digest)

    def close(self) -> None:
        """Let others in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Written:
    """The lines that rotations wrote; the journal is read again when it has grown."""

    def __init__(self, path: Path) -> None:
        """Take the journal's path; there may be none."""
        self._path = path
        self._size = 0
        self._pairs: set[tuple[str, str]] = set()

    def is_envelope(self, upload_id: str, blob: bytes, created: str) -> bool:
        """Tell whether these bytes are the envelope of an upload: of its creation, by their hash, or of a rotation."""
        digest = hashlib.sha256(blob).hexdigest()
        return digest == created or self._has(upload_id, digest)

    def _has(self, upload_id: str, digest: str) -> bool:
        try:
            if self._path.stat().st_size != self._size:
                raw = self._path.read_bytes()
                self._size, self._pairs = len(raw), {(found, wrote) for found, _, wrote in _lines(raw)}
        except FileNotFoundError:
            return False
        return (upload_id, digest) in self._pairs


def _lines(raw: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield id, roots and hash of each whole line."""
    for line in raw.decode("ascii", "replace").split("\n")[:-1]:
        found = _LINE.fullmatch(line)
        if found:
            yield found[1], found[2], found[3]
