"""Use cases of operators on drop-offs, the same for the command line and the API."""

import os
import uuid
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Protocol, TypedDict

from dropoff_tus.errors import DropoffExistsError, DropoffNotFoundError, InvalidFieldError, PolicyTamperedError
from dropoff_tus.ids import CODE_BYTES, PROBE_DROP_ID, format_code, is_drop_id
from dropoff_tus.model import Dropoff, Limits, Mode, SignedPolicy, Usage
from dropoff_tus.policy import name_problem, type_problem
from dropoff_tus.ports.catalog import DropoffRows
from dropoff_tus.ports.clock import Clock
from server.settings.units import check_label, mail_addresses

MOST_UPLOADS = 2**31 - 1


class Keys(Protocol):
    """What the server's keys do for a drop-off."""

    def code_mac(self, drop_id: str, code: str) -> bytes:
        """Return what a drop-off's code is stored as."""
        ...

    def sign_policy(self, drop_id: str, policy: SignedPolicy) -> SignedPolicy:
        """Sign a drop-off's policy, with the hash of its other terms."""
        ...

    def verify_policy(self, drop_id: str, policy: SignedPolicy) -> None:
        """Refuse what this server did not sign for this drop-off."""
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
    for_doctor: bool = False


class DropEdit(TypedDict, total=False):
    """What is to be changed of a drop-off; what is left out stays. `has_code` can only be taken away."""

    name: str
    has_code: bool
    opens_at: datetime | None
    expires_at: datetime | None
    mode: Mode
    recipients: tuple[str, ...]
    max_upload_bytes: int
    max_total_bytes: int
    max_uploads: int
    allowed_types: tuple[str, ...]
    name_patterns: tuple[str, ...]
    notify: tuple[str, ...]
    retain_seconds: int
    contact: str


_LIMITS = tuple(field.name for field in fields(Limits))
_TERMS = tuple(name for name in DropEdit.__annotations__ if name not in {*_LIMITS, "mode", "recipients", "has_code"})


class Dropoffs:
    """Makes and manages drop-offs."""

    def __init__(
        self, catalog: DropoffRows, keys: Keys, clock: Clock, check_recipients: Callable[[Sequence[str]], str | None]
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
        if new.id is not None and not is_drop_id(new.id):
            raise InvalidFieldError("id", "must be a UUID of version 4 in lower case, e.g. from `uuidgen -r`")
        self._check_own(new.recipients)
        _check_not_doctors(new.id)
        drop_id = PROBE_DROP_ID if new.for_doctor else new.id or str(uuid.uuid4())
        code = format_code(os.urandom(CODE_BYTES)) if new.with_code else None
        mode = Mode.SEALED if new.sealed else Mode.MANAGED
        dropoff = Dropoff(
            id=drop_id,
            name=new.name,
            created_at=now,
            policy=SignedPolicy(mode, new.recipients),
            code_mac=self._keys.code_mac(drop_id, code) if code is not None else None,
            limits=new.limits,
            opens_at=new.opens_at,
            expires_at=new.expires_at,
            notify=new.notify,
            retain_seconds=new.retain_seconds,
            contact=new.contact,
        )
        self._check(dropoff, ("opens_at", "expires_at"), now)
        dropoff = self._signed(dropoff)
        try:
            await self._catalog.add_dropoff(dropoff)
        except ValueError:
            message = "a drop-off with this id exists already; nothing was changed"
            raise DropoffExistsError(message) from None
        return dropoff, code

    async def edit(self, drop_id: str, edit: DropEdit, *, confirm: bool = False) -> tuple[Dropoff, Usage]:
        """Change a drop-off: what is created from now on is held to it; retention also what is here.

        All its terms are signed anew. Those that stay are taken from the present record, which has to be this server's
        own, or the signature would bless what somebody wrote into the database; with `confirm` the operator blesses it.

        Raises:
            DropoffNotFoundError: There is none.
            InvalidFieldError: Something of it cannot be; nothing was changed.
            PolicyTamperedError: The present terms are not those that were signed; nothing was changed.
        """
        _check_not_doctors(drop_id)
        now = self._clock.now()
        if edit.get("has_code"):
            raise InvalidFieldError(
                "has_code", "can be false alone, which takes the code away; new-code makes one and shows it"
            )

        def change(present: Dropoff) -> Dropoff:
            terms: dict[str, Any] = {name: edit.get(name, getattr(present, name)) for name in _TERMS}
            limits: dict[str, Any] = {name: edit.get(name, getattr(present.limits, name)) for name in _LIMITS}
            code_mac = None if "has_code" in edit else present.code_mac
            if not confirm:
                self._verify(present)
            if "recipients" in edit:
                self._check_own(edit["recipients"])
            policy = SignedPolicy(
                edit.get("mode", present.policy.mode), tuple(edit.get("recipients", present.policy.recipients))
            )
            changed = replace(present, **terms, limits=Limits(**limits), policy=policy, code_mac=code_mac)
            self._check(changed, edit, now)
            return self._signed(changed)

        if await self._catalog.change_dropoff(drop_id, change) is None:
            raise unknown()
        return await self.show(drop_id)

    def _signed(self, dropoff: Dropoff) -> Dropoff:
        dropoff = dropoff.with_terms()
        return replace(dropoff, policy=self._keys.sign_policy(dropoff.id, dropoff.policy))

    def _verify(self, present: Dropoff) -> None:
        try:
            self._keys.verify_policy(present.id, present.policy)
        except PolicyTamperedError:
            raise PolicyTamperedError(
                "somebody changed this drop-off in the database; nothing was changed now. Look at it with `dropoff-tus "
                "drop show`; `dropoff-tus drop edit --confirm` signs what it is then"
            ) from None

    def _check_own(self, recipients: Sequence[str]) -> None:
        problem = self._check_recipients(recipients)
        if problem is not None:
            raise InvalidFieldError("recipients", problem)

    def _check(self, dropoff: Dropoff, given: Container[str], now: datetime) -> None:
        """Refuse what cannot be. A time that is given has to lie ahead; one that stays may have passed."""
        problem = check_label(dropoff.name)
        if problem is not None:
            raise InvalidFieldError("name", problem)
        problem = check_label(dropoff.contact) if dropoff.contact else None
        if problem is not None:
            raise InvalidFieldError("contact", problem)
        _check_patterns("allowed_types", dropoff.limits.allowed_types, type_problem)
        _check_patterns("name_patterns", dropoff.limits.name_patterns, name_problem)
        opens_at, expires_at = dropoff.opens_at, dropoff.expires_at
        for field, moment in (("opens_at", opens_at), ("expires_at", expires_at)):
            if field in given and moment is not None and moment <= now:
                raise InvalidFieldError(field, "lies in the past; write a time to come")
        if opens_at is not None and expires_at is not None and opens_at >= expires_at:
            problem = "lies after the drop-off has expired; write an earlier time, or let it expire later"
            raise InvalidFieldError("opens_at" if "opens_at" in given else "expires_at", problem)
        _check_addresses(dropoff.notify)

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
            return self._signed(replace(present, code_mac=self._keys.code_mac(drop_id, code)))

        dropoff = await self._catalog.change_dropoff(drop_id, change)
        if dropoff is None:
            raise unknown()
        return dropoff, code


def _check_not_doctors(drop_id: str | None) -> None:
    """Refuse to let anybody else into a drop-off of whose uploads nobody is told."""
    if drop_id == PROBE_DROP_ID:
        raise InvalidFieldError("id", "is that of `dropoff-tus doctor`, which nobody else can use; take another")


def _check_addresses(addresses: Sequence[str]) -> None:
    try:
        mail_addresses(addresses)
    except ValueError as error:
        raise InvalidFieldError("notify", str(error)) from None


def _check_patterns(field: str, patterns: Sequence[str], problem_of: Callable[[str], str | None]) -> None:
    """Refuse a pattern that no file could match, by mistake."""
    for pattern in patterns:
        problem = problem_of(pattern)
        if problem is not None:
            raise InvalidFieldError(field, f"{pattern!r} {problem}")


def unknown() -> DropoffNotFoundError:
    """Return the refusal of a drop-off that is not there, for whoever asks."""
    return DropoffNotFoundError("there is no such drop-off; list them with `dropoff-tus drop list`")
