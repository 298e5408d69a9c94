"""Creating: the catalog admits and reserves, then the store makes it; a failure leaves nothing that counts."""

import asyncio

import pytest

from dropoff_tus.errors import (
    AccessDeniedError,
    BodyCutError,
    CatalogUnavailableError,
    DropoffClosedError,
    DropoffExpiredError,
    DropoffFullError,
    DropoffNotOpenError,
    MaxSizeExceededError,
    QuotaError,
    StorageFullError,
    TypeNotAllowedError,
    UploadSizeExceededError,
)
from dropoff_tus.model import Metadata, Role
from dropoff_tus.policy import ATTEMPTS_PER_UPLOAD
from dropoff_tus.states import UploadState
from server.usecases.ending import LOST_CREATION_SECONDS
from tests.support.aio import async_test
from tests.support.fake_clock import NOON
from tests.support.memory_body import MemoryBody
from tests.unit.server.usecases.world import SETTINGS, URL, World, token_of


@async_test
async def test_create_reserves_and_makes_it_open() -> None:
    """The answer has the URL, the id and the expiry; the row has the reservation."""
    world = World()
    created = await world.create(10)
    row = world.row(token_of(created))
    assert row is not None
    assert created.location == URL + token_of(created)
    assert (created.upload_id, created.offset, created.receipt) == (row.id, None, None)
    assert created.expires_at is not None
    assert (created.expires_at - NOON).total_seconds() == SETTINGS.expire_after_seconds
    assert (row.state, row.reserved_bytes, row.length) == (UploadState.OPEN, 10, 10)
    assert (await world.head(token_of(created))).offset == 0


@async_test
async def test_create_of_length_0_is_complete_once() -> None:
    """It has a receipt at once, and no expiry."""
    world = World()
    created = await world.create(0)
    assert created.receipt == f"{created.location}/receipt"
    assert created.expires_at is None
    assert world.state(token_of(created)) is UploadState.COMPLETE
    assert world.store.kept[created.upload_id].times_completed == 1


@async_test
async def test_create_with_part_of_the_body_goes_on_with_patch() -> None:
    """The answer has the offset, and the rest completes it."""
    world = World()
    created = await world.create(5, b"012")
    assert (created.offset, created.receipt) == (3, None)
    done = await world.patch(token_of(created), 3, b"34")
    assert done.receipt == f"{created.location}/receipt"


@async_test
async def test_create_with_the_whole_body_completes_with_a_receipt() -> None:
    """One request is enough."""
    world = World()
    created = await world.create(5, b"01234")
    assert (created.offset, created.expires_at) == (5, None)
    assert created.receipt == f"{created.location}/receipt"
    assert world.state(token_of(created)) is UploadState.COMPLETE
    assert world.store.content(created.upload_id) == b"01234"


@async_test
async def test_create_with_a_body_past_the_length_is_refused_before_it() -> None:
    """Content-Length says so: no row, no reservation, no byte read."""
    world = World()
    with pytest.raises(UploadSizeExceededError):
        await world.create(3, b"01234")
    assert world.catalog.rows == {}
    assert world.store.kept == {}


@pytest.mark.parametrize("chunked", [False, True])
@async_test
async def test_create_whose_body_is_cut_leaves_nothing_that_counts(chunked: bool) -> None:
    """The client never learned the URL: its reservation is given back."""
    world = World()
    body = MemoryBody(b"012", ended=False)
    body.cut()
    with pytest.raises(BodyCutError):
        await world.create(None if chunked else 10, body)
    assert await world.reserved_bytes() == 0
    assert [row.state for row in world.catalog.rows.values()] == [UploadState.TERMINATED]


@async_test
async def test_create_that_the_store_refuses_gives_the_reservation_back() -> None:
    """There is no row of what does not exist."""
    world = World()
    world.store.refuse_creation = StorageFullError("full")
    with pytest.raises(StorageFullError):
        await world.create(10)
    assert world.catalog.rows == {}


@async_test
async def test_create_with_the_catalog_away_makes_nothing() -> None:
    """503, and the store was not asked."""
    world = World()
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await world.create(10)
    assert world.store.kept == {}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"closed": True}, DropoffClosedError),
        ({"opens_at": NOON.replace(hour=13)}, DropoffNotOpenError),
        ({"expires_at": NOON}, DropoffExpiredError),
        ({"max_upload_bytes": 9}, MaxSizeExceededError),
        ({"max_total_bytes": 9}, QuotaError),
        ({"allowed_types": ("image/*",)}, TypeNotAllowedError),
        ({"name_patterns": ("*.vcf",)}, TypeNotAllowedError),
    ],
    ids=["closed", "not-open", "expired", "size", "bytes", "type", "name"],
)
@async_test
async def test_create_is_refused_by_each_rule_of_the_drop_off(
    changes: dict[str, object], error: type[Exception]
) -> None:
    """Nothing is stored and nothing reserved."""
    world = World()
    world.change_drop(**changes)
    with pytest.raises(error):
        await world.create(10, metadata=Metadata((("filename", b"a.txt"), ("filetype", b"text/plain"))))
    assert (world.catalog.rows, world.store.kept) == ({}, {})


@async_test
async def test_create_decides_on_the_drop_off_of_now_and_not_of_the_grant() -> None:
    """A drop-off that was closed or removed since the code was checked takes nothing."""
    world = World()
    drop = world.drop
    world.change_drop(closed=True)
    with pytest.raises(DropoffClosedError):
        await world.create(10)
    del world.catalog.drops[drop.id]
    world.catalog.drops["another"] = drop
    with pytest.raises((AccessDeniedError, KeyError)):
        await world.create(10)


@async_test
async def test_create_without_room_on_the_disk_is_refused() -> None:
    """Each has to fit as a whole, but what nobody sends for keeps no room, of whatever drop-off it is."""
    world = World()
    world.store.free = 10
    for _ in range(3):
        await world.create(9, b"0")
    await world.create(10)
    with pytest.raises(StorageFullError):
        await world.create(11)


@async_test
async def test_what_is_received_keeps_its_room_from_others() -> None:
    """While bytes come the rest has room; once they do not, others have it."""
    world = World()
    world.store.free = 10
    token, body = token_of(await world.create(9)), MemoryBody(b"012", ended=False)
    sending = asyncio.create_task(world.patch(token, 0, body))
    await body.until_taken(3)
    with pytest.raises(StorageFullError):
        await world.create(8)
    body.cut()
    with pytest.raises(BodyCutError):
        await sending
    await world.create(8)


@async_test
async def test_full_drop_off_first_lets_go_of_lost_creations() -> None:
    """A creation without a byte that was idle for ten minutes makes room; one with a byte does not."""
    world = World(max_uploads=2)
    begun = token_of(await world.create(10, b"0"))
    lost = token_of(await world.create(10))
    with pytest.raises(DropoffFullError):
        await world.create(10)
    world.clock.advance(LOST_CREATION_SECONDS + 1)
    await world.create(10)
    assert world.state(lost) is UploadState.EXPIRED
    assert world.state(begun) is UploadState.OPEN
    with pytest.raises(DropoffFullError):
        await world.create(10)


@async_test
async def test_partials_do_not_count_but_their_bytes_do() -> None:
    """They are not uploads of their own; type and name are not asked of them."""
    world = World(max_uploads=1, max_total_bytes=10, allowed_types=("image/*",))
    for _ in range(3):
        await world.create(3, role=Role.PARTIAL)
    with pytest.raises(QuotaError):
        await world.create(2, role=Role.PARTIAL)


@pytest.mark.parametrize("kind", ["partials", "rounds", "cut"])
@async_test
async def test_files_of_what_does_not_count_as_an_upload_are_bounded(kind: str) -> None:
    """Empty parts, creations that are ended again, and creations whose first bytes are cut, within one upload."""
    world = World(max_uploads=1)
    for _ in range(ATTEMPTS_PER_UPLOAD):
        await _attempt(world, kind)
    with pytest.raises(DropoffFullError, match="parts and attempts"):
        await _attempt(world, kind)
    world.change_drop(max_uploads=2)
    await world.create(1)


async def _attempt(world: World, kind: str) -> None:
    if kind == "partials":
        await world.create(0, role=Role.PARTIAL)
    elif kind == "rounds":
        await world.terminate(token_of(await world.create(1)))
    else:
        body = MemoryBody(b"0", ended=False)
        body.cut()
        with pytest.raises(BodyCutError):
            await world.create(10, body)
