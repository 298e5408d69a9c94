"""The port of the store: bodies go in under a lease, verified bytes come out."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from dropoff_tus.errors import DropoffError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Dropoff, Metadata, Mode, Role, StoredUpload
from dropoff_tus.states import UploadState


class Body(Protocol):
    """A request body, pulled by the engine: the event loop waits, a worker thread receives.

    These three calls hide the source of the bytes (a parsed stream, a socket), so one engine serves all.
    """

    async def wait(self, timeout_seconds: float) -> None:
        """Return when `receive_into` may make progress, when `wake` was called, or after the timeout."""
        ...

    def wake(self) -> None:
        """Make a pending `wait` return at once. Called on the event loop."""
        ...

    def receive_into(self, buffer: memoryview) -> int | None:
        """Receive some bytes, in a worker thread, never blocking.

        Returns:
            How many bytes were written to the start of buffer; 0 at the end of the body; None if there is
            nothing now.

        Raises:
            BodyCutError: The client went away before the end of the body.
        """
        ...


@dataclass(frozen=True, slots=True)
class NewUpload:
    """All that creating an upload in the store needs."""

    id: str
    token: str = field(repr=False)
    drop: Dropoff
    role: Role
    metadata: Metadata
    created_at: datetime
    length: int | None
    parts: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    """Names of whole-file digests to keep running beside the configured one."""


@dataclass(frozen=True, slots=True)
class Here:
    """Which files of an upload there are: `own_envelopes` by the mode that each is for."""

    folder: bool
    receipt: bool
    own_envelopes: frozenset[Mode]


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be known of an upload here: None is what is not there, or cannot be read.

    `receipt` is the payload of the verified `signed_receipt`. `problem` is why not all of it was read.
    """

    stored: StoredUpload | None = None
    metadata: Metadata | None = None
    receipt: dict[str, Any] | None = None
    signed_receipt: bytes | None = None
    problem: DropoffError | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of finishing. `final_hash` is the hex SHA-256 of the final log record."""

    size_bytes: int
    receipt_id: str
    final_hash: str


class Lease(Protocol):
    """The exclusive right to write one upload. Everything here needs it; nothing else writes."""

    @property
    def upload(self) -> StoredUpload:
        """The upload's state now, after recovery and after each call below."""
        ...

    async def declare_length(self, length: int, at: datetime) -> None:
        """Fix a deferred length, durably.

        Raises:
            LengthFixedError: Another length was declared before.
        """
        ...

    async def append(
        self, body: Body, plan: AppendPlan, *, idle_timeout_seconds: float, hold_last: bool = False
    ) -> int:
        """Seal and commit a body. On return and on every error below, what may be kept is durable.

        With `hold_last`, the last commit waits for `complete` or `write_final`, which then cost one commit less, if
        the body brings the upload to its length. `upload` counts those bytes already, but no answer may before they are
        committed. Any other use of the lease commits them first.

        Returns:
            The durable offset.

        Raises:
            MismatchedOffsetError: plan.offset is not the durable offset; nothing was read.
            UploadSizeExceededError, MaxSizeExceededError: The body went past plan.limit_bytes (which of the two,
                plan.past_limit says); the bytes up to it are kept.
            ChecksumMismatchError: The body's bytes are gone.
            BodyCutError: The client went away; the bytes that came are kept (not with a checksum).
            BodyTimeoutError: No byte for idle_timeout_seconds; the bytes that came are kept (same exception).
            UploadInterruptedError: Another request asked for the lease; the bytes that came are kept (same exception).
            UploadGoneError: The upload is being ended.
            ServerShutdownError: The store is closing; the bytes that came are kept (same exception).
            StorageFullError, StorageFailedError: Durable bytes stay; the rest is lost.
            TooManySegmentsError: Send larger pieces; the bytes before are kept.
        """
        ...

    async def digests(self, names: Sequence[str], *, read_back_bytes: int) -> dict[str, bytes] | None:
        """Return plaintext digests of the whole upload, by name; the configured one is always among them.

        Values carried since the first byte are used; else the upload is read back, unless it is larger than
        read_back_bytes: then None is returned and nothing was read. Without any digest configured or named the
        answer is {} .

        Raises:
            KeyMissingError: The upload would have to be read back and no identity at hand opens it.
            UploadDamagedError: The stored upload does not verify.
        """
        ...

    async def begins_sealed(self) -> bool:
        """Tell whether the content of the whole upload, of its parts if it has any, can be an age v1 file.

        Its header is read, and its length fits; no key is tried. The bytes that `append` held back are committed first.

        Raises:
            KeyMissingError: No identity at hand opens the upload.
            UploadDamagedError: The stored upload does not verify.
        """
        ...

    async def write_final(self, at: datetime) -> str:
        """Verify the chain and the totals and make the final record durable; repeating it changes nothing.

        Returns:
            The hex SHA-256 of the final log record.
        """
        ...

    async def complete(self, digests: dict[str, bytes], at: datetime) -> Completion:
        """Write the final record and the receipt, then seal a sealed upload; repeating it changes nothing.

        Partial uploads get only the final record.

        Raises:
            KeyMissingError: No receipt is here, and none can be written since the metadata cannot be read.
        """
        ...

    async def end(self, state: UploadState, why: str, at: datetime) -> None:
        """Record REJECTED, TERMINATED, EXPIRED or DELETED and shred: envelopes first, then the data.

        For a concatenation its parts are shredded too. A tombstone remains. `why` is a fixed phrase.

        Raises:
            PartInUseError: A concatenation is made of it, whatever the catalog says; nothing was changed.
        """
        ...


class StoredUploads(Protocol):
    """The uploads in the store, read without a lease."""

    async def stat(self, upload_id: str) -> StoredUpload:
        """Return the durable state without a lease.

        Raises:
            UploadNotFoundError: Nothing of it is here (or it never got a valid create record).
            UploadDamagedError: It does not verify.
        """
        ...

    async def metadata(self, upload_id: str) -> Metadata | None:
        """Return the client's metadata; None where the server can no longer read it (sealed)."""
        ...

    def read(
        self, upload_id: str, *, start: int = 0, stop: int | None = None, identities: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        """Yield the plain bytes of a finished upload from start up to stop, verified.

        `identities` are age identities as text; without them the server's own are used.

        Raises:
            UploadNotFoundError, UploadDamagedError: As `stat`; and if it is not finished.
            KeyMissingError: None of the identities opens it.
        """
        ...

    async def url_receipt(self, upload_id: str, token: str) -> bytes | None:
        """Return the signed receipt for whoever has the upload's URL, or None."""
        ...


class ExportedUploads(Protocol):
    """The uploads in the store, many at once."""

    async def look(self, upload_ids: Sequence[str], identities: Sequence[str] = ()) -> list[Seen]:
        """Return what can be known of uploads; identities open what the server cannot."""
        ...

    async def read_whole(self, upload_ids: Sequence[str], identities: Sequence[str] = ()) -> list[bytes | DropoffError]:
        """Return the verified plain bytes of small uploads, or why one cannot be read."""
        ...

    def read(
        self, upload_id: str, *, start: int = 0, stop: int | None = None, identities: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        """Yield the verified plain bytes."""
        ...


class SignedTerms(Protocol):
    """The signatures below drop-offs' terms."""

    def verify_terms(self, drop: Dropoff) -> None:
        """Refuse a drop-off whose terms are not those that were signed, as `create` does.

        Raises:
            PolicyTamperedError: They are not.
        """
        ...


class Space(Protocol):
    """The disk's room, and how much of it is wanted soon."""

    async def free_bytes(self) -> int:
        """Return what the disk has free for us, less the configured floor. May be negative.

        Raises:
            StorageFailedError: The store is not there, for instance because its volume is unmounted.
        """
        ...

    def coming_bytes(self, *, without: str = "") -> dict[str, int]:
        """Return by drop-off the missing bytes of uploads that receive here now, at most a step each.

        One upload may be left out.
        """
        ...


class Store(StoredUploads, SignedTerms, Space, Protocol):
    """The encrypted store: the truth about bytes."""

    async def create(self, new: NewUpload) -> StoredUpload:
        """Make an upload with no bytes. Nothing is durable before its first commit.

        Raises:
            PolicyTamperedError: new.drop is not signed by the server key.
            StorageFullError, StorageFailedError: Nothing of it is left.
        """
        ...

    async def waiting(self, upload_ids: Sequence[str]) -> set[str]:
        """Return the uploads that are plainly waiting for bytes, so that a start can skip them.

        Look at all others by `stat`: they are whole, ended, missing, damaged, or doubtful in any way.
        No answer may rest on this: the logs were neither synced nor verified from the beginning.
        """
        ...

    def may_be_held(self, upload_id: str) -> bool:
        """Tell whether somebody may have the lease now: a request of this process, or another server where one runs."""
        ...

    async def receiving(self, upload_id: str) -> bool:
        """Tell whether anybody has the lease now, in whatever process: then the upload is not idle, however old.

        A `stat` after a False sees the bytes that such a holder commits before it lets go.
        """
        ...

    async def settle(self, upload_id: str) -> None:
        """Ask a writer that received nothing for a second to commit, and wait for it; at most about two seconds.

        Returns at once when nobody writes, or a checksum is to hold, and soon when bytes keep coming.
        """
        ...

    def lease(
        self,
        upload_id: str,
        *,
        offset: int | None = None,
        timeout_seconds: float = 10.0,
        idle: bool = False,
        reason: DropoffError | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Take the upload over: ask a present holder to stop, then recover if need be.

        Args:
            upload_id: Which.
            offset: Where the caller wants to append. If a holder is past it, the caller's request is hopeless and
                the holder is left alone. None (for DELETE, finish) always takes over.
            timeout_seconds: How long to wait for another process's lease.
            idle: Only if nobody has it now, in whatever process; a holder is left alone.
            reason: Raised in a present holder's append; None: UploadInterruptedError.

        Raises:
            UploadNotFoundError, UploadDamagedError: As `stat`.
            MismatchedOffsetError: A holder is past `offset` already.
            UploadLockedError: Not obtained in time; with `idle`, somebody has it.
        """
        ...

    def joining(self) -> AbstractAsyncContextManager[None]:
        """Make concatenations one at a time, in whatever process: two equal requests must not both make the files.

        Raises:
            UploadLockedError: Its turn did not come in time; nothing was changed.
        """
        ...

    async def shred_damaged(self, upload_id: str, state: UploadState, why: str, at: datetime) -> None:
        """Do what `Lease.end` does with an upload that no lease can be had of, since it does not verify.

        The end is durable first. Its parts are the caller's to end: their list may be what is damaged.

        Raises:
            UploadNotFoundError: There is nothing of it.
            UploadLockedError: Another process writes it.
            StorageFailedError: The disk failed; repeat it.
        """
        ...

    async def interrupt(self, upload_ids: Sequence[str], state: UploadState) -> None:
        """Stop running appends of these uploads; each commits and then raises UploadGoneError."""
        ...


class StoreInventory(Store, Protocol):
    """The store, and what lies there whatever the catalog says: for sweeping and purging."""

    async def upload_ids(self) -> list[str]:
        """Return the ids of all uploads, in order."""
        ...

    async def leftovers(self, upload_id: str) -> bool:
        """Tell whether keys or bytes of an upload are here, whatever its log says."""
        ...

    async def stat_all(self, upload_ids: Sequence[str]) -> list[StoredUpload | DropoffError]:
        """Return the durable state of uploads, not too many of them, or why one cannot be told."""
        ...

    def unsealed(self, stored: StoredUpload) -> bool:
        """Tell whether an envelope to the server lies beside a sealed upload that is finished, or a part of it."""
        ...

    async def cut_off(self, upload_id: str, before: datetime) -> bool:
        """Tell whether a creation died before it wrote the log, before a time: nothing here was ever acknowledged."""
        ...

    async def begun(self, upload_id: str) -> bool:
        """Tell whether an upload has bytes or records beyond its creation, acknowledged or not."""
        ...

    async def claimed_drop(self, upload_id: str) -> str | None:
        """Return the drop-off that an upload's log names, without believing it."""
        ...

    async def tombstone(self, upload_id: str) -> dict[str, Any]:
        """Return what the log still says of an upload that has ended."""
        ...

    async def forget(self, upload_id: str) -> None:
        """Remove every file of an upload that holds nothing acknowledged."""
        ...
