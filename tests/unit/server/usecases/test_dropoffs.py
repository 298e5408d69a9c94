"""Changing drop-offs, over a catalog and a clock in memory: checks and signatures."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from dropoff_tus.errors import DropoffNotFoundError, InvalidFieldError, PolicyTamperedError
from dropoff_tus.model import Dropoff, DropTerms, Mode
from server.usecases.dropoffs import Dropoffs
from tests.support.aio import async_test
from tests.support.fake_clock import NOON, FakeClock
from tests.support.memory_catalog import MemoryCatalog

_UNSIGNED = {"terms", "signature", "closed", "ended"}


class _Keys:
    """Signs by writing down what was signed."""

    def code_mac(self, drop_id: str, code: str) -> bytes:
        return f"{drop_id} {code}".encode()

    def sign_terms(self, drop: Dropoff) -> Dropoff:
        return replace(drop, signature=drop.signed_text().encode())

    def verify_terms(self, drop: Dropoff) -> None:
        if drop != self.sign_terms(drop):
            raise PolicyTamperedError("not signed")


def _problem(recipients: Sequence[str]) -> str | None:
    return "cannot be used" if "bad" in recipients else None


class _World:
    def __init__(self) -> None:
        self.catalog, self.clock, self.keys = MemoryCatalog(), FakeClock(), _Keys()
        self.dropoffs = Dropoffs(self.catalog, self.keys, self.clock, _problem)

    async def make(self, *, recipients: tuple[str, ...] = ("age1own",)) -> Dropoff:
        expires_at = self.clock.now() + timedelta(days=2)
        terms = DropTerms("Survey", max_uploads=3, recipients=recipients, expires_at=expires_at)
        return (await self.dropoffs.create(terms))[0]


@async_test
async def test_edit_changes_what_it_says_and_nothing_else() -> None:
    """A limit, a list and an end are others; the rest is what it was, and all of it is signed."""
    world = _World()
    made = await world.make()
    edited, _ = await world.dropoffs.edit(made.id, {"max_uploads": 0, "notify": ("a@example.org",), "expires_at": None})
    terms = replace(made.terms, max_uploads=0, notify=("a@example.org",), expires_at=None)
    wanted = world.keys.sign_terms(replace(made, terms=terms))
    assert edited == world.catalog.drops[made.id] == wanted


@pytest.mark.parametrize(
    ("edit", "mode", "recipients"),
    [
        ({"mode": Mode.SEALED}, Mode.SEALED, ("age1own",)),
        ({"recipients": ()}, Mode.MANAGED, ()),
        ({"mode": Mode.SEALED, "recipients": ("age1other",)}, Mode.SEALED, ("age1other",)),
    ],
    ids=["mode", "recipients", "both"],
)
@async_test
async def test_edit_of_mode_or_recipients_is_signed_anew(
    edit: dict[str, Any], mode: Mode, recipients: tuple[str, ...]
) -> None:
    """The record is one that this server signed for this drop-off."""
    world = _World()
    made = await world.make()
    edited, _ = await world.dropoffs.edit(made.id, edit)
    assert (edited.terms.mode, edited.terms.recipients) == (mode, recipients)
    world.keys.verify_terms(edited)


@async_test
async def test_edit_signs_nothing_that_somebody_wrote_into_the_database() -> None:
    """Terms changed behind the server do not become its own by another change, unless the operator says so."""
    world = _World()
    made = await world.make()
    forged = replace(made, terms=replace(made.terms, recipients=("age1thief",)))
    world.catalog.drops[made.id] = forged
    for edit in ({"mode": Mode.SEALED}, {"mode": Mode.SEALED, "recipients": ("age1own",)}, {"contact": "Ada"}):
        with pytest.raises(PolicyTamperedError):
            await world.dropoffs.edit(made.id, edit)
    with pytest.raises(PolicyTamperedError):
        await world.dropoffs.new_code(made.id)
    assert world.catalog.drops[made.id] == forged
    edited, _ = await world.dropoffs.edit(made.id, {"recipients": ("age1own",)}, confirm=True)
    world.keys.verify_terms(edited)


@pytest.mark.parametrize(
    "term", [field.name for kind in (Dropoff, DropTerms) for field in fields(kind) if field.name not in _UNSIGNED]
)
@async_test
async def test_every_term_of_a_dropoff_is_signed(term: str) -> None:
    """After a change of any field in the database, even one that is added some day, nothing verifies any more."""
    world = _World()
    made = await world.make()
    world.keys.verify_terms(made)
    values: dict[str, Any] = {"id": "other", "created_at": NOON + timedelta(days=1), "code_mac": None, "name": "other"}
    values |= {"mode": Mode.SEALED, "recipients": (), "opens_at": NOON, "expires_at": NOON + timedelta(days=99)}
    values |= dict.fromkeys(("max_upload_bytes", "max_total_bytes", "max_uploads", "retain_seconds"), 1)
    values |= {"allowed_types": ("text/csv",), "name_patterns": ("*.csv",)}
    values |= {"notify": ("b@example.org",), "contact": "somebody", "receiver": "others", "seal_in_browser": True}
    changes = {term: values[term]}
    changed = replace(made, **(changes if hasattr(made, term) else {"terms": replace(made.terms, **changes)}))
    with pytest.raises(PolicyTamperedError):
        world.keys.verify_terms(changed)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"name": " "}, "name"),
        ({"contact": "x" * 1000}, "contact"),
        ({"recipients": ("bad",)}, "recipients"),
        ({"allowed_types": ("csv",)}, "allowed_types"),
        ({"name_patterns": (".csv",)}, "name_patterns"),
        ({"notify": ("nobody",)}, "notify"),
        ({"opens_at": timedelta(days=3)}, "opens_at"),
        ({"expires_at": timedelta(seconds=0)}, "expires_at"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
@async_test
async def test_edit_that_cannot_be_is_refused_and_changes_nothing(edit: dict[str, Any], field: str) -> None:
    """The same rules as for a new drop-off, told by the field."""
    world = _World()
    made = await world.make()
    now = world.clock.now()
    given = {name: now + value if isinstance(value, timedelta) else value for name, value in edit.items()}
    with pytest.raises(InvalidFieldError) as refusal:
        await world.dropoffs.edit(made.id, given)
    assert refusal.value.field == field
    assert world.catalog.drops[made.id] == made


@async_test
async def test_edit_of_a_drop_off_that_has_expired_may_leave_it_so() -> None:
    """Only a time that is given has to lie ahead; and an unknown drop-off is none."""
    world = _World()
    made = await world.make()
    world.clock.advance(3 * 86400)
    edited, _ = await world.dropoffs.edit(made.id, {"name": "Past"})
    assert edited.terms == replace(made.terms, name="Past")
    with pytest.raises(DropoffNotFoundError):
        await world.dropoffs.edit("none", {"name": "x"})
