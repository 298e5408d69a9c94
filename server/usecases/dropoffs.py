"""Use cases of operators on drop-offs, the same for the command line and the API."""

import os
import uuid
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from dropoff_tus.errors import DropoffExistsError, DropoffNotFoundError, InvalidFieldError, PolicyTamperedError
from dropoff_tus.ids import CODE_BYTES, PROBE_DROP_ID, format_code, is_drop_id
from dropoff_tus.model import TERMS, Dropoff, DropTerms, Usage
from dropoff_tus.policy import name_problem, type_problem
from dropoff_tus.ports.catalog import DropoffRows
from dropoff_tus.ports.clock import Clock
from dropoff_tus.terms import Kind
from server.settings.units import check_label, mail_addresses

Checks = Callable[[Any], str | None]
"""Says in a sentence what is wrong with a term's value."""


class Keys(Protocol):
    """The work of the server's keys for a drop-off."""

    def code_mac(self, drop_id: str, code: str) -> bytes:
        """Return what a drop-off's code is stored as."""
        ...

    def sign_terms(self, drop: Dropoff) -> Dropoff:
        """Sign a drop-off's terms."""
        ...

    def verify_terms(self, drop: Dropoff) -> None:
        """Refuse what this server did not sign."""
        ...


class Dropoffs:
    """Makes and manages drop-offs."""

    def __init__(
        self, catalog: DropoffRows, keys: Keys, clock: Clock, check_recipients: Callable[[Sequence[str]], str | None]
    ) -> None:
        """Take the catalog, the keys, the time, and what says in a sentence what is wrong with recipients."""
        self._catalog, self._keys, self._clock, self._check_recipients = catalog, keys, clock, check_recipients

    async def create(
        self, terms: DropTerms, *, drop_id: str | None = None, with_code: bool = True, for_doctor: bool = False
    ) -> tuple[Dropoff, str | None]:
        """Make a drop-off; returns it with its code, which is nowhere else.

        Raises:
            InvalidFieldError: Something of it cannot be; nothing was changed.
            DropoffExistsError: The id is taken; nothing was changed.
        """
        now = self._clock.now()
        if drop_id is not None and not is_drop_id(drop_id):
            raise InvalidFieldError("id", "must be a UUID of version 4 in lower case, e.g. from `uuidgen -r`")
        _check_not_doctors(drop_id)
        self._check(terms, TERMS, now)
        drop_id = PROBE_DROP_ID if for_doctor else drop_id or str(uuid.uuid4())
        code = format_code(os.urandom(CODE_BYTES)) if with_code else None
        code_mac = self._keys.code_mac(drop_id, code) if code is not None else None
        dropoff = self._keys.sign_terms(Dropoff(drop_id, now, terms, code_mac))
        try:
            await self._catalog.add_dropoff(dropoff)
        except ValueError:
            raise DropoffExistsError("a drop-off with this id exists already; nothing was changed") from None
        return dropoff, code

    async def edit(
        self, drop_id: str, changes: Mapping[str, Any], *, has_code: bool | None = None, confirm: bool = False
    ) -> tuple[Dropoff, Usage]:
        """Change some terms of a drop-off: they hold for new uploads, retention for existing ones too.

        All its terms are signed again. Those that stay are taken from the present record, which has to be this server's
        own, or the signature would bless what somebody wrote into the database; with `confirm` the operator blesses it.

        Args:
            drop_id: Which.
            changes: The new values, by the names of `DropTerms`; missing ones stay.
            has_code: False takes the code away.
            confirm: See above.

        Raises:
            DropoffNotFoundError: There is none.
            InvalidFieldError: Something of it cannot be; nothing was changed.
            PolicyTamperedError: The present terms are not those that were signed; nothing was changed.
        """
        _check_not_doctors(drop_id)
        now = self._clock.now()
        if has_code:
            raise InvalidFieldError(
                "has_code", "can only be false, which takes the code away; new-code makes one and shows it"
            )

        def change(present: Dropoff) -> Dropoff:
            if not confirm:
                self._verify(present)
            terms = replace(present.terms, **changes)
            self._check(terms, changes, now)
            code_mac = present.code_mac if has_code is None else None
            return self._keys.sign_terms(replace(present, terms=terms, code_mac=code_mac))

        if await self._catalog.change_dropoff(drop_id, change) is None:
            raise unknown()
        return await self.show(drop_id)

    def _verify(self, present: Dropoff) -> None:
        try:
            self._keys.verify_terms(present)
        except PolicyTamperedError:
            raise PolicyTamperedError(
                "somebody changed this drop-off in the database; nothing was changed now. Look at it with `dropoff-tus "
                "drop show`; `dropoff-tus drop edit --confirm` signs what it is then"
            ) from None

    def _check(self, terms: DropTerms, given: Container[str], now: datetime) -> None:
        """Refuse what cannot be. A time that is given has to lie ahead, and recipients have to be usable then."""
        checks: dict[Kind, Checks] = {
            **_CHECKS,
            Kind.RECIPIENTS: self._check_recipients,
            Kind.TIME: partial(_time_problem, now=now),
        }
        for name, term in TERMS.items():
            if term.kind in checks and (name in given or term.kind in _CHECKS):
                problem = checks[term.kind](getattr(terms, name))
                if problem is not None:
                    raise InvalidFieldError(name, problem)
        if terms.opens_at is not None and terms.expires_at is not None and terms.opens_at >= terms.expires_at:
            problem = "lies after the drop-off has expired; write an earlier time, or let it expire later"
            raise InvalidFieldError("opens_at" if "opens_at" in given else "expires_at", problem)

    async def show(self, drop_id: str) -> tuple[Dropoff, Usage]:
        """Return a drop-off and what its uploads take.

        Raises:
            DropoffNotFoundError: There is none.
        """
        dropoff = await self._catalog.dropoff(drop_id)
        if dropoff is None:
            raise unknown()
        return dropoff, await self._catalog.usage(drop_id)

    async def new_code(self, drop_id: str, *, for_doctor: bool = False) -> tuple[Dropoff, str]:
        """Replace the code; returns the new one, which is nowhere else.

        Raises:
            DropoffNotFoundError: There is no such drop-off.
            InvalidFieldError: It is that of `doctor`.
            PolicyTamperedError: As `edit`.
        """
        if not for_doctor:
            _check_not_doctors(drop_id)
        code = format_code(os.urandom(CODE_BYTES))

        def change(present: Dropoff) -> Dropoff:
            self._verify(present)
            return self._keys.sign_terms(replace(present, code_mac=self._keys.code_mac(drop_id, code)))

        dropoff = await self._catalog.change_dropoff(drop_id, change)
        if dropoff is None:
            raise unknown()
        return dropoff, code


def _check_not_doctors(drop_id: str | None) -> None:
    """Refuse to let anybody else into a drop-off whose uploads cause no news."""
    if drop_id == PROBE_DROP_ID:
        raise InvalidFieldError("id", "is that of `dropoff-tus doctor`, which nobody else can use; take another")


def _time_problem(moment: datetime | None, *, now: datetime) -> str | None:
    return "lies in the past; write a time to come" if moment is not None and moment <= now else None


def _addresses_problem(addresses: Sequence[str]) -> str | None:
    try:
        mail_addresses(addresses)
    except ValueError as error:
        return str(error)
    return None


def _pattern_problem(problem_of: Checks, patterns: Sequence[str]) -> str | None:
    """Say which pattern no file could match, by mistake."""
    return next((f"{one!r} {problem}" for one in patterns if (problem := problem_of(one)) is not None), None)


_CHECKS: dict[Kind, Checks] = {
    Kind.LABEL: check_label,
    Kind.TEXT: lambda text: check_label(text) if text else None,
    Kind.TYPES: partial(_pattern_problem, type_problem),
    Kind.NAMES: partial(_pattern_problem, name_problem),
    Kind.ADDRESSES: _addresses_problem,
}
"""Rules for every drop-off, whether their terms are given now or not."""


def unknown() -> DropoffNotFoundError:
    """Return the refusal of a drop-off that is not there, for whoever asks."""
    return DropoffNotFoundError("there is no such drop-off; list them with `dropoff-tus drop list`")
