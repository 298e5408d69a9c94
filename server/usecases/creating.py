"""Creating uploads, concatenations among them: the catalog first, which may refuse, then the store."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from dropoff_tus import policy, protocol
from dropoff_tus.errors import (
    DropoffError,
    DropoffFullError,
    InvalidConcatError,
    PartNotFoundError,
    QuotaError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.ids import UploadToken
from dropoff_tus.messages import Create, Created
from dropoff_tus.model import Dropoff, Grant, Role, StoredUpload, UploadRow, Usage
from dropoff_tus.ports.store import Body, Lease, NewUpload
from dropoff_tus.states import UploadState
from server.usecases.appending import Appender, receipt_url
from server.usecases.ending import Ender
from server.usecases.finding import Finder
from server.usecases.finishing import Finisher
from server.usecases.ports import Ports


class Creator:
    """Creates uploads."""

    def __init__(
        self,
        ports: Ports,
        finder: Finder,
        finisher: Finisher,
        ender: Ender,
        appender: Appender,
        new_token: Callable[[], str],
        final_token: Callable[[Sequence[str]], str],
    ) -> None:
        """Take the ports, the other use cases, the source of tokens, and the token of a concatenation by its parts'."""
        self._ports, self._finder, self._finisher, self._ender = ports, finder, finisher, ender
        self._appender, self._new_token, self._final_token = appender, new_token, final_token

    async def create(self, grant: Grant, drop_url: str, request: Create, body: Body | None) -> Created:
        """Create an upload, with its first bytes if they came along.

        Args:
            grant: The proven right to.
            drop_url: The drop-off's URL, ending in a slash; the upload's is this and its token.
            request: The request.
            body: The bytes, where request.body says that some come along.

        Raises:
            DropoffError: It is refused. Then nothing of it lingers, unless every byte had come.
        """
        if request.role is Role.FINAL:
            return await self._concatenate(grant.dropoff, drop_url, request)
        token = request.token or UploadToken(self._new_token())
        row = await self._admit(self._new_row(grant.dropoff, token, request, request.length), request)
        stored = await self._create_stored(row, token, request, grant.dropoff)
        created = Created(drop_url + token.secret, stored.id, expires_at=self._finder.expires_at(stored))
        if request.body is None and not stored.whole:
            return created
        async with self._ports.store.lease(stored.id, offset=0) as lease:
            if request.body is not None and body is not None:
                await self._first_bytes(lease, request, body)
            receipt = await self._finisher.finish(lease) if lease.upload.whole else False
            upload = lease.upload
        return replace(
            created,
            offset=upload.offset if request.body is not None else None,
            expires_at=self._finder.expires_at(upload),
            receipt=receipt_url(created.location, receipt),
        )

    def _new_row(self, drop: Dropoff, token: UploadToken, request: Create, length: int | None) -> UploadRow:
        return UploadRow(
            id=token.upload_id,
            drop_id=drop.id,
            role=request.role,
            mode=drop.terms.mode,
            state=UploadState.OPEN,
            created_at=self._ports.clock.now(),
            length=length,
            reserved_bytes=length or 0,
        )

    async def _admit(self, row: UploadRow, request: Create, parts: Sequence[str] = ()) -> UploadRow:
        """Let the drop-off's policy decide, and reserve, in one transaction."""
        store, catalog = self._ports.store, self._ports.catalog
        space = policy.Space(await store.free_bytes(), store.coming_bytes())
        asked = policy.Request(row.role, row.length, row.reserved_bytes, request.metadata)
        server_max = self._ports.settings.max_upload_bytes

        def decide(dropoff: Dropoff, usage: Usage) -> None:
            policy.admit(dropoff, usage, asked, now=row.created_at, server_max_bytes=server_max, space=space)
            if request.body is not None:
                limit = policy.max_upload_bytes(server_max, dropoff.terms)
                protocol.plan_body(0, row.length, request.body, limit)

        try:
            return await catalog.add_upload(row, decide, parts=parts)
        except (DropoffFullError, QuotaError):
            # Creations whose answer was lost hold what they reserved until they expire.
            if not await self._ender.end_lost(row.drop_id):
                raise
        return await catalog.add_upload(row, decide, parts=parts)

    async def _create_stored(
        self, row: UploadRow, token: UploadToken, request: Create, drop: Dropoff, parts: tuple[str, ...] = ()
    ) -> StoredUpload:
        new = NewUpload(
            id=row.id,
            token=token.secret,
            drop=drop,
            role=row.role,
            metadata=request.metadata,
            created_at=row.created_at,
            length=row.length,
            parts=parts,
            digests=tuple(digest.algorithm for digest in request.digests),
        )
        try:
            stored = await self._ports.store.create(new)
        except BaseException:
            # Should this fail too, expiry and reconcile find a row without an upload and drop it.
            with suppress(DropoffError):
                await self._ports.catalog.drop_upload(row.id)
            raise
        self._ports.counts.created += 1
        return stored

    async def _first_bytes(self, lease: Lease, request: Create, body: Body) -> None:
        """Append what came with a creation. A client that has no URL yet cannot go on, so nothing is left for it."""
        if request.body is None:
            return
        plan = protocol.plan_body(0, lease.upload.length, request.body, self._ports.settings.max_upload_bytes)
        try:
            await self._appender.take(lease, body, plan)
        except DropoffError as error:
            if request.token is None and not lease.upload.whole:
                error.fate = "this upload is undone and nothing of it is kept, create it again"
                with suppress(DropoffError):
                    await self._ender.end(lease, UploadState.TERMINATED, "creation failed")
            raise

    # ---- concatenating ----------------------------------------------------------------------------------------

    async def _concatenate(self, drop: Dropoff, drop_url: str, request: Create) -> Created:
        """Make a final of partials; the same parts in the same order again are the same upload."""
        store = self._ports.store
        token = UploadToken(self._final_token([part.secret for part in request.parts]))
        parts = tuple(part.upload_id for part in request.parts)
        created = Created(drop_url + token.secret, token.upload_id)
        async with store.joining():
            row = await self._ports.catalog.upload(token.upload_id)
            if row is None:
                length = await self.parts_bytes(drop, request.parts)
                row = await self._admit(self._new_row(drop, token, request, length), request, parts)
            elif row.drop_id != drop.id:
                raise PartNotFoundError("a part of the concatenation is no upload of this drop-off")
            elif protocol.is_success(row.state):
                return replace(created, receipt=receipt_url(created.location, row.state is UploadState.COMPLETE))
            try:
                await store.stat(row.id)
            except UploadNotFoundError:
                await self._create_stored(row, token, request, drop, parts)
        async with store.lease(row.id) as lease:
            receipt = await self._finisher.finish(lease)
        return replace(created, receipt=receipt_url(created.location, receipt))

    async def parts_bytes(self, drop: Dropoff, tokens: Sequence[UploadToken]) -> int:
        """Add up the parts. Whether they may be claimed is the catalog's to say, in its transaction."""
        total = 0
        for token in tokens:
            try:
                stored = await self._finder.find(drop.id, token)
            except UploadNotFoundError:
                raise PartNotFoundError("a part of the concatenation is no upload of this drop-off") from None
            except UploadGoneError as error:
                message = f"a part of the concatenation is gone, upload it again: {error.message}"
                raise UploadGoneError(message) from None
            if stored.role is not Role.PARTIAL or not stored.final:
                raise InvalidConcatError("every part must be a finished partial upload (Upload-Concat: partial)")
            if stored.mode is not drop.terms.mode:
                # A reader of the whole has to read each part, and sealing takes every part's key away.
                raise InvalidConcatError(
                    "the drop-off's mode was changed since this part began; upload the parts again"
                )
            total += stored.offset
        return total
