"""Rotating the roots: rewrapping envelopes for other recipients. Data, logs and identities stay as they are.

The recipients of an envelope cannot be seen from outside, so a journal beside the envelopes has them
(`storage.keyring.journal`), and a second run goes on where the first one ended.

A server may run meanwhile, and nothing waits for a lease: ending an upload makes its end record durable and removes the
envelope after that; we rename and look for an end record after that. The second one removes it.

Source: docs/format.md, Rotation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from dropoff_tus.errors import DropoffError, KeyMissingError
from dropoff_tus.model import Mode
from storage.age import Recipient, parse_header
from storage.failpoints import failpoint
from storage.files.durable import Disk
from storage.keyring.envelope import MAX_ENVELOPE_BYTES, MAX_STANZAS, Envelope, open_envelope
from storage.keyring.identities import parse_identities, parse_recipient, roots_hash
from storage.keyring.journal import JOURNAL, Journal
from storage.keyring.lines import damaged
from storage.uploads.base import StoreBase
from storage.uploads.log import LogState
from storage.uploads.reading import open_own_envelope


class Outcome(StrEnum):
    """The outcome for one upload."""

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
        self._disk = Disk(sync=True, roots=base.layout.roots)
        self._journal = Journal(base.settings.keys_dir / JOURNAL, self._disk, writable=not dry_run)

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
            blob = self._base.read_key_file(state.id, path)
        except FileNotFoundError:
            raise damaged(state.id, "its envelope is missing; put it back from a backup") from None
        if self._journal.wrapped_for(state.id, blob, str(state.create["roots"])) == wanted:
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
        if (
            self._disk.read_small(path, MAX_ENVELOPE_BYTES) != blob
            or len(stanzas) != len(recipients)
            or len(blob) > MAX_ENVELOPE_BYTES
        ):
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
