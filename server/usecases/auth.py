"""The right to create: the code of a drop-off, with one answer and the same work for every wrong one."""

import hmac
import time
from collections.abc import Callable

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import AccessDeniedError, TooManyWrongCodesError
from dropoff_tus.ids import is_drop_id
from dropoff_tus.model import Dropoff, Grant
from dropoff_tus.ports.catalog import DropoffRows
from server.usecases.wrong_credentials import Throttle, WrongCredentials

_NO_MAC = bytes(32)
_NO_CODE = "0000-0000-0000-0000"
_UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


class Auth:
    """Checks codes, and slows wrong ones per client address and per drop-off."""

    def __init__(
        self,
        catalog: DropoffRows,
        code_mac: Callable[[str, str], bytes],
        verify_terms: Callable[[Dropoff], None],
        wrong_codes_per_hour: int,
        wrong: WrongCredentials,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the catalog, the keys' part in it, the limit of wrong codes (0: none), their counter, and the time."""
        self._catalog, self._code_mac, self._monotonic = catalog, code_mac, monotonic
        self._verify_terms = verify_terms
        self._wrong = wrong
        self._by_address, self._by_drop = Throttle(wrong_codes_per_hour), Throttle(wrong_codes_per_hour)

    def limit(self, wrong_codes_per_hour: int) -> None:
        """Let so many wrong codes pass from now on."""
        for throttle in (self._by_address, self._by_drop):
            throttle.limit(wrong_codes_per_hour)

    async def grant(self, drop_id: str, code: str | None) -> Grant:
        """Return the grant for a drop-off and a code.

        Raises:
            AccessDeniedError: Unknown drop-off, wrong or missing code: the same error after the same work.
            PolicyTamperedError: Somebody changed the drop-off in the database.
        """
        looked_up = _lookup_id(drop_id)
        dropoff = await self._catalog.dropoff(looked_up)
        presented = self._code_mac(looked_up, _NO_CODE if code is None else code)
        expected = dropoff.code_mac if dropoff is not None and dropoff.code_mac is not None else _NO_MAC
        right = hmac.compare_digest(presented, expected) and code is not None
        if dropoff is None or (dropoff.code_mac is not None and not right):
            # One count for all drop-offs that do not exist, so that nobody can fill the memory with them.
            self._wrong.count(Event(Act.WRONG_CODES, None if dropoff is None else dropoff.id))
            message = "there is no such drop-off, or the code is wrong; check both with whoever gave you the code"
            raise AccessDeniedError(message)
        # A code that was taken away or put in place in the database lets nobody in.
        self._verify_terms(dropoff)
        return Grant(dropoff)

    async def grant_slowly(self, drop_id: str, code: str | None, client: str | None) -> Grant:
        """Do the same, and count wrong codes. A right one is always let in, however many wrong ones come.

        Args:
            drop_id: As it stands in the URL.
            code: As it was typed; None if there was none.
            client: The client's name for counting (see `forwarded.client_of`); None if unknown.

        Raises:
            AccessDeniedError: As `grant`.
            TooManyWrongCodesError: The same, once too often.
        """
        try:
            return await self.grant(drop_id, code)
        except AccessDeniedError:
            now = self._monotonic()
            # A client that is over its own limit takes nothing from the drop-off's.
            wait_seconds = self._by_address.count(client, now) if client is not None else 0
            wait_seconds = wait_seconds or self._by_drop.count(_lookup_id(drop_id), now)
            if not wait_seconds:
                raise
        message = "too many wrong codes came; check yours, a right one is let in at any time"
        raise TooManyWrongCodesError(message, retry_after_seconds=wait_seconds)


def _lookup_id(drop_id: str) -> str:
    """Return what to look up: an id of another form has to cost as much, under a name that no drop-off has."""
    return drop_id if is_drop_id(drop_id) else _UNKNOWN_ID
