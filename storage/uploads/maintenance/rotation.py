"""Rotating keys, an upload at a time: its log handed over to a new signing key, its envelope wrapped for other roots.

Logs are handed over while no server uses the store (`storage.keyring.rotation` has the steps of the key file): every
unfinished one gets a `key` record, signed by the old key and naming the new one. A finished upload stays under the key
that finished it.

Envelopes are rewrapped while data, logs and identities stay as they are. The recipients of one cannot be seen from
outside, so a journal beside the envelopes has them (`storage.keyring.journal`), and a second run goes on where the
first one ended. A server may run meanwhile, and nothing waits for a lease: ending an upload makes its end record
durable and removes the envelope after that; we put the new one in place and look for an end record after that. The
second one removes it.

Source: docs/reference/format.md, Rotation.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from dropoff_tus.errors import DropoffError, KeyMissingError, UploadLockedError, UploadNotFoundError
from dropoff_tus.model import Mode
from storage.age import Opener, Recipient, Wrapper
from storage.backing import KeyFile
from storage.failpoints import failpoint
from storage.keyring.envelope import Envelope, check_resealed, open_envelope
from storage.keyring.identities import parse_identities, parse_recipient, roots_hash
from storage.keyring.journal import Journal
from storage.keyring.lines import damaged
from storage.uploads.base import StoreBase
from storage.uploads.commit import Committer
from storage.uploads.log import LogState, check_signs, key_record
from storage.uploads.reading import open_own_envelope
from storage.uploads.recovery import read_state


@dataclass(frozen=True, slots=True)
class Handed:
    """The report on one upload: handed over now or before, or (`why`) not."""

    upload_id: str
    handed: bool
    why: str | None = None


def hand_over(base: StoreBase, upload_id: str, new_public: bytes, new_id: str, *, dry_run: bool) -> Handed | None:
    """Hand one upload's log over to another signing key; may be repeated.

    Returns:
        None where there is nothing to hand over: it is finished, has ended, or never was.

    Raises:
        OSError: The disk failed; run the rotation again.
    """
    try:
        with contextlib.closing(base.chains.open(upload_id)) as log:
            state, _ = read_state(log, upload_id, base.keys.signing)
        if state.final or state.ended is not None:
            return None
        if state.key != new_id:
            check_signs(base.keys.signing, state)
            if not dry_run:
                _append_key(base, upload_id, new_public)
    except (FileNotFoundError, UploadNotFoundError):
        return None
    except DropoffError as error:
        return Handed(upload_id, handed=False, why=error.message)
    return Handed(upload_id, handed=True)


def _append_key(base: StoreBase, upload_id: str, new_public: bytes) -> None:
    grip = base.leasing.acquire(upload_id)
    if grip is None:
        raise UploadLockedError("the upload is in use by another process")
    with contextlib.closing(grip):
        committer = Committer.recover(base, upload_id, grip)
        committer.record(key_record(committer.state, new_public, base.now()))


class Outcome(StrEnum):
    """The outcome for one upload's envelope."""

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

    def __init__(self, base: StoreBase, journal: Journal, identities: Sequence[str], *, dry_run: bool = False) -> None:
        """Take the store, and identities (age's text) beside the server's own that open envelopes now."""
        self._base, self._journal, self._dry_run = base, journal, dry_run
        self._identities = parse_identities(identities)

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
            return Rewrapped(upload_id, self._rewrap(self._base.load(upload_id), recipients))
        except DropoffError as error:
            return Rewrapped(upload_id, Outcome.SKIPPED, error.message)

    def _rewrap(self, state: LogState, texts: Sequence[str]) -> Outcome:
        if state.ended is not None:
            return self._remove_ended(state)
        try:
            blob = self._base.read_key_file(state.id, KeyFile.ROOT)
        except FileNotFoundError:
            raise damaged(state.id, "its envelope is missing; put it back from a backup") from None
        wanted = roots_hash(texts)
        if self._journal.wrapped_for(state.id, blob, str(state.create["roots"])) == wanted:
            return Outcome.CURRENT
        envelope = self._open(state, blob)
        if self._dry_run:
            return Outcome.REWRAPPED
        self._replace(state, envelope, [parse_recipient(text) for text in texts], wanted)
        failpoint("rewrap-renamed")
        return Outcome.REWRAPPED if self._base.load(state.id).ended is None else self._remove_ended(state)

    def _replace(self, state: LogState, envelope: Envelope, roots: Sequence[Recipient], wanted: str) -> None:
        own = self._base.keys.managed[:1] if state.mode is Mode.MANAGED else ()
        recipients: list[Wrapper] = [*roots, *own]
        openers: list[Opener] = [*own, *(identity for identity in self._identities if identity.recipient in roots)]
        new = envelope.seal(recipients)

        def check(read_back: bytes) -> None:
            check_resealed(read_back, new, recipients, openers, state)
            self._journal.add(state.id, wanted, new)
            failpoint("rewrap-journaled")

        self._base.key_files.put(state.id, KeyFile.ROOT, new, check)

    def _open(self, state: LogState, blob: bytes) -> Envelope:
        """Open the envelope with what was given, or with what the server has.

        Raises:
            KeyMissingError: None of it opens; the text says what would.
        """
        if self._identities:
            with contextlib.suppress(KeyMissingError):
                return open_envelope(blob, self._identities, state)
        try:
            return open_own_envelope(self._base, state)
        except KeyMissingError:
            raise KeyMissingError(_why_closed(state, given=bool(self._identities))) from None

    def _remove_ended(self, state: LogState) -> Outcome:
        if not self._dry_run and self._base.key_files.has(state.id, KeyFile.ROOT):
            self._base.key_files.remove(state.id, KeyFile.ROOT)
        return Outcome.ENDED


def _why_closed(state: LogState, *, given: bool) -> str:
    if state.mode is Mode.MANAGED:
        return "the server's managed identity does not open it, nor does an identity given; put the key back"
    if given:
        return "it is sealed, and none of the identities given opens it"
    return "it is sealed; give --identity FILE of a root that opens it now"
