"""Codes: one answer for all that is wrong, at a pace, and none for what is right."""

import hashlib
from dataclasses import replace

import pytest

from dropoff_tus.errors import AccessDeniedError, DropoffError, PolicyTamperedError, TooManyWrongCodesError
from dropoff_tus.ids import normalise_code
from dropoff_tus.model import Dropoff, DropTerms
from server.usecases.auth import Auth
from server.usecases.wrong_credentials import WrongCredentials
from tests.support.aio import async_test
from tests.support.fake_clock import NOON
from tests.support.memory_catalog import MemoryCatalog

_ID = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"
_OTHER_ID = "4f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"
_CODE = "7QK2-01AB-9XYZ-M3T5"
_LIMIT = 5


def _mac(drop_id: str, code: str) -> bytes:
    return hashlib.sha256((drop_id + normalise_code(code)).encode()).digest()


def _verify(drop: Dropoff) -> None:
    if drop.signature != b"signed":
        raise PolicyTamperedError("not signed")


class _Door:
    """An `Auth` over one drop-off, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.catalog = MemoryCatalog()
        drop = Dropoff(_ID, NOON, DropTerms("Survey"), _mac(_ID, _CODE), b"signed")
        self.catalog.drops = {_ID: drop, _OTHER_ID: replace(drop, id=_OTHER_ID, code_mac=_mac(_OTHER_ID, _CODE))}
        self.auth = Auth(self.catalog, _mac, _verify, _LIMIT, WrongCredentials(self.catalog), lambda: self.now)

    async def answer(
        self, code: str | None, client: str | None = "192.0.2.1", drop_id: str = _ID
    ) -> DropoffError | None:
        """Return the refusal, or None."""
        try:
            await self.auth.grant_slowly(drop_id, code, client)
        except DropoffError as error:
            return error
        return None


@pytest.mark.parametrize(
    "typed",
    [
        _CODE,
        _CODE.lower(),
        _CODE.replace("-", ""),
        _CODE.replace("-", " "),
        " 7qk2 olab 9xyz m3t5 ",
        "7QK2-OIAB-9XYZ-M3T5",
    ],
)
@async_test
async def test_right_code_as_people_type_it_is_let_in(typed: str) -> None:
    """Case, dashes and spaces do not matter, nor O for 0, nor I and L for 1."""
    assert await _Door().answer(typed) is None


@async_test
async def test_unknown_drop_off_wrong_and_missing_code_are_one_refusal_after_the_same_work() -> None:
    """Error, text and the number of look-ups tell nobody which of them it was; the pace is the same too."""
    told = set()
    for drop_id, code in [
        (_ID, "wrong"),
        (_ID, None),
        (_ID, ""),
        ("5f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a", _CODE),
        ("no-uuid", None),
    ]:
        door = _Door()
        answers = [await door.answer(code, drop_id=drop_id) for _ in range(_LIMIT + 1)]
        told.add((tuple((type(error), str(error)) for error in answers), door.catalog.asked))
    ((refusals, asked),) = told
    assert [kind for kind, _ in refusals] == [AccessDeniedError] * _LIMIT + [TooManyWrongCodesError]
    assert asked == _LIMIT + 1


@async_test
async def test_wrong_codes_of_one_client_are_slowed_at_all_drop_offs() -> None:
    """Another drop-off is no fresh start, another client is."""
    door = _Door()
    for _ in range(_LIMIT):
        assert isinstance(await door.answer("wrong"), AccessDeniedError)
    refused = await door.answer("wrong", drop_id=_OTHER_ID)
    assert isinstance(refused, TooManyWrongCodesError)
    assert refused.retry_after_seconds == 3600 / _LIMIT
    assert isinstance(await door.answer("wrong", "192.0.2.2", _OTHER_ID), AccessDeniedError)
    door.now += 3600 / _LIMIT
    assert isinstance(await door.answer("wrong", drop_id=_OTHER_ID), AccessDeniedError)


@async_test
async def test_wrong_codes_for_one_drop_off_are_slowed_from_all_clients() -> None:
    """Many addresses guess no faster than one; those who know the code notice nothing."""
    door = _Door()
    kinds = [type(await door.answer("wrong", f"10.0.{number // 256}.{number % 256}")) for number in range(10_000)]
    assert kinds == [AccessDeniedError] * _LIMIT + [TooManyWrongCodesError] * (10_000 - _LIMIT)
    for client in ("192.0.2.1", "10.0.0.1", None):
        assert await door.answer(_CODE, client) is None
    assert isinstance(await door.answer("wrong", "192.0.2.1", _OTHER_ID), AccessDeniedError)


@async_test
async def test_client_over_its_limit_takes_nothing_from_the_drop_off() -> None:
    """One guesser does not make others, who mistype, wait."""
    door = _Door()
    for _ in range(_LIMIT):
        await door.answer("wrong", drop_id=_OTHER_ID)
    for _ in range(100):
        assert isinstance(await door.answer("wrong"), TooManyWrongCodesError)
    assert isinstance(await door.answer("wrong", "192.0.2.2"), AccessDeniedError)


@async_test
async def test_wrong_codes_for_ids_of_no_form_are_counted_together() -> None:
    """However many names a guesser makes up, they are one; and no client's text is kept as a name."""
    door = _Door()
    malformed = ["x", "", _ID.upper(), f"{_ID}x", "é" * 1000, "../secrets"]
    kinds = [type(await door.answer("wrong", None, name)) for name in malformed for _ in range(2)]
    assert kinds == [AccessDeniedError] * _LIMIT + [TooManyWrongCodesError] * (2 * len(malformed) - _LIMIT)
    assert isinstance(await door.answer("wrong", None), AccessDeniedError)
