"""Changing drop-offs, over a catalog and a clock in memory: what is checked, and what is signed."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, cast

import pytest

from dropoff_tus.errors import DropoffNotFoundError, InvalidFieldError, PolicyTamperedError
from dropoff_tus.model import Dropoff, Limits, Mode, SignedPolicy
from server.usecases.dropoffs import DropEdit, Dropoffs, NewDrop
from tests.support.aio import async_test
from tests.support.fake_clock import NOON, FakeClock
from tests.support.memory_catalog import MemoryCatalog

_UNSIGNED = {"id", "policy", "closed", "ended"}


class _Keys:
    """Signs by writing down what was signed."""

    def code_mac(self, drop_id: str, code: str) -> bytes:
        return f"{drop_id} {code}".encode()

    def sign_policy(self, drop_id: str, policy: SignedPolicy) -> SignedPolicy:
        signature = repr((drop_id, policy.mode.value, policy.recipients, policy.terms)).encode()
        return replace(policy, signature=signature)

    def verify_policy(self, drop_id: str, policy: SignedPolicy) -> None:
        if policy != self.sign_policy(drop_id, policy):
            raise PolicyTamperedError("not signed")


def _problem(recipients: Sequence[str]) -> str | None:
    return "cannot be used" if "bad" in recipients else None


class _World:
    def __init__(self) -> None:
        self.catalog, self.clock, self.keys = MemoryCatalog(), FakeClock(), _Keys()
        self.dropoffs = Dropoffs(self.catalog, self.keys, self.clock, _problem)

    async def make(self, *, recipients: tuple[str, ...] = ("age1own",)) -> Dropoff:
        expires_at = self.clock.now() + timedelta(days=2)
        new = NewDrop("Survey", Limits(max_uploads=3), recipients=recipients, expires_at=expires_at)
        return (await self.dropoffs.create(new))[0]


@async_test
async def test_edit_changes_what_it_says_and_nothing_else() -> None:
    """A limit, a list and an end are others; the rest is what it was, and all of it is signed."""
    world = _World()
    made = await world.make()
    edited, _ = await world.dropoffs.edit(made.id, {"max_uploads": 0, "notify": ("a@example.org",), "expires_at": None})
    wanted = replace(made, limits=Limits(), notify=("a@example.org",), expires_at=None).with_terms()
    wanted = replace(wanted, policy=world.keys.sign_policy(made.id, wanted.policy))
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
    edit: DropEdit, mode: Mode, recipients: tuple[str, ...]
) -> None:
    """The record is one that this server signed for this drop-off."""
    world = _World()
    made = await world.make()
    edited, _ = await world.dropoffs.edit(made.id, edit)
    assert (edited.policy.mode, edited.policy.recipients) == (mode, recipients)
    world.keys.verify_policy(made.id, edited.with_terms().policy)


@async_test
async def test_edit_signs_nothing_that_somebody_wrote_into_the_database() -> None:
    """Terms changed behind the server do not become its own by another change, unless the operator says so."""
    world = _World()
    made = await world.make()
    forged = replace(made, policy=replace(made.policy, recipients=("age1thief",)))
    world.catalog.drops[made.id] = forged
    for edit in ({"mode": Mode.SEALED}, {"mode": Mode.SEALED, "recipients": ("age1own",)}, {"contact": "Ada"}):
        with pytest.raises(PolicyTamperedError):
            await world.dropoffs.edit(made.id, cast("DropEdit", edit))
    with pytest.raises(PolicyTamperedError):
        await world.dropoffs.new_code(made.id)
    assert world.catalog.drops[made.id] == forged
    edited, _ = await world.dropoffs.edit(made.id, {"recipients": ("age1own",)}, confirm=True)
    world.keys.verify_policy(made.id, edited.with_terms().policy)


@pytest.mark.parametrize("term", [field.name for field in fields(Dropoff) if field.name not in _UNSIGNED])
@async_test
async def test_every_term_of_a_dropoff_is_signed(term: str) -> None:
    """Whatever field somebody changes in the database, also one that is added some day, nothing verifies any more."""
    world = _World()
    made = (await world.make()).with_terms()
    world.keys.verify_policy(made.id, made.policy)
    values: dict[str, Any] = {"limits": Limits(max_uploads=7), "created_at": NOON + timedelta(days=1), "name": "other"}
    values |= {"code_mac": None, "opens_at": NOON, "expires_at": NOON + timedelta(days=99), "retain_seconds": 1}
    values |= {"notify": ("b@example.org",), "contact": "somebody"}
    changed = replace(made, **{term: values[term]}).with_terms()
    with pytest.raises(PolicyTamperedError):
        world.keys.verify_policy(made.id, changed.policy)


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
async def test_edit_that_cannot_be_is_refused_and_changes_nothing(edit: DropEdit, field: str) -> None:
    """The same rules as for a new drop-off, told by the field."""
    world = _World()
    made = await world.make()
    now = world.clock.now()
    given = {name: now + value if isinstance(value, timedelta) else value for name, value in edit.items()}
    with pytest.raises(InvalidFieldError) as refusal:
        await world.dropoffs.edit(made.id, given)  # type: ignore[arg-type]
    assert refusal.value.field == field
    assert world.catalog.drops[made.id] == made


@async_test
async def test_edit_of_a_drop_off_that_has_expired_may_leave_it_so() -> None:
    """Only a time that is given has to lie ahead; and an unknown drop-off is none."""
    world = _World()
    made = await world.make()
    world.clock.advance(3 * 86400)
    edited, _ = await world.dropoffs.edit(made.id, {"name": "Past"})
    assert (edited.name, edited.expires_at) == ("Past", made.expires_at)
    with pytest.raises(DropoffNotFoundError):
        await world.dropoffs.edit("none", {"name": "x"})
