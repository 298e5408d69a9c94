"""The store on local files: implements `dropoff_tus.ports.Store`.

The event loop only sequences; every file operation and all cryptography run in worker threads: few that seal, as many
as
there are cores, and more that wait for the disk. What an upload's log says is kept in a bounded cache and believed
while
the log has the size it had, so another process may write between two requests.

Source: docs/format.md.
"""

import asyncio
import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from blake3 import blake3

from dropoff_tus.checksum import running_hash
from dropoff_tus.errors import (
    KeyMissingError,
    MismatchedOffsetError,
    ServerShutdownError,
    StorageFailedError,
    StorageFullError,
    UploadGoneError,
    UploadInterruptedError,
    UploadLockedError,
    UploadNotFoundError,
)
from dropoff_tus.ids import is_upload_id
from dropoff_tus.model import Metadata, Mode, Role, StoredUpload, UploadState
from dropoff_tus.ports import Completion, NewUpload
from storage.age import AgeError, Identity, KeyType, Recipient, decrypt, encrypt
from storage.durable import Disk
from storage.envelope import SALT_BYTES, Envelope, open_envelope
from storage.keys import ServerKeys, parse_identities, parse_recipient, receipt_url_identity
from storage.layout import Layout, UploadPaths
from storage.lease import QUIET_SECONDS, FileLease, Holder
from storage.log import (
    FORMAT_VERSION,
    LogState,
    damaged,
    initial_state,
    jump,
    next_record,
    sign_line,
    sign_receipt,
    stamp,
    verify_receipt,
)
from storage.recovery import Chain, not_found, read_chain, read_state, repair
from storage.segment import read_segments

T = TypeVar("T")
_CACHE_ENTRIES = 4096
_LOCK_POLL_SECONDS = 0.05
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What the configuration says of the store."""

    root: Path
    keys_dir: Path
    root_recipients: tuple[str, ...]
    durability: Literal["fsync", "os"] = "fsync"
    digest: Literal["sha256", "blake3", "none"] = "sha256"
    free_space_floor_bytes: int = 1 << 30


@dataclass(slots=True)
class _Known:
    """What this process remembers of an upload. `vouched` means: it made or opened the envelope itself."""

    state: LogState
    hashes: dict[str, Any] = field(default_factory=dict)
    metadata: Metadata | None = None
    vouched: bool = False


class FileStore:
    """Uploads as age segments and signed logs in two folders."""

    def __init__(
        self, settings: StoreSettings, keys: ServerKeys, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Take settings and keys; `start` makes the folders."""
        self.settings, self.keys, self.now = settings, keys, clock
        self.layout = Layout(settings.root, settings.keys_dir)
        self.disk = Disk(sync=settings.durability == "fsync")
        self._holders: dict[str, Holder] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._unfinished: dict[str, int] = {}
        self._distrusted: set[str] = set()
        self._closing = False
        cores = os.cpu_count() or 2
        self._sealers = ThreadPoolExecutor(max(2, cores), thread_name_prefix="seal")
        self._workers = ThreadPoolExecutor(16, thread_name_prefix="disk")

    # ---- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the store's folders."""

        def work() -> None:
            self.disk.make_folder(self.layout.uploads)
            self.disk.make_folder(self.settings.keys_dir)

        await self.run(work)

    async def stop_appends(self) -> None:
        """Stop running appends: each commits and raises ServerShutdownError. New ones are refused."""
        self._closing = True
        holders = list(self._holders.values())
        for holder in holders:
            holder.ask_stop(ServerShutdownError("the server is stopping; what arrived is kept, resume shortly"))
        for holder in holders:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(holder.released.wait(), 10)

    async def close(self) -> None:
        """Stop what runs, and let the threads go."""
        await self.stop_appends()
        self._sealers.shutdown(wait=True)
        self._workers.shutdown(wait=True)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run file work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)

    async def run_sealing(self, work: Callable[..., T], *arguments: object) -> T:
        """Run the sealing of a body in one of few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._sealers, work, *arguments)

    # ---- creating -------------------------------------------------------------------------------------------

    async def create(self, new: NewUpload) -> StoredUpload:
        """Make an upload with no bytes; see the port."""
        return await self.run(self._create, new)

    def _create(self, new: NewUpload) -> StoredUpload:
        self.keys.verify_policy(new.drop_id, new.policy)
        texts = new.policy.recipients or self.settings.root_recipients
        roots = [parse_recipient(text) for text in texts]
        if not roots:
            message = "no root recipient is configured (keys.root_recipients); nothing was stored"
            raise KeyMissingError(message)
        identity = Identity.generate(roots[0].key_type)
        envelope = Envelope(new.id, identity, os.urandom(SALT_BYTES), new.metadata)
        mode, epoch = new.policy.mode, None
        if mode is Mode.SEALED:
            epoch = self.keys.ingest.current(new.created_at.date())
        server = self._server_identity(mode, epoch, identity.key_type.value)
        if server is None:
            message = f"the server has no {identity.key_type.value} identity for itself; nothing was stored"
            raise KeyMissingError(message)
        record = self._create_record(new, envelope, texts, epoch)
        line = sign_line(record, self.keys.signing)
        paths = self.layout.of(new.id)
        try:
            self.disk.make_folder(paths.keys_folder)
            self.disk.make_folder(paths.folder)
            self.disk.write_new(paths.root_envelope, envelope.seal(roots))
            self.disk.write_new(paths.server_envelope, envelope.seal([server.recipient]))
            self.disk.write_new(paths.data, b"")
            self.disk.write_new(paths.log, line)
        except OSError as error:
            self._remove_files(paths)
            text = "the upload could not be created; nothing of it is stored"
            raise (StorageFullError if error.errno == errno.ENOSPC else StorageFailedError)(text) from error
        state = initial_state(record, line)
        names = self.wanted_digests(new.digests) if new.role is not Role.FINAL else set()
        known = _Known(state, {name: _hash(name) for name in names}, new.metadata, vouched=True)
        self._remember(new.id, known)
        return state.stored()

    def _create_record(
        self, new: NewUpload, envelope: Envelope, roots: Sequence[str], epoch: str | None
    ) -> dict[str, Any]:
        concat: dict[str, Any] | None = None
        if new.role is Role.FINAL:
            concat = {"role": new.role.value, "parts": list(new.parts)}
        elif new.role is Role.PARTIAL:
            concat = {"role": new.role.value}
        recipient = envelope.identity.recipient
        return {
            "t": "create",
            "v": FORMAT_VERSION,
            "at": stamp(new.created_at),
            "id": new.id,
            "drop": new.drop_id,
            "mode": new.policy.mode.value,
            "epoch": epoch,
            "roots": hashlib.sha256("\n".join(sorted(roots)).encode()).hexdigest(),
            "key": self.keys.signing.id,
            "u": {
                "type": recipient.key_type.value,
                "key": base64.b64encode(recipient.public_bytes).decode("ascii"),
            },
            "len": new.length,
            "commitment": envelope.commitment(),
            "concat": concat,
            "prev": "",
            "tot": [0, 0, 0],
        }

    def _remove_files(self, paths: UploadPaths) -> None:
        for path in (*paths.key_files, paths.data, paths.log, paths.folder / "log.torn"):
            with contextlib.suppress(OSError):
                self.disk.remove(path)
        with contextlib.suppress(OSError):
            paths.folder.rmdir()

    async def forget(self, upload_id: str) -> None:
        """Remove every file of an upload that holds nothing acknowledged, or of a tombstone."""
        self._known.pop(upload_id, None)
        await self.run(self._remove_files, self.layout.of(upload_id))

    def sync_creation(self, state: LogState) -> None:
        """Before the first commit: make the envelopes, the receipt's folder and all new folders durable."""
        paths = self.layout.of(state.id)
        for envelope in (paths.root_envelope, paths.server_envelope):
            if envelope.exists():
                self.disk.sync_path(envelope)
        for folder in (
            paths.keys_folder,
            self.settings.keys_dir,
            paths.folder,
            paths.folder.parent,
            self.layout.uploads,
            self.layout.root,
        ):
            self.disk.sync_path(folder)

    # ---- knowing --------------------------------------------------------------------------------------------

    async def stat(self, upload_id: str) -> StoredUpload:
        """Return the durable state; see the port."""
        state = (await self.run(self.load, upload_id)).stored()
        if not state.final and state.ended is None:
            self._unfinished[upload_id] = state.offset
        return state

    def load(self, upload_id: str) -> LogState:
        """Return the log's state, from memory while the log's size is the one remembered."""
        if not is_upload_id(upload_id):
            raise not_found()
        paths = self.layout.of(upload_id)
        known = self._known.get(upload_id)
        try:
            if known is not None and paths.log.stat().st_size == known.state.log_bytes:
                return known.state
            log = self.disk.open_existing(paths.log)
        except FileNotFoundError:
            self._known.pop(upload_id, None)
            raise not_found() from None
        except OSError as error:
            message = "the disk failed; what was acknowledged stays"
            raise StorageFailedError(message) from error
        try:
            state, _ = read_state(log, upload_id, self.keys.signing)
        finally:
            os.close(log)
        return state

    def chain(self, upload_id: str, *, every_signature: bool = False) -> Chain:
        """Read and verify a whole log."""
        try:
            log = self.disk.open_existing(self.layout.of(upload_id).log)
        except FileNotFoundError:
            raise not_found() from None
        try:
            return read_chain(log, upload_id, self.keys.signing, every_signature=every_signature)
        finally:
            os.close(log)

    async def upload_ids(self) -> list[str]:
        """Return the ids of all folders, in order."""

        def work() -> list[str]:
            return sorted(p.name for p in self.layout.uploads.glob("??/*") if is_upload_id(p.name))

        return await self.run(work)

    async def metadata(self, upload_id: str) -> Metadata | None:
        """Return the client's metadata, or None; see the port."""
        known = self._known.get(upload_id)
        if known is not None and known.metadata is not None:
            return known.metadata

        def work() -> Metadata | None:
            state = self.load(upload_id)
            try:
                return self.open_own_envelope(state).metadata
            except KeyMissingError:
                return None

        return await self.run(work)

    async def settle(self, upload_id: str) -> None:
        """Let a quiet writer commit; see the port."""
        holder = self._holders.get(upload_id)
        deadline = time.monotonic() + _SETTLE_SECONDS
        if holder is None or not holder.uncommitted or holder.checksummed:
            return
        seen = holder.received_at
        while time.monotonic() < deadline:
            if holder.received_at != seen or holder.released.is_set() or not self._holds_uncommitted(holder):
                return
            quiet = time.monotonic() - holder.received_at
            if quiet >= QUIET_SECONDS:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(holder.ask_commit(), max(0.01, deadline - time.monotonic()))
                return
            await asyncio.sleep(min(0.1, QUIET_SECONDS - quiet + 0.01))

    @staticmethod
    def _holds_uncommitted(holder: Holder) -> bool:
        return holder.uncommitted

    # ---- leases ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(
        self, upload_id: str, *, offset: int | None = None, timeout_seconds: float = 10.0
    ) -> AsyncIterator[FileLease]:
        """Take an upload over; see the port."""
        deadline = time.monotonic() + timeout_seconds
        while (present := self._holders.get(upload_id)) is not None:
            if offset is not None and present.position not in {None, offset}:
                message = "the upload is being written past that offset; ask with HEAD. Nothing was written"
                raise MismatchedOffsetError(message)
            taken_over = "another request took this upload over; what arrived is kept"
            present.ask_stop(UploadInterruptedError(taken_over))
            try:
                await asyncio.wait_for(present.released.wait(), max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                message = "the upload is in use by another request"
                raise UploadLockedError(message) from None
        if self._closing:
            message = "the server is stopping; nothing was written, resume shortly"
            raise ServerShutdownError(message)
        holder = Holder()
        self._holders[upload_id] = holder
        lease: FileLease | None = None
        try:
            lease = await self._open_lease(upload_id, holder, deadline, for_append=offset is not None)
            yield lease
        finally:
            if lease is not None:
                lease.close()
            del self._holders[upload_id]
            holder.answer_commits()
            holder.released.set()

    async def _open_lease(self, upload_id: str, holder: Holder, deadline: float, *, for_append: bool) -> FileLease:
        log, data = await self.run(self._open_files, upload_id)
        try:
            while not await self.run(_try_lock, log):
                if time.monotonic() > deadline:
                    message = "the upload is in use by another process"
                    raise UploadLockedError(message)  # noqa: TRY301 - the descriptors are closed below
                await asyncio.sleep(_LOCK_POLL_SECONDS)
            state = await self.run(self._recover, upload_id, log, data, for_append)
        except BaseException:
            os.close(log)
            os.close(data)
            raise
        return FileLease(self, holder, state, log, data)

    def _open_files(self, upload_id: str) -> tuple[int, int]:
        if not is_upload_id(upload_id):
            raise not_found()
        if upload_id in self._distrusted:
            message = "the disk failed under this upload; it is refused until the server has been restarted"
            raise StorageFailedError(message)
        paths = self.layout.of(upload_id)
        log = -1
        try:
            log = self.disk.open_existing(paths.log, write=True)
            return log, self.disk.open_existing(paths.data, write=True)
        except OSError as error:
            if log >= 0:
                os.close(log)
            if isinstance(error, FileNotFoundError):
                raise not_found() from None
            message = "the disk failed; what was acknowledged stays"
            raise StorageFailedError(message) from error

    def _recover(self, upload_id: str, log: int, data: int, for_append: bool) -> LogState:  # noqa: FBT001
        known = self._known.get(upload_id)
        size = os.fstat(log).st_size
        try:
            if known is not None and known.state.log_bytes == size:
                state = known.state
                if os.fstat(data).st_size != state.data_bytes:
                    repair(self.disk, self.layout.of(upload_id), log, data, state, 0)
            else:
                state, torn = read_state(log, upload_id, self.keys.signing)
                repair(self.disk, self.layout.of(upload_id), log, data, state, torn)
                known = _Known(state)
                self._remember(upload_id, known)
        except OSError as error:
            message = "the disk failed; what was acknowledged stays"
            raise StorageFailedError(message) from error
        if for_append and not known.vouched and not state.final and state.ended is None:
            self._vouch(state, known)
        return state

    def _vouch(self, state: LogState, known: _Known) -> None:
        """Before appending to an upload this process did not make: its envelope must open and be its own."""
        try:
            known.metadata = self.open_own_envelope(state).metadata
        except (KeyMissingError, FileNotFoundError):
            if state.segments == 0:
                raise not_found() from None
            raise
        except Exception:
            if state.segments == 0:
                raise not_found() from None
            raise
        known.vouched = True

    # ---- what leases need -----------------------------------------------------------------------------------

    def hashes_of(self, state: LogState) -> dict[str, Any]:
        """Return the running digests of an upload; empty when they were not carried from its first byte."""
        known = self._known.get(state.id)
        return known.hashes if known is not None else {}

    def wanted_digests(self, names: Sequence[str]) -> set[str]:
        """Return the digests to compute: the configured one and the named ones."""
        configured = set() if self.settings.digest == "none" else {self.settings.digest}
        return configured | set(names)

    def remember(self, state: LogState, hashes: dict[str, Any]) -> None:
        """Keep an upload's newest state."""
        known = self._known.get(state.id)
        if known is None:
            known = _Known(state)
        known.state, known.hashes = state, hashes
        self._remember(state.id, known)

    def _remember(self, upload_id: str, known: _Known) -> None:
        self._known[upload_id] = known
        with contextlib.suppress(KeyError):
            self._known.move_to_end(upload_id)
        while len(self._known) > _CACHE_ENTRIES:
            with contextlib.suppress(KeyError):
                self._known.popitem(last=False)

    def note_progress(self, state: LogState, gained_bytes: int) -> None:
        """Count bytes that are on disk although still reserved."""
        self._unfinished[state.id] = self._unfinished.get(state.id, state.offset - gained_bytes) + gained_bytes

    def distrust(self, upload_id: str) -> None:
        """Refuse an upload whose disk state is unknown, until a restart has read it anew."""
        self._distrusted.add(upload_id)
        self._known.pop(upload_id, None)

    def recipient_of(self, state: LogState) -> Recipient:
        """Return the upload's own recipient, parsed."""
        return Recipient.from_public_bytes(KeyType(state.key_type), state.recipient_bytes)

    def create_line_bytes(self, state: LogState) -> int:
        """Return the size of the create record's line: a log of that size has no commit yet."""
        return len(sign_line(state.create, self.keys.signing)) if state.segments == 0 else 0

    def total_bytes(self, state: LogState) -> int:
        """Return the length of an upload or of a concatenation's parts."""
        if not state.parts:
            return state.offset
        return sum(self.load(part).offset for part in state.parts)

    def final_parts(self, state: LogState) -> list[list[Any]]:
        """Return (id, hash of the last line, length) of each part of a concatenation."""
        parts: list[list[Any]] = []
        for part in state.parts:
            part_state = self.load(part)
            if not part_state.final:
                raise damaged(state.id, "a part of the concatenation is not finished")
            parts.append([part, part_state.final_hash, part_state.offset])
        return parts

    def verify_before_final(self, state: LogState, log: int) -> None:
        """Walk the chain before the final record is written."""
        chain = read_chain(log, state.id, self.keys.signing, every_signature=False)
        if chain.state.last_hash != state.last_hash or chain.state.offset != state.offset:
            raise damaged(state.id, "its log is not the one that was written")

    # ---- keys of uploads ------------------------------------------------------------------------------------

    def _server_identity(self, mode: Mode, epoch: str | None, key_type: str) -> Identity | None:
        if mode is Mode.MANAGED:
            return self.keys.managed_identity(key_type)
        return None if epoch is None else self.keys.ingest.identity(epoch, key_type)

    def open_own_envelope(self, state: LogState) -> Envelope:
        """Open the server's envelope.

        Raises:
            KeyMissingError: It is sealed, or the identity is gone.
            UploadDamagedError: It is not this upload's.
        """
        try:
            blob = self.layout.of(state.id).server_envelope.read_bytes()
        except FileNotFoundError:
            blob = b""
        identity = self._server_identity(state.mode, state.create["epoch"], state.key_type)
        if not blob or identity is None:
            message = f"no identity at hand opens upload {state.id}; its bytes are safe"
            raise KeyMissingError(message)
        return open_envelope(blob, [identity], state)

    def open_with(self, state: LogState, identities: Sequence[str]) -> Envelope:
        """Open the envelope with given identities, or with the server's own when there are none."""
        if not identities:
            return self.open_own_envelope(state)
        try:
            blob = self.layout.of(state.id).root_envelope.read_bytes()
        except FileNotFoundError:
            message = f"the envelope of upload {state.id} is gone; it was shredded"
            raise KeyMissingError(message) from None
        return open_envelope(blob, parse_identities(identities), state)

    # ---- reading --------------------------------------------------------------------------------------------

    async def read(
        self, upload_id: str, *, start: int = 0, stop: int | None = None, identities: Sequence[str] = ()
    ) -> AsyncIterator[bytes]:
        """Yield plain bytes of a finished upload; see the port."""
        pieces = self.read_plain(upload_id, start=start, stop=stop, identities=tuple(identities))
        while (piece := await self.run(_next_piece, pieces)) is not None:
            yield piece

    def read_plain(
        self,
        upload_id: str,
        *,
        start: int = 0,
        stop: int | None = None,
        identities: tuple[str, ...] = (),
        unfinished_ok: bool = False,
    ) -> Iterator[bytes]:
        """Yield plain bytes, in the calling thread."""
        chain = self.chain(upload_id)
        state = chain.state
        if state.ended is not None:
            message = f"the upload was {state.ended.value}; its content is gone"
            raise UploadGoneError(message)
        if not state.final and not unfinished_ok:
            message = f"upload {upload_id} is not finished"
            raise UploadNotFoundError(message)
        if state.parts:
            yield from self._read_parts(state, start, stop, identities)
            return
        end = state.offset if stop is None else min(stop, state.offset)
        envelope = self.open_with(state, identities)
        data = self.disk.open_existing(self.layout.of(upload_id).data)
        try:
            if os.fstat(data).st_size != state.data_bytes and state.final:
                raise damaged(upload_id, "its data has another size than what was committed")
            yield from read_segments(data, upload_id, chain.segments, envelope.identity, start, end)
        finally:
            os.close(data)

    def _read_parts(
        self, state: LogState, start: int, stop: int | None, identities: tuple[str, ...]
    ) -> Iterator[bytes]:
        # The final's own envelope holds its metadata alone, but it must open: the right to read is the final's.
        self.open_with(state, identities)
        end = sum(self.load(part).offset for part in state.parts) if stop is None else stop
        committed = state.final_parts or tuple((p[0], p[1], p[2]) for p in self.final_parts(state))
        base = 0
        for part, final_hash, length in committed:
            if self.load(part).final_hash != final_hash:
                raise damaged(state.id, "a part is not the one that was concatenated")
            begin, until = max(start - base, 0), min(end - base, length)
            if begin < until:
                yield from self.read_plain(part, start=begin, stop=until, identities=identities)
            base += length

    def digests_read_back(self, state: LogState, names: set[str]) -> dict[str, bytes]:
        """Compute plaintext digests by reading an upload with the server's own identity."""
        hashes = {name: _hash(name) for name in names}
        for piece in self.read_plain(state.id, unfinished_ok=True):
            for value in hashes.values():
                value.update(piece)
        return {name: value.digest() for name, value in hashes.items()}

    # ---- finishing ------------------------------------------------------------------------------------------

    def finish_files(self, state: LogState, token: str | None, digests: dict[str, bytes]) -> Completion:
        """After the final record: receipt, then seal. Every step may be repeated."""
        final_hash = str(state.final_hash)
        receipt_id = hashlib.sha256(b"dropoff-tus/receipt-id/v1\n" + final_hash.encode()).hexdigest()[:32]
        if state.role is not Role.PARTIAL:
            self._write_receipts(state, receipt_id, token, digests)
            if state.mode is Mode.SEALED:
                self._seal(state)
        self._unfinished.pop(state.id, None)
        return Completion(state.offset, receipt_id, final_hash)

    def _write_receipts(self, state: LogState, receipt_id: str, token: str | None, digests: dict[str, bytes]) -> None:
        paths = self.layout.of(state.id)
        if paths.receipt.exists():
            return
        try:
            metadata = self.open_own_envelope(state).metadata
        except KeyMissingError:
            # Sealed by an earlier attempt; the receipt came before that, so it can only have been removed since.
            return
        payload = {
            "v": 1,
            "receipt": receipt_id,
            "drop": state.create["drop"],
            "upload": state.id,
            "path": metadata.filename,
            "length": state.offset,
            "created_at": state.create["at"],
            "completed_at": stamp(state.last_at),
            "final": state.final_hash,
            **{name: value.hex() for name, value in digests.items()},
        }
        line = sign_receipt(payload, self.keys.signing)
        if token is not None:
            own = receipt_url_identity(token, KeyType(state.key_type))
            self.disk.replace(paths.url_receipt, encrypt(line, own.recipient))
        self.disk.replace(paths.receipt, self._receipt_for_operators(state, line))

    def _receipt_for_operators(self, state: LogState, line: bytes) -> bytes:
        recipients = [parse_recipient(text) for text in self.settings.root_recipients]
        recipients = [r for r in recipients if r.key_type.value == state.key_type]
        managed = self.keys.managed_identity(state.key_type)
        if state.mode is Mode.MANAGED and managed is not None:
            recipients.append(managed.recipient)
        if not recipients:
            # A drop-off with recipients of its own, of another type than the configured roots: U itself opens it.
            recipients = [self.recipient_of(state)]
        return encrypt(line, recipients)

    def _seal(self, state: LogState) -> None:
        """Unlink the server's envelopes of the upload and its parts, durably."""
        for upload_id in (*state.parts, state.id):
            paths = self.layout.of(upload_id)
            if self.disk.remove(paths.server_envelope):
                self.disk.sync_path(paths.keys_folder)
            known = self._known.get(upload_id)
            if known is not None:
                known.metadata = None

    async def receipt(self, upload_id: str, identities: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return a receipt's payload, or None where it is not there or cannot be read here."""

        def work() -> dict[str, Any] | None:
            try:
                blob = self.layout.of(upload_id).receipt.read_bytes()
                line = decrypt(blob, [*parse_identities(identities), *self.keys.managed])
            except (FileNotFoundError, AgeError):
                return None
            return verify_receipt(line, self.keys.signing)

        return await self.run(work)

    async def url_receipt(self, upload_id: str, token: str) -> bytes | None:
        """Return the signed receipt for whoever has the upload's URL, or None."""

        def work() -> bytes | None:
            try:
                blob = self.layout.of(upload_id).url_receipt.read_bytes()
                return decrypt(blob, [receipt_url_identity(token, KeyType(self.load(upload_id).key_type))])
            except (FileNotFoundError, AgeError):
                return None

        return await self.run(work)

    # ---- ending ---------------------------------------------------------------------------------------------

    def shred(self, state: LogState) -> None:
        """Remove the keys, durably, then the bytes. The log stays as a tombstone."""
        paths = self.layout.of(state.id)
        removed = [self.disk.remove(path) for path in paths.key_files]
        if any(removed):
            self.disk.sync_path(paths.keys_folder)
        data = self.disk.open_existing(paths.data, write=True)
        try:
            self.disk.truncate(data, 0)
        finally:
            os.close(data)
        self._unfinished.pop(state.id, None)
        known = self._known.get(state.id)
        if known is not None:
            known.metadata, known.hashes = None, {}

    def shred_part(self, part: str, state: UploadState, why: str, at: datetime) -> None:
        """End and shred a part of a concatenation; nobody else can write it, since it is finished."""
        part_state = self.load(part)
        if part_state.ended is None:
            record = next_record(part_state, "end", at, {"state": state.value, "why": why})
            line = sign_line(record, self.keys.signing)
            log = self.disk.open_existing(self.layout.of(part).log, write=True)
            try:
                self.disk.write_at(log, line, part_state.log_bytes)
                self.disk.sync_file(log)
            finally:
                os.close(log)
            part_state = jump(part_state, record, line, part_state.log_bytes + len(line))
            self.remember(part_state, {})
        self.shred(part_state)

    async def interrupt(self, upload_ids: Sequence[str], state: UploadState) -> None:
        """Stop running appends; see the port."""
        for upload_id in upload_ids:
            holder = self._holders.get(upload_id)
            if holder is not None:
                holder.ask_stop(UploadGoneError(f"the upload was {state.value} by the operator"))

    async def retire_epochs(self, needed: set[str]) -> None:
        """Destroy ingest identities; see the port."""

        def work() -> None:
            today = self.now().date().isoformat()
            for epoch in self.keys.ingest.epochs():
                if epoch < today and epoch not in needed:
                    self.keys.ingest.destroy(epoch)

        await self.run(work)

    # ---- space ----------------------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        """Return what is free above the floor."""
        numbers = os.statvfs(self.settings.root)
        return numbers.f_bavail * numbers.f_frsize - self.settings.free_space_floor_bytes

    def unfinished_bytes(self) -> int:
        """Return the bytes on disk of uploads still reserved."""
        return sum(list(self._unfinished.values()))


def _hash(name: str) -> Any:  # noqa: ANN401 - hashlib's and blake3's objects share no type
    return blake3() if name == "blake3" else running_hash(name)


def _next_piece(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


def _try_lock(log: int) -> bool:
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
