"""The leases: taking over, asking holders to stop or to commit, opening and recovering an upload's files.

A newcomer asks the present holder to stop; the holder commits what it has and lets go. Across processes the lease is
`flock` on `log`, which the kernel lets go of when a process dies.

Source: docs/format.md, Leases, Recovery.
"""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Sequence

from dropoff_tus.errors import (
    DropoffError,
    KeyMissingError,
    MismatchedOffsetError,
    ServerShutdownError,
    UploadInterruptedError,
    UploadLockedError,
)
from dropoff_tus.ids import is_upload_id
from dropoff_tus.model import Mode
from dropoff_tus.policy import STEP_BYTES
from dropoff_tus.protocol import ending
from dropoff_tus.states import UploadState
from storage.files.locks import lock, open_folder, try_lock
from storage.keyring.journal import JOURNAL, Written
from storage.keyring.lines import damaged
from storage.threads import Threads
from storage.uploads.base import Known, StoreBase, distrusted
from storage.uploads.claims import Claims
from storage.uploads.holder import QUIET_SECONDS, Holder
from storage.uploads.lease import FileLease
from storage.uploads.log import LogState, check_signs
from storage.uploads.reading import open_own_envelope
from storage.uploads.recovery import not_found, read_durable, read_state, repair

_LOCK_POLL_SECONDS = 0.05
_SETTLE_SECONDS = 2.0
_SETTLE_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
_JOINING_SECONDS = 10.0


class Leases:
    """All leases of this process."""

    def __init__(self, base: StoreBase, pools: Threads) -> None:
        """Start with none."""
        self._base, self._pools, self._claims = base, pools, Claims(base)
        self._holders: dict[str, Holder] = {}
        self._closing = False
        self._joining = asyncio.Lock()
        self._announced: int | None = None

    def held(self, upload_id: str) -> bool:
        """Tell whether a request of this process has the lease now."""
        return upload_id in self._holders

    def coming_bytes(self, without: str) -> dict[str, int]:
        """Return what uploads that receive will take soon, by drop-off; see the port."""
        coming: dict[str, int] = {}
        for upload_id, holder in self._holders.items():
            known = self._base.known.get(upload_id)
            if holder.body is None or known is None or upload_id == without:
                continue
            state, drop = known.state, known.state.create["drop"]
            missing = STEP_BYTES if state.length is None else state.length - state.offset
            coming[drop] = coming.get(drop, 0) + min(missing, STEP_BYTES)
        return coming

    async def receiving(self, upload_id: str) -> bool:
        """Tell whether anybody has the lease now; see the port."""
        return self.held(upload_id) or await self._pools.run(self._locked, upload_id)

    def _locked(self, upload_id: str) -> bool:
        try:
            log = self._base.disk.open_existing(self._base.layout.of(upload_id).log)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._base.failed(upload_id, error) from error
        try:
            return not try_lock(log, shared=True)
        finally:
            os.close(log)

    def announce(self) -> bool:
        """Say that a server runs here, until this process ends; see `FileStore`."""
        self._announced = open_folder(self._base.settings.keys_dir)
        alone = try_lock(self._announced)
        # An exclusive holder has it only for this moment.
        lock(self._announced, shared=True)
        return alone

    def close(self) -> None:
        """Say nothing any more."""
        if self._announced is not None:
            os.close(self._announced)
            self._announced = None

    # ---- asking holders -------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop running appends: each commits and raises ServerShutdownError. New leases are refused."""
        self._closing = True
        holders = list(self._holders.values())
        for holder in holders:
            holder.ask_stop(ServerShutdownError("the server is stopping"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                for holder in holders:
                    await holder.released.wait()

    def interrupt(self, upload_ids: Sequence[str], state: UploadState) -> None:
        """Stop running appends; see the port."""
        for upload_id in upload_ids:
            holder = self._holders.get(upload_id)
            if holder is not None:
                holder.ask_stop(ending(state, "drop-off closed by the operator"))

    async def settle(self, upload_id: str) -> None:
        """Let a quiet writer commit; see the port."""
        holder = self._holders.get(upload_id)
        deadline = time.monotonic() + _SETTLE_SECONDS
        if holder is None or holder.body is None or holder.checksummed:
            return
        # Also when nothing is uncommitted: the last bytes before a lost link may be in the kernel still. And one change
        # may be of bytes that were on their way when this was asked; only several are a stream that goes on.
        seen, changes = holder.received_at, 0
        while (now := time.monotonic()) < deadline and not holder.released.is_set():
            if holder.received_at != seen:
                seen, changes = holder.received_at, changes + 1
                if changes > 1:
                    return
            quiet = now - seen
            if quiet >= QUIET_SECONDS:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(holder.ask_commit(), max(0.01, deadline - now))
                return
            await asyncio.sleep(min(_SETTLE_POLL_SECONDS, max(0.0, QUIET_SECONDS - quiet)))

    @contextlib.asynccontextmanager
    async def joining(self) -> AsyncIterator[None]:
        """Have the turn of whoever makes a concatenation; see the port."""
        deadline = time.monotonic() + _JOINING_SECONDS
        async with self._joining:
            folder = await self._pools.run(open_folder, self._base.layout.uploads)
            try:
                while not try_lock(folder):
                    if time.monotonic() > deadline:
                        message = "another process is concatenating; nothing was changed, try again"
                        raise UploadLockedError(message)
                    await asyncio.sleep(_LOCK_POLL_SECONDS)
                yield
            finally:
                os.close(folder)

    # ---- taking over ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(
        self,
        upload_id: str,
        *,
        offset: int | None = None,
        timeout_seconds: float = 10.0,
        idle: bool = False,
        reason: DropoffError | None = None,
    ) -> AsyncIterator[FileLease]:
        """Take an upload over; see the port."""
        deadline = time.monotonic() + (0 if idle else timeout_seconds)
        while (present := self._holders.get(upload_id)) is not None:
            if idle:
                raise UploadLockedError("the upload is in use by another request")
            if offset is not None and present.position not in {None, offset}:
                message = "the upload is being written past that offset; ask with HEAD. Nothing was written"
                raise MismatchedOffsetError(message)
            present.ask_stop(reason or UploadInterruptedError("another request took this upload over"))
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
            lease = await self._open(upload_id, holder, deadline, for_append=offset is not None)
            yield lease
        finally:
            try:
                if lease is not None:
                    await lease.release()
            finally:
                del self._holders[upload_id]
                holder.let_go_of_body()
                holder.released.set()

    async def _open(self, upload_id: str, holder: Holder, deadline: float, *, for_append: bool) -> FileLease:
        # One that nobody here has written is verified whole.
        known = self._base.known.get(upload_id) is not None
        unread_bytes = 0 if known else await self._pools.run(self._base.log_bytes, upload_id)
        while True:
            opened = await self._pools.run_on_log(unread_bytes, self._try_open, upload_id, for_append)
            if opened is not None:
                state, log, data = opened
                return FileLease(self._base, self._pools, self._claims, holder, state, log, data)
            if time.monotonic() > deadline:
                message = "the upload is in use by another process"
                raise UploadLockedError(message)
            await asyncio.sleep(_LOCK_POLL_SECONDS)

    def _try_open(self, upload_id: str, for_append: bool) -> tuple[LogState, int, int] | None:  # noqa: FBT001
        """Open, lock and recover; None if another process holds the lock."""
        log, data = self._open_files(upload_id)
        try:
            if try_lock(log):
                return self._recover(upload_id, log, data, for_append), log, data
        except BaseException:
            os.close(log)
            os.close(data)
            raise
        os.close(log)
        os.close(data)
        return None

    def _open_files(self, upload_id: str) -> tuple[int, int]:
        if not is_upload_id(upload_id):
            raise not_found()
        if upload_id in self._base.distrusted:
            raise distrusted()
        paths = self._base.layout.of(upload_id)
        log = -1
        try:
            log = self._base.disk.open_existing(paths.log, write=True)
            return log, self._base.disk.open_existing(paths.data, write=True)
        except FileNotFoundError:
            if log < 0:
                raise self._base.absent() from None
            try:
                raise self._without_data(log, upload_id)
            finally:
                os.close(log)
        except OSError as error:
            if log >= 0:
                os.close(log)
            raise self._base.failed(upload_id, error) from error

    def _without_data(self, log: int, upload_id: str) -> DropoffError:
        """Tell a creation that a power cut took a part of from an upload whose bytes were taken away."""
        state, _ = read_state(log, upload_id, self._base.keys.signing)
        return not_found() if state.log_bytes == state.create_bytes else damaged(upload_id, "its data is gone")

    def _recover(self, upload_id: str, log: int, data: int, for_append: bool) -> LogState:  # noqa: FBT001
        base = self._base
        known = base.known.get(upload_id)
        size = os.fstat(log).st_size
        try:
            if known is not None and known.state.log_bytes == size:
                state = known.state
                if os.fstat(data).st_size != state.data_bytes:
                    repair(base.disk, base.layout.of(upload_id), log, data, state, 0)
            else:
                state, torn = read_durable(base.disk, log, upload_id, base.keys.signing)
                # Before anything is cut: the last record could have been moved there, and its totals with it.
                base.verified(log, upload_id)
                repair(base.disk, base.layout.of(upload_id), log, data, state, torn)
                known = Known(state)
                base.known.put(upload_id, known)
        except OSError as error:
            raise base.failed(upload_id, error) from error
        if not known.vouched and state.log_bytes == state.create_bytes:
            self._check_creation(state)
        if for_append and not state.final and state.ended is None:
            check_signs(base.keys.signing, state)
            if not known.vouched:
                self._vouch(state, known)
        return state

    def _check_creation(self, state: LogState) -> None:
        """Before the first commit to an upload of another process: whatever a power cut took, nothing was acknowledged.

        Raises:
            UploadNotFoundError: An envelope is gone or torn. Bytes committed now could never be opened.
        """
        paths = self._base.layout.of(state.id)
        try:
            root = self._base.read_key_file(state.id, paths.root_envelope)
            own = self._base.read_key_file(state.id, paths.own_envelope(state.mode))
        except FileNotFoundError:
            raise self._without_envelope(state) from None
        written = Written(self._base.settings.keys_dir / JOURNAL)
        if (
            not written.is_envelope(state.id, root, state.create["root"])
            or hashlib.sha256(own).hexdigest() != state.create["own"]
        ):
            raise not_found()

    def _without_envelope(self, state: LogState) -> DropoffError:
        """Tell a creation that a power cut took an envelope from, from a folder that is away and may come back."""
        if state.mode is Mode.SEALED and not self._base.layout.ingest_dir.is_dir():
            return KeyMissingError("the folder keys.ingest_dir is not there; its bytes are safe, put the folder back")
        return self._base.absent()

    def _vouch(self, state: LogState, known: Known) -> None:
        """Before appending to an upload this process did not make: its envelope must open and be its own."""
        try:
            envelope = open_own_envelope(self._base, state)
        except KeyMissingError:
            # A missing key may be restored; a missing envelope will not come again.
            if state.segments == 0 and not self._base.layout.of(state.id).own_envelope(state.mode).exists():
                raise self._without_envelope(state) from None
            raise
        except Exception:
            if state.segments == 0:
                raise not_found() from None
            raise
        known.metadata, known.receipt_identity = envelope.metadata, envelope.receipt_identity
        known.vouched = True
