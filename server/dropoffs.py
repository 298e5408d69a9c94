"""Use cases of operators on drop-offs, the same for the command line and the API."""

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dropoff_tus.errors import DropoffExistsError, DropoffNotFoundError, InvalidFieldError
from dropoff_tus.ids import CODE_BYTES, format_code, is_drop_id
from dropoff_tus.model import Dropoff, Limits, Mode, SignedPolicy, Usage
from dropoff_tus.ports import Catalog, Clock
from server.units import check_label, mail_address

MOST_UPLOADS = 2**31 - 1
MOST_ADDRESSES = 20


class Keys(Protocol):
    """What the server's keys do for a drop-off."""

    def code_mac(self, code: str) -> bytes:
        """Return what a code is stored as."""
        ...

    def sign_policy(self, drop_id: str, mode: Mode, recipients: tuple[str, ...]) -> SignedPolicy:
        """Sign a drop-off's mode and recipients."""
        ...


@dataclass(frozen=True, slots=True)
class NewDrop:
    """What a new drop-off is to be."""

    name: str
    limits: Limits
    id: str | None = None
    with_code: bool = True
    recipients: tuple[str, ...] = ()
    sealed: bool = False
    opens_at: datetime | None = None
    expires_at: datetime | None = None
    notify: tuple[str, ...] = ()
    retain_seconds: int = 0
    contact: str = ""


class Dropoffs:
    """Makes and manages drop-offs."""

    def __init__(
        self, catalog: Catalog, keys: Keys, clock: Clock, check_recipients: Callable[[Sequence[str]], str | None]
    ) -> None:
        """Take the catalog, the keys, the time, and what says in a sentence what is wrong with recipients."""
        self._catalog, self._keys, self._clock, self._check_recipients = catalog, keys, clock, check_recipients

    async def create(self, new: NewDrop) -> tuple[Dropoff, str | None]:
        """Make a drop-off; returns it with its code, which is nowhere else.

        Raises:
            InvalidFieldError: Something of it cannot be; nothing was changed.
            DropoffExistsError: The id is taken; nothing was changed.
        """
        now = self._clock.now()
        self._check(new, now)
        drop_id = new.id or str(uuid.uuid4())
        code = format_code(os.urandom(CODE_BYTES)) if new.with_code else None
        mode = Mode.SEALED if new.sealed else Mode.MANAGED
        dropoff = Dropoff(
            id=drop_id,
            name=new.name,
            created_at=now,
            policy=self._keys.sign_policy(drop_id, mode, new.recipients),
            code_mac=self._keys.code_mac(code) if code is not None else None,
            limits=new.limits,
            opens_at=new.opens_at,
            expires_at=new.expires_at,
            notify=tuple(dict.fromkeys(new.notify)),
            retain_seconds=new.retain_seconds,
            contact=new.contact,
        )
        try:
            await self._catalog.add_dropoff(dropoff)
        except ValueError:
            message = "a drop-off with this id exists already; nothing was changed"
            raise DropoffExistsError(message) from None
        return dropoff, code

    def _check(self, new: NewDrop, now: datetime) -> None:
        problem = check_label(new.name)
        if problem is not None:
            raise InvalidFieldError("name", problem)
        problem = check_label(new.contact) if new.contact else None
        if problem is not None:
            raise InvalidFieldError("contact", problem)
        if new.id is not None and not is_drop_id(new.id):
            raise InvalidFieldError("id", "must be a UUID of version 4 in lower case, e.g. from `uuidgen -r`")
        _check_patterns("allowed_types", new.limits.allowed_types, "text/csv or image/*", needed="/")
        _check_patterns("name_patterns", new.limits.name_patterns, "'*.vcf.gz'")
        for field, moment in (("opens_at", new.opens_at), ("expires_at", new.expires_at)):
            if moment is not None and moment <= now:
                raise InvalidFieldError(field, "lies in the past; write a time to come")
        if new.opens_at is not None and new.expires_at is not None and new.opens_at >= new.expires_at:
            problem = "lies after the drop-off has expired; write an earlier time, or let it expire later"
            raise InvalidFieldError("opens_at", problem)
        problem = self._check_recipients(new.recipients)
        if problem is not None:
            raise InvalidFieldError("recipients", problem)
        _check_addresses(new.notify)

    async def show(self, drop_id: str) -> tuple[Dropoff, Usage]:
        """Return a drop-off and what its uploads take.

        Raises:
            DropoffNotFoundError: There is none.
        """
        dropoff = await self._catalog.dropoff(drop_id)
        if dropoff is None:
            raise _unknown()
        return dropoff, await self._catalog.usage(drop_id)

    async def set_closed(self, drop_id: str, *, closed: bool, end_open: bool = False) -> tuple[Dropoff, Usage]:
        """Close or reopen a drop-off; with `end_open` a running server also ends what is being uploaded, in seconds.

        Raises:
            DropoffNotFoundError: There is none.
        """
        if not await self._catalog.set_closed(drop_id, closed=closed, end_open=end_open):
            raise _unknown()
        return await self.show(drop_id)

    async def new_code(self, drop_id: str) -> tuple[Dropoff, str]:
        """Replace the code; returns the new one, which is nowhere else.

        Raises:
            DropoffNotFoundError: There is no such drop-off.
        """
        dropoff = await self._catalog.dropoff(drop_id)
        code = format_code(os.urandom(CODE_BYTES))
        if dropoff is None or not await self._catalog.set_code(drop_id, self._keys.code_mac(code)):
            raise _unknown()
        return dropoff, code


def _check_addresses(addresses: Sequence[str]) -> None:
    if len(addresses) > MOST_ADDRESSES:
        raise InvalidFieldError("notify", f"takes up to {MOST_ADDRESSES} addresses; write that of a list")
    for address in addresses:
        try:
            mail_address(address)
        except ValueError as error:
            raise InvalidFieldError("notify", str(error)) from None


def _check_patterns(field: str, patterns: Sequence[str], example: str, *, needed: str = "") -> None:
    """Refuse a pattern that no file could match by mistake: empty, with spaces around, or no media type."""
    for pattern in patterns:
        if not pattern or pattern != pattern.strip() or needed not in pattern:
            raise InvalidFieldError(field, f"{pattern!r} matches nothing; write e.g. {example}")


def _unknown() -> DropoffNotFoundError:
    return DropoffNotFoundError("there is no such drop-off; list them with `dropoff-tus drop list`")
