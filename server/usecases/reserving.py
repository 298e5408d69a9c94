"""Reservations of uploads whose length is deferred: ahead of the bytes, in steps, one transaction a step."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from dropoff_tus import policy
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Dropoff, StoredUpload, Usage
from dropoff_tus.ports.store import Body
from server.usecases.ports import Ports

_REMEMBERED = 4096


class _LessRoomError(Exception):
    """Inside the transaction it turned out that only `total_bytes` fit."""

    def __init__(self, total_bytes: int) -> None:
        super().__init__()
        self.total_bytes = total_bytes


class Reservations:
    """The reservations of uploads with a deferred length, and how they get more."""

    def __init__(self, ports: Ports) -> None:
        """Take the ports."""
        self._store, self._catalog = ports.store, ports.catalog
        self._max_upload_bytes = ports.settings.max_upload_bytes
        # A cache: the catalog has the entries that it lost.
        self._reserved: OrderedDict[str, int] = OrderedDict()

    async def prepare(self, upload: StoredUpload, plan: AppendPlan, body: Body) -> Body:
        """Reserve for a body as far as its size is known; return it, or one that reserves on its way.

        Raises:
            MaxSizeExceededError, QuotaError, StorageFullError: There is no room; nothing was written.
        """
        if plan.declare_length is not None:
            await self._grow(upload.id, plan.offset, plan.declare_length, length=plan.declare_length)
            return body
        reserved = await self._present(upload.id)
        if plan.expected_bytes is not None:
            needed = plan.offset + plan.expected_bytes
            if needed > reserved:
                await self._grow(upload.id, plan.offset, needed, ahead_bytes=policy.STEP_BYTES)
            return body
        position = max(reserved, plan.offset)

        async def more() -> int:
            nonlocal position
            present = position
            ahead = policy.STEP_BYTES - 1
            position = await self._grow(upload.id, present, present + 1, ahead_bytes=ahead)
            return position - present

        return ReservingBody(body, position - plan.offset, more)

    async def _present(self, upload_id: str) -> int:
        known = self._reserved.get(upload_id)
        if known is not None:
            return known
        row = await self._catalog.upload(upload_id)
        return row.reserved_bytes if row is not None else 0

    async def _grow(
        self, upload_id: str, stored_bytes: int, needed_bytes: int, *, ahead_bytes: int = 0, length: int | None = None
    ) -> int:
        """Reserve a total of at least needed_bytes and return what it became."""
        present = await self._present(upload_id)
        space = policy.Space(await self._store.free_bytes(), self._store.coming_bytes(without=upload_id))
        total = needed_bytes + ahead_bytes

        def decide(dropoff: Dropoff, usage: Usage) -> None:
            possible = policy.next_reservation(
                dropoff,
                usage,
                present_bytes=present,
                stored_bytes=stored_bytes,
                needed_bytes=needed_bytes,
                ahead_bytes=total - needed_bytes,
                server_max_bytes=self._max_upload_bytes,
                space=space,
            )
            if possible < total:
                raise _LessRoomError(possible)

        while True:
            try:
                await self._catalog.reserve(upload_id, total, decide, length=length)
            except _LessRoomError as less:
                # Usage may change again before the next attempt; the need stays the same, so this comes to an end.
                total = less.total_bytes
            else:
                break
        self._reserved[upload_id] = total
        self._reserved.move_to_end(upload_id)
        if len(self._reserved) > _REMEMBERED:
            self._reserved.popitem(last=False)
        return total


class ReservingBody:
    """A body that hands out no byte that is not reserved, and asks for more when the next one has come."""

    def __init__(self, body: Body, left_bytes: int, more: Callable[[], Awaitable[int]]) -> None:
        """Wrap a body. `more` reserves the next step and returns its size (at least one byte), or refuses."""
        self._body, self._left, self._more = body, left_bytes, more
        # One byte beyond what is reserved: only it tells whether the body goes on.
        self._ahead = b""

    async def wait(self, timeout_seconds: float) -> None:
        """Wait for bytes; or, if one came that is not reserved, reserve.

        Raises:
            MaxSizeExceededError, QuotaError, StorageFullError: There is no room for it.
        """
        if self._ahead and not self._left:
            self._left = await self._more()
        else:
            await self._body.wait(timeout_seconds)

    def wake(self) -> None:
        """Make a pending wait return."""
        self._body.wake()

    def receive_into(self, buffer: memoryview) -> int | None:
        """Receive what is reserved; None at the edge, until `wait` has reserved more."""
        if not self._left:
            if not self._ahead:
                one = bytearray(1)
                count = self._body.receive_into(memoryview(one))
                if not count:
                    return count
                self._ahead = bytes(one)
            return None
        if self._ahead:
            buffer[:1], self._ahead = self._ahead, b""
            self._left -= 1
            return 1
        count = self._body.receive_into(buffer[: self._left])
        self._left -= count or 0
        return count
