"""Finding an upload for a client: in the drop-off and by the token of its URL, as long as it is there."""

from dataclasses import replace
from datetime import datetime

from dropoff_tus import concat, protocol
from dropoff_tus.errors import AccessDeniedError, DropoffError, UploadFinishingError, UploadNotFoundError
from dropoff_tus.ids import UploadToken
from dropoff_tus.messages import Status
from dropoff_tus.model import Mode, StoredUpload
from dropoff_tus.states import ENDED, UploadState
from server.usecases.finishing import Finisher
from server.usecases.ports import Ports


class Finder:
    """Finds uploads, and says where they stand."""

    def __init__(self, ports: Ports, finisher: Finisher) -> None:
        """Take the ports, and who finishes."""
        self._ports, self._finisher = ports, finisher
        self._expire_after_seconds = ports.settings.expire_after_seconds

    async def find(self, drop_id: str, token: UploadToken) -> StoredUpload:
        """Return an upload of this drop-off that is there, not ended and not expired.

        Raises:
            UploadNotFoundError, UploadGoneError: It is not here, or not any more.
        """
        store, receiving = self._ports.store, False
        try:
            stored = await store.stat(token.upload_id)
            if protocol.is_overdue(stored, self._ports.trusted.now(), self._expire_after_seconds):
                receiving = await store.receiving(token.upload_id)
                # A writer may have committed, and let go, since it was looked at.
                stored = await store.stat(token.upload_id)
        except UploadNotFoundError:
            raise await self.missing(drop_id, token) from None
        self.check(drop_id, stored, receiving=receiving)
        return stored

    def check(self, drop_id: str, stored: StoredUpload, *, receiving: bool = False) -> None:
        """Refuse an upload of another drop-off, one that has ended and one that is expired.

        Raises:
            UploadNotFoundError, UploadGoneError: It is one of these.
        """
        if stored.drop_id != drop_id:
            raise protocol.absent()
        protocol.check_present(stored, self._ports.trusted.now(), self._expire_after_seconds, receiving=receiving)

    async def missing(self, drop_id: str, token: UploadToken) -> DropoffError:
        """Return the refusal of an upload that the store does not have."""
        row = await self._ports.catalog.upload(token.upload_id)
        if row is not None and row.drop_id == drop_id and row.state in ENDED:
            return protocol.gone(row.state)
        return protocol.absent()

    def expires_at(self, stored: StoredUpload) -> datetime | None:
        """Return when an upload that is there expires, if nothing more comes."""
        now = self._ports.trusted.now()
        if protocol.is_overdue(stored, now, self._expire_after_seconds):
            # It is there since somebody receives for it; it is idle from the end of that, not from its last commit.
            stored = replace(stored, last_commit_at=now)
        return protocol.expires_at(stored, self._expire_after_seconds)

    async def state(self, upload_id: str) -> UploadState | None:
        """Return the state in which the catalog has an upload, if it has it."""
        row = await self._ports.catalog.upload(upload_id)
        return None if row is None else row.state

    async def head(self, drop_id: str, token: UploadToken) -> Status:
        """Say where an upload stands, after a quiet writer has committed.

        Raises:
            UploadFinishingError: All bytes are here, but it may still be rejected.
            UploadNotFoundError, UploadGoneError: It is not here, or not any more.
        """
        await self._ports.store.settle(token.upload_id)
        stored = await self.find(drop_id, token)
        try:
            protocol.decide_head(stored, await self.state(stored.id) if stored.whole else None)
        except UploadFinishingError:
            self._finisher.finish_later(stored.id)
            raise
        metadata = await self._ports.store.metadata(stored.id)
        shown = concat.render(stored.role, stored.parts)
        return Status(stored.offset, stored.length, metadata, self.expires_at(stored), shown)

    async def receipt(self, drop_id: str, token: UploadToken) -> bytes:
        """Return the signed receipt of a finished upload, one line.

        Raises:
            UploadNotFoundError, UploadGoneError: As `find`; and if it has none.
        """
        stored = await self.find(drop_id, token)
        line = await self._ports.store.url_receipt(stored.id, token.secret)
        if line is None:
            raise protocol.absent()
        return line

    async def readable(self, drop_id: str, token: UploadToken) -> StoredUpload:
        """Return a finished upload that the server can read.

        Raises:
            UploadNotFoundError, UploadGoneError: As `find`; and if it is not complete.
            AccessDeniedError: It is sealed.
        """
        stored = await self.find(drop_id, token)
        if await self.state(stored.id) is not UploadState.COMPLETE:
            raise protocol.absent()
        if stored.mode is Mode.SEALED:
            raise AccessDeniedError("this upload is sealed; the server cannot read it")
        return stored
