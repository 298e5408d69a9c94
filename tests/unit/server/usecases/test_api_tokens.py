"""API tokens, made, let in and refused, over a catalog and a clock in memory."""

import hmac
import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dropoff_tus.audit import Act, Actor, acting
from dropoff_tus.errors import (
    CatalogUnavailableError,
    InvalidFieldError,
    ScopeMissingError,
    TooManyWrongTokensError,
    UnauthorizedError,
)
from dropoff_tus.ids import api_token_id, format_api_token
from dropoff_tus.model import ApiToken, Dropoff, DropTerms, Scope
from server.usecases.api_tokens import ApiTokenGuard, create_api_token
from server.usecases.wrong_credentials import MOST_ORIGINS, WrongCredentials
from tests.support.aio import async_test
from tests.support.fake_clock import FakeClock
from tests.support.memory_catalog import MemoryCatalog

_HOUR_SECONDS = 3600.0
_DROP, _OTHER_DROP = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a", "4f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"


def _mac(message: bytes) -> bytes:
    return hmac.digest(b"k" * 32, message, "sha256")


class _World:
    def __init__(self, *, wrong_per_hour: int = 0) -> None:
        self.catalog, self.clock, self.seconds = MemoryCatalog(), FakeClock(), 0.0
        self.wrong = WrongCredentials(self.catalog)
        self.revoked: set[str] = set()
        self.guard = ApiTokenGuard(
            self.catalog, _mac, self.clock, wrong_per_hour, self.wrong, self.revoked, lambda: self.seconds
        )

    async def make(self, *scopes: Scope, days: int | None = None, drop_id: str | None = None) -> tuple[ApiToken, str]:
        expires_at = None if days is None else self.clock.now() + timedelta(days=days)
        names = [scope.value for scope in scopes]
        if drop_id is not None:
            self.catalog.drops[drop_id] = Dropoff(drop_id, self.clock.now(), DropTerms("x"))
        return await create_api_token(
            self.catalog, _mac, self.clock, name="test", scopes=names, expires_at=expires_at, drop_id=drop_id
        )

    async def check(self, secret: str, scope: Scope = Scope.DROPS_READ, client: str = "192.0.2.1") -> ApiToken:
        return await self.guard.check(f"Bearer {secret}", client, scope)

    async def refused(self, secret: str) -> str:
        with pytest.raises(UnauthorizedError) as refusal:
            await self.check(secret)
        assert refusal.value.presented
        return refusal.value.message


@async_test
async def test_token_is_let_in_for_its_scopes_alone() -> None:
    """A good token opens what it is for, and for anything else names the scope that is missing."""
    world = _World()
    made, secret = await world.make(Scope.DROPS_READ)
    assert await world.check(secret) == made
    with pytest.raises(ScopeMissingError) as refusal:
        await world.check(secret, Scope.UPLOADS_DELETE)
    assert refusal.value.scope == "uploads:delete"


@async_test
async def test_token_unknown_expired_or_revoked_has_one_answer() -> None:
    """Nobody learns from the refusal whether a token was ever good."""
    world = _World()
    _, expired = await world.make(Scope.DROPS_READ, days=1)
    revoked, other = await world.make(Scope.DROPS_READ)
    await world.check(expired)
    await world.catalog.revoke_token(revoked.id, world.clock.now())
    world.clock.advance(2 * 86400)
    messages = {await world.refused(secret) for secret in (expired, other, format_api_token(bytes(32)), "x", "é" * 999)}
    assert len(messages) == 1


@async_test
async def test_token_expires_at_the_moment_it_names() -> None:
    """Until then it is let in, and then no more."""
    world = _World()
    _, secret = await world.make(Scope.DROPS_READ, days=1)
    world.clock.advance(86400 - 1)
    await world.check(secret)
    world.clock.advance(1)
    await world.refused(secret)


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": tuple(Scope)},
        {"expires_at": None},
        {"mac": bytes(32)},
        {"drop_id": None},
        {"drop_id": _OTHER_DROP},
    ],
    ids=["wider", "longer", "other-mac", "all-drop-offs", "another-drop-off"],
)
@async_test
async def test_token_changed_in_the_database_is_refused(change: dict[str, Any]) -> None:
    """Write access to the catalog neither widens nor prolongs a token, nor makes one."""
    world = _World()
    made, secret = await world.make(Scope.DROPS_READ, days=1, drop_id=_DROP)
    assert await world.check(secret) == made
    world.catalog.api_tokens[made.id] = replace(made, **change)
    await world.refused(secret)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "dropoff_00"])
@async_test
async def test_token_missing_is_told_apart_and_not_counted(header: str | None) -> None:
    """A request without a token is no guess, so the answer names the missing token and slows nobody."""
    world = _World(wrong_per_hour=1)
    for _ in range(5):
        with pytest.raises(UnauthorizedError) as refusal:
            await world.guard.check(header, "192.0.2.1", Scope.DROPS_READ)
        assert not refusal.value.presented


@async_test
async def test_token_scheme_is_read_in_any_case() -> None:
    """RFC 9110, section 11.1: the scheme is case-insensitive."""
    world = _World()
    made, secret = await world.make(Scope.DROPS_READ)
    assert await world.guard.check(f"bEARER {secret}", None, Scope.DROPS_READ) == made


@async_test
async def test_wrong_tokens_are_slowed_per_address_and_a_right_one_never() -> None:
    """After the limit an address has to wait, others do not, and a good token is still let in from there."""
    world = _World(wrong_per_hour=3)
    made, secret = await world.make(Scope.DROPS_READ)
    for _ in range(3):
        await world.refused("wrong")
    with pytest.raises(TooManyWrongTokensError) as refusal:
        await world.check("wrong")
    assert refusal.value.retry_after_seconds == _HOUR_SECONDS / 3
    assert await world.check(secret) == made
    with pytest.raises(UnauthorizedError):
        await world.check("wrong", client="192.0.2.2")
    world.seconds += _HOUR_SECONDS / 3
    await world.refused("wrong")


@async_test
async def test_create_token_stores_no_secret() -> None:
    """The catalog has neither the token nor a plain hash of it."""
    world = _World()
    made, secret = await world.make(Scope.DROPS_READ)
    assert secret.startswith("dropoff_")
    assert len(bytes.fromhex(secret.removeprefix("dropoff_"))) == 32
    assert made.id == api_token_id(secret)
    assert secret not in repr(world.catalog.api_tokens)
    assert made.mac.hex() not in repr(made)


@pytest.mark.parametrize(
    ("name", "scopes", "field"),
    [("", ["drops:read"], "name"), ("x" * 201, ["drops:read"], "name"), ("x", ["all"], "scope"), ("x", [], "scope")],
    ids=["empty", "long", "unknown", "none"],
)
@async_test
async def test_create_token_that_cannot_be_names_the_field(name: str, scopes: list[str], field: str) -> None:
    """A mistake is reported with its place, and nothing is made."""
    world = _World()
    with pytest.raises(InvalidFieldError) as refusal:
        await create_api_token(world.catalog, _mac, world.clock, name=name, scopes=scopes)
    assert refusal.value.field == field
    assert world.catalog.api_tokens == {}


@async_test
async def test_token_for_a_drop_off_that_is_none_is_not_made() -> None:
    """A typing mistake is reported, and no token is left that is good for nothing."""
    world = _World()
    with pytest.raises(InvalidFieldError) as refusal:
        await create_api_token(world.catalog, _mac, world.clock, name="x", scopes=["drops:read"], drop_id=_DROP)
    assert refusal.value.field == "drop"
    assert world.catalog.api_tokens == {}


@async_test
async def test_refused_tokens_are_recorded_with_why_and_whence_and_never_themselves() -> None:
    """One row for equal ones of a minute; an unknown token has no name there, any other its id."""
    world = _World()
    made, secret = await world.make(Scope.DROPS_READ)
    expired, old = await world.make(Scope.DROPS_READ, days=1)
    revoked, gone = await world.make(Scope.DROPS_READ)
    await world.catalog.revoke_token(revoked.id, world.clock.now())
    world.clock.advance(2 * 86400)
    world.catalog.events.clear()
    with acting(lambda: Actor("client", "ab" * 16)):
        for _ in range(3):
            await world.refused(format_api_token(os.urandom(32)))
        for one in (old, gone):
            await world.refused(one)
        with pytest.raises(ScopeMissingError):
            await world.check(secret, Scope.UPLOADS_READ)
    await world.wrong.record()
    await world.wrong.record()
    assert {(e.act, e.result, e.token_id, e.count, e.origin) for e in world.catalog.events} == {
        (Act.WRONG_TOKENS, "unknown", None, 3, "ab" * 16),
        (Act.WRONG_TOKENS, "expired", expired.id, 1, "ab" * 16),
        (Act.WRONG_TOKENS, "revoked", revoked.id, 1, "ab" * 16),
        (Act.WRONG_TOKENS, "without uploads:read", made.id, 1, "ab" * 16),
    }
    assert not any(one in repr(world.catalog.events) for one in (secret, old, gone))


@async_test
async def test_refusals_of_a_flood_stay_few_and_wait_for_the_catalog() -> None:
    """After a number of addresses one row stands for all others; failed records are recorded later."""
    world = _World()
    for number in range(MOST_ORIGINS + 100):
        with acting(lambda origin=str(number): Actor("client", origin)):  # type: ignore[misc]
            await world.refused("wrong")
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await world.wrong.record()
    world.catalog.down = False
    await world.wrong.record()
    counts = [event.count or 0 for event in world.catalog.events]
    assert (len(counts), sum(counts)) == (MOST_ORIGINS + 1, MOST_ORIGINS + 100)
    assert [event.count for event in world.catalog.events if event.origin is None] == [100]
