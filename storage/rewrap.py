"""Rotating the roots: wrapping envelopes anew for other recipients. Data, logs and identities stay as they are.

What an envelope is wrapped for cannot be seen from outside, so a journal beside the envelopes says it: a line is
durable before the rename that makes it true and names the new file's hash, so it holds whenever the process dies, and a
second run goes on where the first one ended. An envelope that the journal does not name is wrapped for what its create
record says.

A server may run meanwhile, and nothing waits for a lease: ending an upload makes its end record durable and removes the
envelope after that; we rename and look for an end record after that. Whoever comes second removes it.

Source: docs/format.md, Rotation.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from dropoff_tus.errors import DropoffError, KeyMissingError
from dropoff_tus.model import Mode
from storage.age import Recipient, parse_header
from storage.base import StoreBase
from storage.durable import FILE_MODE, Disk, failpoint
from storage.envelope import MAX_ENVELOPE_BYTES, MAX_STANZAS, Envelope, open_envelope
from storage.keys import parse_identities, parse_recipient, roots_hash
from storage.log import LogState, damaged
from storage.reading import open_own_envelope
from storage.rotation import RotationError

JOURNAL = "rewrapped"
_LINE = re.compile(r"([0-9a-f]{32}) ([0-9a-f]{64}) ([0-9a-f]{64})")


class Outcome(StrEnum):
    """What became of one upload."""

    REWRAPPED = "rewrapped"
    CURRENT = "current"
    ENDED = "ended"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """The report on one upload; `why` explains SKIPPED."""

    upload_id: str
    outcome: Outcome
    why: str | None = None


class Rewrapper:
    """One rotation of the roots; a context manager that keeps others out."""

    def __init__(self, base: StoreBase, identities: Sequence[str], *, dry_run: bool = False) -> None:
        """Take the store, and identities (age's text) beside the server's own that open envelopes now."""
        self._base, self._dry_run = base, dry_run
        self._identities = parse_identities(identities)
        # A rotation is synced whatever the store's durability: it replaces what nothing else can bring back.
        self._disk = Disk(sync=True)
        self._journal = _Journal(base.settings.keys_dir / JOURNAL, self._disk, writable=not dry_run)

    def __enter__(self) -> Self:
        """Keep other rotations out."""
        self._journal.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let them in again."""
        self._journal.close()

    def rewrap(self, upload_id: str, recipients: Sequence[str]) -> Rewrapped:
        """Wrap one upload's envelope for these recipients, unless it is already.

        Args:
            upload_id: Which.
            recipients: As text, at least one, all of one type.

        Raises:
            OSError: The disk failed; the envelope is the old one or the new one, whole.
        """
        try:
            state = self._base.load(upload_id)
            return self._rewrap(state, recipients)
        except DropoffError as error:
            return Rewrapped(upload_id, Outcome.SKIPPED, error.message)

    def _rewrap(self, state: LogState, texts: Sequence[str]) -> Rewrapped:
        path, wanted = self._base.layout.of(state.id).root_envelope, roots_hash(texts)
        if state.ended is not None:
            self._remove_ended(state)
            return Rewrapped(state.id, Outcome.ENDED)
        try:
            blob = path.read_bytes()
        except FileNotFoundError:
            raise damaged(state.id, "its envelope is missing; put it back from a backup") from None
        if self._journal.wrapped_for(state, blob) == wanted:
            return Rewrapped(state.id, Outcome.CURRENT)
        envelope = self._open(state, blob)
        outcome = Outcome.REWRAPPED if self._dry_run else self._replace(state, envelope, texts)
        return Rewrapped(state.id, outcome)

    def _replace(self, state: LogState, envelope: Envelope, texts: Sequence[str]) -> Outcome:
        path, wanted = self._base.layout.of(state.id).root_envelope, roots_hash(texts)
        recipients = [parse_recipient(text) for text in texts]
        new = envelope.seal(recipients)

        def check(temporary: Path) -> None:
            self._verify(temporary, new, recipients, state)
            self._journal.add(state.id, wanted, new)
            failpoint("rewrap-journaled")

        self._disk.replace(path, new, before_rename=check)
        failpoint("rewrap-renamed")
        if self._base.load(state.id).ended is not None:
            self._remove_ended(state)
            return Outcome.ENDED
        return Outcome.REWRAPPED

    def _open(self, state: LogState, blob: bytes) -> Envelope:
        """Open the envelope with what was given, or the server's copy with what the server has.

        Raises:
            KeyMissingError: None of it opens; the text says what would.
        """
        if self._identities:
            try:
                return open_envelope(blob, self._identities, state)
            except KeyMissingError:
                pass
        try:
            return open_own_envelope(self._base, state)
        except KeyMissingError:
            raise KeyMissingError(_why_closed(state, given=bool(self._identities))) from None

    def _verify(self, path: Path, blob: bytes, recipients: Sequence[Recipient], state: LogState) -> None:
        """See, before the old envelope goes, that the new one is on the disk and is what it should be."""
        stanzas = parse_header(blob, max_stanzas=MAX_STANZAS).stanzas
        if path.read_bytes() != blob or len(stanzas) != len(recipients) or len(blob) > MAX_ENVELOPE_BYTES:
            raise damaged(state.id, "its new envelope did not read back")
        ours = [identity for identity in self._identities if identity.recipient in recipients]
        if ours:
            open_envelope(blob, ours, state)

    def _remove_ended(self, state: LogState) -> None:
        path = self._base.layout.of(state.id).root_envelope
        if not self._dry_run and self._disk.remove(path):
            self._disk.sync_path(path.parent)


def _why_closed(state: LogState, *, given: bool) -> str:
    if state.mode is Mode.MANAGED:
        return "the server's managed identity does not open it, nor does an identity given; put the key back"
    if given:
        return "it is sealed, and none of the identities given opens it"
    return "it is sealed; give --identity FILE of a root that opens it now"


class _Journal:
    """Which list of recipients an envelope is wrapped for: `<id> <roots> <SHA-256 of the file>`, the last line wins."""

    def __init__(self, path: Path, disk: Disk, *, writable: bool) -> None:
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
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            message = "another rotation of the roots is running; wait until it is done"
            raise RotationError(message) from None
        raw = self._path.read_bytes()
        self._read(raw)
        # A line that a crash cut in two is overwritten: it was of an upload that was not renamed yet.
        self._size = raw.rfind(b"\n") + 1

    def _read(self, raw: bytes) -> None:
        for line in raw.decode("ascii", "replace").split("\n")[:-1]:
            found = _LINE.fullmatch(line)
            if found:
                self._known[found[1]] = (found[2], found[3])

    def wrapped_for(self, state: LogState, blob: bytes) -> str:
        """Return the hash of the recipients an envelope is wrapped for."""
        roots, digest = self._known.get(state.id, ("", ""))
        return roots if digest == hashlib.sha256(blob).hexdigest() else str(state.create["roots"])

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
