"""Appending: a body at the durable offset, and the end of the upload if that was all of it.

A body in the middle of an upload of known length asks no database.
"""

from dropoff_tus import protocol
from dropoff_tus.errors import DropoffError, MaxSizeExceededError, UploadNotFoundError, UploadSizeExceededError
from dropoff_tus.ids import UploadToken
from dropoff_tus.messages import Appended, AppendPlan, Patch
from dropoff_tus.model import Role
from dropoff_tus.ports.store import Body, Lease
from dropoff_tus.states import UploadState
from server.usecases.finding import Finder
from server.usecases.finishing import Finisher
from server.usecases.ports import Ports
from server.usecases.reserving import Reservations


class Appender:
    """Appends bodies under their leases."""

    def __init__(self, ports: Ports, finder: Finder, finisher: Finisher) -> None:
        """Take the ports, and who finds and who finishes uploads."""
        self._ports, self._finder, self._finisher = ports, finder, finisher
        self._reservations = Reservations(ports)

    async def append(self, drop_id: str, token: UploadToken, request: Patch, body: Body, url: str = "") -> Appended:
        """Append a body at the durable offset, and finish the upload, whose URL this is, if that was all of it.

        Raises:
            DropoffError: It is refused or ends; arrived bytes are durable, unless the error says otherwise.
        """
        store, server_max = self._ports.store, self._ports.settings.max_upload_bytes
        if store.may_be_held(token.upload_id):
            # A hopeless request must not interrupt a healthy one.
            protocol.decide_patch(await self._finder.find(drop_id, token), request, server_max)
        receipt = False
        try:
            async with store.lease(token.upload_id, offset=request.offset) as lease:
                self._finder.check(drop_id, lease.upload)
                plan = protocol.decide_patch(lease.upload, request, server_max)
                if not plan.ignore_body:
                    protocol.check_offset(lease.upload, plan)
                    protocol.check_pieces(lease.upload, plan)
                    await self.take(lease, body, plan)
                upload = lease.upload
                if plan.ignore_body and protocol.is_success(state := await self._finder.state(upload.id)):
                    receipt = state is UploadState.COMPLETE and upload.role is not Role.PARTIAL
                elif upload.whole:
                    receipt = await self._finisher.finish(lease)
                    upload = lease.upload
        except UploadNotFoundError:
            raise await self._finder.missing(drop_id, token) from None
        return Appended(upload.offset, self._finder.expires_at(upload), receipt_url(url, receipt))

    async def take(self, lease: Lease, body: Body, plan: AppendPlan) -> None:
        """Reserve and append under the lease. Should the upload be whole in spite of an error, it is finished."""
        if lease.upload.length is None:
            # Under the lease: declaring a length settles the reservation, and another request may be writing.
            body = await self._reservations.prepare(lease.upload, plan, body)
        if plan.declare_length is not None:
            await lease.declare_length(plan.declare_length, self._ports.clock.now())
        idle_seconds = self._ports.settings.body_idle_timeout_seconds
        try:
            await lease.append(body, plan, idle_timeout_seconds=idle_seconds, hold_last=True)
        except DropoffError as error:
            error.offset = lease.upload.offset
            if lease.upload.whole and isinstance(error, (UploadSizeExceededError, MaxSizeExceededError)):
                # A body that went past the end: every byte that belongs to the upload is here.
                await self._finisher.finish(lease)
            elif lease.upload.whole:
                self._finisher.finish_later(lease.upload.id)
            raise


def receipt_url(upload_url: str, there: bool) -> str | None:  # noqa: FBT001 - it is what the finisher tells
    """Return where an upload's receipt is, if it is there."""
    return f"{upload_url}/receipt" if there else None
