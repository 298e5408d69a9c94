"""The port's drop-offs, on every database."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta, timezone
from functools import partial

import pytest

from dropoff_tus.errors import InvalidFieldError
from dropoff_tus.model import Dropoff, DropTerms, Mode, Usage
from storage.catalog import open_catalog
from tests.integration.catalog.harness import NOW, allow, make_dropoff, make_upload
from tests.support.aio import async_test
from tests.support.drops import changed


@async_test
async def test_dropoff_with_every_field_set_comes_back_equal(catalog_url: str) -> None:
    """Nothing of a drop-off is lost or changed on its way through the database."""
    full = replace(
        make_dropoff(
            "Ünïcode ✓ 'quoted'\n",
            code_mac=bytes(range(32)),
            mode=Mode.SEALED,
            recipients=("age1one", "age1two"),
            opens_at=NOW - timedelta(days=3),
            expires_at=NOW + timedelta(days=3),
            max_upload_bytes=2**63 - 1,
            max_total_bytes=2**40,
            max_uploads=7,
            allowed_types=("image/*", "text/plain"),
            name_patterns=("*.pdf", "größe-*.txt"),
        ),
        signature=bytes(range(64)),
        closed=True,
        ended=True,
    )
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(full)
        assert await catalog.dropoff(full.id) == full


@async_test
async def test_dropoff_with_defaults_comes_back_equal(catalog_url: str) -> None:
    """Absent values stay absent."""
    plain = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(plain)
        assert await catalog.dropoff(plain.id) == plain


@async_test
async def test_dropoff_created_in_another_zone_comes_back_as_utc(catalog_url: str) -> None:
    """Times are the same moments, to the microsecond, in UTC."""
    there = NOW.astimezone(timezone(timedelta(hours=-7)))
    dropoff = replace(make_dropoff(), created_at=there)
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        found = await catalog.dropoff(dropoff.id)
    assert found is not None
    assert found.created_at == there
    assert found.created_at.utcoffset() == timedelta(0)


@async_test
async def test_dropoff_unknown_is_none(catalog_url: str) -> None:
    """A question for nothing is answered with nothing."""
    unknown = make_dropoff().id
    async with open_catalog(catalog_url) as catalog:
        assert await catalog.dropoff(unknown) is None
        assert await catalog.usage(unknown) == Usage(0, 0)
        assert not await catalog.set_closed(unknown, closed=True)
        assert await catalog.change_dropoff(unknown, lambda found: found) is None


@async_test
async def test_add_dropoff_with_a_taken_id_raises_and_changes_nothing(catalog_url: str) -> None:
    """A drop-off is never replaced, and a failed attempt is no change."""
    first = make_dropoff("first")
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(first)
        version = await catalog.version()
        with pytest.raises(ValueError, match="exists already"):
            await catalog.add_dropoff(changed(first, name="second"))
        assert await catalog.dropoff(first.id) == first
        assert await catalog.version() == version


@async_test
async def test_dropoffs_lists_all_oldest_first(catalog_url: str) -> None:
    """The order is that of creation, not of insertion."""
    made = [make_dropoff(str(number)) for number in range(5)]
    async with open_catalog(catalog_url) as catalog:
        for dropoff in reversed(made):
            await catalog.add_dropoff(dropoff)
        assert await catalog.dropoffs() == made


@pytest.mark.parametrize(
    ("steps", "closed", "ended"),
    [
        ([(True, False)], True, False),
        ([(True, True)], True, True),
        ([(True, True), (True, False)], True, True),
        ([(True, True), (False, False)], False, False),
        ([(False, True)], False, False),
    ],
    ids=["close", "close-now", "close-after-close-now", "reopen", "reopen-never-ends"],
)
@async_test
async def test_set_closed_leaves_closed_and_ended(
    catalog_url: str, steps: list[tuple[bool, bool]], closed: bool, ended: bool
) -> None:
    """Closing, closing now and reopening leave the two flags as an operator expects them."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        for closing, end_open in steps:
            assert await catalog.set_closed(dropoff.id, closed=closing, end_open=end_open)
        assert await catalog.dropoff(dropoff.id) == replace(dropoff, closed=closed, ended=ended)


def _with_code(code_mac: bytes | None, dropoff: Dropoff) -> Dropoff:
    return replace(dropoff, code_mac=code_mac)


@async_test
async def test_code_is_replaced_and_removed(catalog_url: str) -> None:
    """A new code takes the old one's place; None leaves the drop-off without one."""
    dropoff = make_dropoff(code_mac=b"a" * 32)
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        for code_mac in (b"b" * 32, None):
            wanted = replace(dropoff, code_mac=code_mac)
            assert await catalog.change_dropoff(dropoff.id, partial(_with_code, code_mac)) is not None
            assert await catalog.dropoff(dropoff.id) == wanted


@async_test
async def test_version_rises_with_every_change_of_a_dropoff_and_no_upload(catalog_url: str) -> None:
    """A poll sees each change of a drop-off, and uploads do not wake it."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        versions = [await catalog.version()]
        await catalog.add_dropoff(dropoff)
        versions.append(await catalog.version())
        await catalog.change_dropoff(dropoff.id, lambda found: changed(found, contact="Ada"))
        versions.append(await catalog.version())
        await catalog.set_closed(dropoff.id, closed=True, end_open=True)
        versions.append(await catalog.version())
        assert versions == sorted(set(versions))
        row = await catalog.add_upload(make_upload(dropoff, 5), allow)
        await catalog.complete_upload(row.id, 5, NOW)
        assert await catalog.version() == versions[-1]


@async_test
async def test_dropoff_changed_is_what_it_was_changed_to(catalog_url: str) -> None:
    """All that may change does, in one transaction, and is recorded by name; received uploads stay."""
    dropoff = make_dropoff(code_mac=bytes(32))
    terms = DropTerms(
        name="Other",
        mode=Mode.SEALED,
        recipients=("age1one",),
        max_upload_bytes=5,
        max_total_bytes=6,
        max_uploads=7,
        allowed_types=("text/csv",),
        name_patterns=("*.csv",),
        opens_at=NOW,
        expires_at=NOW + timedelta(days=1),
        notify=("a@example.org",),
        retain_seconds=9,
        contact="Ada",
    )
    wanted = replace(dropoff, terms=terms, code_mac=None, signature=bytes(64))
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 5), allow)
        assert await catalog.change_dropoff(dropoff.id, lambda present: present) == dropoff
        version = await catalog.version()
        assert await catalog.change_dropoff(dropoff.id, lambda _present: wanted) == wanted
        assert await catalog.version() > version
        assert await catalog.dropoff(dropoff.id) == wanted
        assert await catalog.usage(dropoff.id) == Usage(1, 5)
        assert await catalog.upload(row.id) == row
        assert await catalog.change_dropoff("none", lambda present: present) is None
        told = [json.loads(text) for _, text in await catalog.audit_rows(0, 1 << 62, 99)]
    assert [row["act"] for row in told] == ["drop.create", "upload.create", "drop.edit"]
    assert set(told[-1]["result"].split()) == {
        *("name", "opens_at", "expires_at", "notify", "retain_seconds", "contact", "mode", "recipients", "has_code"),
        *("max_upload_bytes", "max_total_bytes", "max_uploads", "allowed_types", "name_patterns"),
    }


@async_test
async def test_dropoff_change_that_refuses_leaves_all_as_it_was(catalog_url: str) -> None:
    """A refusal inside the transaction undoes it."""
    dropoff = make_dropoff()

    def no(_present: Dropoff) -> Dropoff:
        raise InvalidFieldError("name", "is none")

    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        version = await catalog.version()
        with pytest.raises(InvalidFieldError):
            await catalog.change_dropoff(dropoff.id, no)
        assert (await catalog.dropoff(dropoff.id), await catalog.version()) == (dropoff, version)


@async_test
async def test_dropoffs_changed_at_once_lose_no_change(catalog_url: str) -> None:
    """Each change is made from what the last one left, in whatever process."""
    dropoff = make_dropoff()

    def add(present: Dropoff) -> Dropoff:
        return changed(present, retain_seconds=present.terms.retain_seconds + 1)

    async with open_catalog(catalog_url) as one, open_catalog(catalog_url) as other:
        await one.add_dropoff(dropoff)
        await asyncio.gather(*(catalog.change_dropoff(dropoff.id, add) for catalog in (one, other) for _ in range(10)))
        found = await one.dropoff(dropoff.id)
    assert found is not None
    assert found.terms.retain_seconds == 20


@async_test
async def test_dropoffs_read_in_pages_are_those_read_at_once(catalog_url: str) -> None:
    """Pages miss nothing and repeat nothing, also where several were made in one moment."""
    async with open_catalog(catalog_url) as catalog:
        for _ in range(7):
            await catalog.add_dropoff(replace(make_dropoff(), created_at=NOW))
        paged: list[Dropoff] = []
        while page := await catalog.dropoffs(after=(NOW, paged[-1].id) if paged else None, limit=3):
            assert len(page) <= 3
            paged += page
        assert paged == await catalog.dropoffs()
        assert len(paged) == 7
