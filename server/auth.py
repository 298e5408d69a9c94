"""Who may create: the code of a drop-off, one answer and the same work for every wrong one."""

import hmac
from collections.abc import Callable

from dropoff_tus.errors import AccessDeniedError
from dropoff_tus.ids import is_drop_id
from dropoff_tus.model import Grant
from dropoff_tus.ports import Catalog

_NO_MAC = bytes(32)
_UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


class Auth:
    """Checks codes."""

    def __init__(self, catalog: Catalog, code_mac: Callable[[str], bytes]) -> None:
        """Take the catalog and the server's keyed hash of codes."""
        self._catalog, self._code_mac = catalog, code_mac

    async def grant(self, drop_id: str, code: str | None) -> Grant:
        """Return the grant for a drop-off and a code.

        Raises:
            AccessDeniedError: Unknown drop-off, wrong or missing code: the same error after the same work.
        """
        # An id of another form is looked up all the same, under a name that no drop-off has.
        dropoff = await self._catalog.dropoff(drop_id if is_drop_id(drop_id) else _UNKNOWN_ID)
        presented = self._code_mac(code or "")
        expected = dropoff.code_mac if dropoff is not None and dropoff.code_mac is not None else _NO_MAC
        right = hmac.compare_digest(presented, expected)
        if dropoff is None or (dropoff.code_mac is not None and not right):
            message = "there is no such drop-off, or the code is wrong; check both with whoever gave you the code"
            raise AccessDeniedError(message)
        return Grant(dropoff)
