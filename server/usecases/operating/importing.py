"""Taking over the uploads of another tus server, finished or not, encrypted on the way.

An upload's token is derived from its old name, so that a run that is repeated, after a kill too, finds what is here and
goes on from there. What is finished is compared with the original before anybody may remove that.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import BinaryIO, Protocol

from dropoff_tus import headers, protocol
from dropoff_tus.errors import ToldError, UploadDamagedError, UploadNotFoundError
from dropoff_tus.ids import UploadToken
from dropoff_tus.messages import BodyInfo, Create, Patch
from dropoff_tus.model import Dropoff, Grant, Metadata, Mode, Role, StoredUpload
from dropoff_tus.states import ENDED, UploadState
from server.usecases.ports import Advance
from server.usecases.uploads import Uploads

_CHECKED_EVERY_SECONDS = 0.2
_MADE_WITHIN = timedelta(seconds=2)
"""So long another run may take from an upload's row to its files."""


class Original(Protocol):
    """The file of an upload at the other server."""

    def open(self) -> BinaryIO:
        """Open it to read, following no link."""
        ...

    def size_bytes(self) -> int:
        """Return its size now."""
        ...


@dataclass(frozen=True, slots=True)
class Foreign:
    """An upload of the other server. `name` is the end of its URL; `length` None is deferred."""

    name: str
    length: int | None
    offset: int
    metadata: Metadata
    original: Original = field(repr=False)


@dataclass(frozen=True, slots=True)
class Taken:
    """An upload as it is here now. `verified`: its bytes are those of the original, or more."""

    name: str
    token: UploadToken
    state: UploadState
    offset: int
    was_here: bool
    verified: bool


class _FileBody:
    """A body out of a file, which is always ready."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance

    async def wait(self, timeout_seconds: float) -> None:
        del timeout_seconds
        await asyncio.sleep(0)

    def wake(self) -> None:
        """Do nothing: it never waits."""

    def receive_into(self, buffer: memoryview) -> int | None:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined] # of every file that was opened
        self._advance(count)
        return count


class Importer:
    """Takes uploads into one drop-off, whose limits hold."""

    def __init__(self, uploads: Uploads, drop: Dropoff, token_of: Callable[[str], UploadToken]) -> None:
        """Take the use cases, the drop-off, and what derives a token from an old name."""
        self._uploads, self._ports, self._drop, self._token_of = uploads, uploads.ports, drop, token_of

    async def look(self, foreign: Foreign) -> Taken | None:
        """Return an upload that is here already, unverified; None if it is not.

        Raises:
            UploadGoneError: It was here, and ended.
        """
        token = self._token_of(foreign.name)
        row = await self._ports.catalog.upload(token.upload_id)
        if row is None:
            return None
        if row.state in ENDED:
            raise protocol.gone(row.state)
        try:
            stored = await self._ports.store.stat(token.upload_id)
        except UploadNotFoundError:
            return None
        return Taken(foreign.name, token, row.state, stored.offset, was_here=True, verified=False)

    async def take(self, foreign: Foreign, advance: Advance) -> Taken:
        """Bring an upload here as far as the other server has it, and compare it.

        Raises:
            ToldError: It is refused, or does not agree; the original stays as it is.
            OSError: The original cannot be read.
        """
        token = self._token_of(foreign.name)
        while (before := await self.look(foreign)) is None and (
            row := await self._ports.catalog.upload(token.upload_id)
        ):
            # A run that was killed left a row without an upload, or another one is making it at this moment.
            await asyncio.sleep(_CHECKED_EVERY_SECONDS)
            await self._uploads.ender.forget(row, self._ports.clock.now() - _MADE_WITHIN)
        if before is None:
            digests = tuple(headers.digests(foreign.metadata))
            wanted = Create(Role.REGULAR, foreign.length, foreign.metadata, digests=digests, token=token)
            await self._uploads.creator.create(Grant(self._drop), "", wanted, None)
        stored = await self._ports.store.stat(token.upload_id)
        advance(min(stored.offset, foreign.offset))
        if stored.offset < foreign.offset or (stored.whole and not (before and before.state is UploadState.COMPLETE)):
            await self._append(foreign, token, stored, advance)
        # A running server may be the one that checks.
        while (state := await self._uploads.finder.state(token.upload_id)) is UploadState.CHECKING:  # noqa: ASYNC110
            await asyncio.sleep(_CHECKED_EVERY_SECONDS)
        stored = await self._ports.store.stat(token.upload_id)
        if state is None or stored.ended is not None:
            raise protocol.gone(stored.ended or UploadState.DELETED)
        if foreign.original.size_bytes() != foreign.offset:
            raise ToldError("its file changed meanwhile: stop the other server, and run it again")
        verified = state is UploadState.COMPLETE and await self._agrees(foreign, token, stored)
        return Taken(foreign.name, token, state, stored.offset, was_here=before is not None, verified=verified)

    async def _append(self, foreign: Foreign, token: UploadToken, stored: StoredUpload, advance: Advance) -> None:
        with foreign.original.open() as file:
            file.seek(stored.offset)
            patch = Patch(stored.offset, BodyInfo(max(0, foreign.offset - stored.offset)))
            await self._uploads.appender.append(self._drop.id, token, patch, _FileBody(file, advance))

    async def _agrees(self, foreign: Foreign, token: UploadToken, stored: StoredUpload) -> bool:
        """Tell whether a complete upload has the original's bytes; False if nobody can tell.

        Raises:
            UploadDamagedError: It has others.
        """
        if foreign.offset != stored.offset:
            return True  # it went on here from where the other server had it
        digest = await self._sha256(token, stored)
        if digest is None:
            return False

        def of_original() -> str:
            with foreign.original.open() as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

        if digest != await asyncio.to_thread(of_original):
            raise UploadDamagedError(f"upload {stored.id} does not have the bytes of the original, which stays")
        return True

    async def _sha256(self, token: UploadToken, stored: StoredUpload) -> str | None:
        line = await self._ports.store.url_receipt(stored.id, token.secret)
        told: str | None = None if line is None else json.loads(line.rpartition(b" ")[0]).get("sha256")
        if told is not None or stored.mode is Mode.SEALED:
            return told
        read = hashlib.sha256()
        async for piece in self._ports.store.read(stored.id):
            read.update(piece)
        return read.hexdigest()
