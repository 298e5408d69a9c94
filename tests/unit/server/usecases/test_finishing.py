"""Finishing: digests, state checking, repetition until it is done, and once in effect."""

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from dropoff_tus.checksum import ExpectedDigest
from dropoff_tus.errors import (
    CatalogUnavailableError,
    DigestMismatchError,
    InvalidDigestError,
    NotSealedError,
    StorageFullError,
    UploadDamagedError,
    UploadFinishingError,
    UploadGoneError,
)
from dropoff_tus.ids import upload_id
from dropoff_tus.model import Metadata, Mode
from dropoff_tus.states import UploadState
from tests.support.aio import async_test
from tests.unit.server.usecases.world import World, token_of, with_digest, with_digest_in_base64

CONTENT = b"01234"
_ALGORITHMS = ("sha256", "sha512", "md5")


def _digest(algorithm: str, content: bytes = CONTENT) -> ExpectedDigest:
    return ExpectedDigest(algorithm, hashlib.new(algorithm, content, usedforsecurity=False).digest())


async def _until(world: World, token: str, state: UploadState) -> None:
    """Wait for the background."""
    for _ in range(200):
        if world.state(token) is state:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{world.state(token)} instead of {state}")


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
@pytest.mark.parametrize("write", [with_digest, with_digest_in_base64], ids=["hex", "base64"])
@async_test
async def test_digest_that_matches_completes(algorithm: str, write: Callable[[ExpectedDigest], Metadata]) -> None:
    """In hex or base64, also after a restart when it has to be read back."""
    for restarted in (False, True):
        world = World()
        token = token_of(await world.create(5, b"012", metadata=write(_digest(algorithm))))
        if restarted:
            await world.restart()
        assert (await world.patch(token, 3, b"34")).receipt is not None
        assert world.state(token) is UploadState.COMPLETE


_SEALED = Metadata((("filename", b"x"), ("sealed-by", b"age")))


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_content_that_is_not_sealed_as_its_metadata_says_is_rejected(mode: Mode) -> None:
    """With its creation or later; a sealed one completes, and one without the mark is not looked at."""
    world = World(mode=mode)
    token = token_of(await world.create(5, metadata=_SEALED))
    with pytest.raises(NotSealedError) as caught:
        await world.patch(token, 0, CONTENT)
    assert "nothing of it is kept" in caught.value.message
    assert world.state(token) is UploadState.REJECTED
    assert world.store.content(upload_id(token)) == b""
    with pytest.raises(UploadGoneError):
        await world.head(token)
    with pytest.raises(NotSealedError):
        await world.create(5, CONTENT, metadata=_SEALED)
    sealed = b"age-encryption.org/v1\n-> and so on"
    for content, metadata in ((sealed, _SEALED), (CONTENT, Metadata((("sealed-by", b"gpg"),)))):
        token = token_of(await world.create(len(content), metadata=metadata))
        assert (await world.patch(token, 0, content)).receipt is not None
        assert world.state(token) is UploadState.COMPLETE


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_digest_that_does_not_match_rejects(algorithm: str, mode: Mode) -> None:
    """422 for the client, rejected for the operator, then 410; nothing of it counts."""
    world = World(mode=mode)
    token = token_of(await world.create(5, metadata=with_digest(_digest(algorithm, b"other"))))
    with pytest.raises(DigestMismatchError):
        await world.patch(token, 0, CONTENT)
    assert world.state(token) is UploadState.REJECTED
    assert world.store.content(upload_id(token)) == b""
    assert await world.reserved_bytes() == 0
    for again in (world.head(token), world.patch(token, 5)):
        with pytest.raises(UploadGoneError):
            await again


@async_test
async def test_digest_that_is_none_is_refused_at_creation() -> None:
    """400, before anything is made."""
    world = World()
    with pytest.raises(InvalidDigestError):
        await world.create(5, metadata=Metadata((("sha256", b"abc"),)))
    assert world.catalog.rows == {}


@async_test
async def test_digest_of_creation_with_upload_is_checked_too() -> None:
    """The same answer as for a PATCH."""
    world = World()
    with pytest.raises(DigestMismatchError):
        await world.create(5, CONTENT, metadata=with_digest(_digest("sha256", b"other")))
    assert [row.state for row in world.catalog.rows.values()] == [UploadState.REJECTED]


# ---- the catalog goes away --------------------------------------------------------------------------------------


@async_test
async def test_catalog_away_at_the_end_is_told_when_it_is_back() -> None:
    """503 for the client, 423 on HEAD meanwhile, and the server does the rest without it: once."""
    world = World()
    token = token_of(await world.create(5, b"012"))
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await world.patch(token, 3, b"34")
    assert world.store.kept[upload_id(token)].final
    with pytest.raises(CatalogUnavailableError):
        await world.head(token)
    assert world.uploads.finisher.waiting() == (1, world.clock.now())
    world.catalog.down = False
    with pytest.raises(UploadFinishingError):
        await world.head(token)
    await _until(world, token, UploadState.COMPLETE)
    assert (await world.head(token)).offset == 5
    assert world.store.kept[upload_id(token)].times_completed == 1
    await asyncio.sleep(0)
    assert world.uploads.finisher.waiting() == (0, None)
    assert world.uploads.ports.counts.finished == 1


@async_test
async def test_catalog_away_at_a_rejection_learns_of_it_later() -> None:
    """The client still gets 422: the store has decided."""
    world = World()
    token = token_of(await world.create(5, metadata=with_digest(_digest("sha256", b"other"))))
    world.catalog.down = True
    with pytest.raises(DigestMismatchError):
        await world.patch(token, 0, CONTENT)
    world.catalog.down = False
    await _until(world, token, UploadState.REJECTED)
    assert await world.reserved_bytes() == 0


@async_test
async def test_disk_that_is_full_at_the_receipt_is_tried_again() -> None:
    """Every byte is here, so the server goes on by itself when there is room."""
    world = World()
    token = token_of(await world.create(5))
    world.store.refuse_completion = StorageFullError("full")
    with pytest.raises(StorageFullError):
        await world.patch(token, 0, CONTENT)
    world.store.refuse_completion = None
    await _until(world, token, UploadState.COMPLETE)


@async_test
async def test_upload_that_does_not_verify_is_not_tried_again() -> None:
    """It never becomes complete, and nothing of it is changed."""
    world = World()
    token = token_of(await world.create(5))
    world.store.refuse_completion = UploadDamagedError("damaged")
    with pytest.raises(UploadDamagedError):
        await world.patch(token, 0, CONTENT)
    world.store.refuse_completion = None
    await asyncio.sleep(0.05)
    assert world.state(token) is UploadState.OPEN


# ---- once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_finishing_many_times_at_once_is_one_completion(mode: Mode) -> None:
    """PATCH, HEAD's background and repetitions of both: one receipt, one count."""
    world = World(mode=mode)
    token = token_of(await world.create(5, b"012"))
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await world.patch(token, 3, b"34")
    world.catalog.down = False
    await asyncio.gather(
        *(world.patch(token, 5) for _ in range(5)), *(world.head(token) for _ in range(5)), return_exceptions=True
    )
    await _until(world, token, UploadState.COMPLETE)
    assert world.store.kept[upload_id(token)].times_completed == 1
    usage = await world.catalog.usage(world.drop.id)
    assert (usage.uploads, usage.bytes) == (1, 5)


@async_test
async def test_upload_that_an_older_catalog_lacks_is_added_and_complete() -> None:
    """Success is never reported for an upload that no operator would find."""
    world = World()
    token = token_of(await world.create(5, b"012"))
    world.catalog.rows.clear()
    assert (await world.patch(token, 3, b"34")).receipt is not None
    row = world.row(token)
    assert row is not None
    assert (row.state, row.size_bytes, row.drop_id) == (UploadState.COMPLETE, 5, world.drop.id)


@async_test
async def test_whole_upload_that_an_older_catalog_lacks_is_found_by_head() -> None:
    """It is finished again rather than called unknown."""
    world = World()
    token = token_of(await world.create(5, CONTENT))
    world.catalog.rows.clear()
    with pytest.raises(UploadFinishingError):
        await world.head(token)
    await _until(world, token, UploadState.COMPLETE)


# ---- state checking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_too_large_to_read_back_at_once_is_checking_and_then_complete(mode: Mode) -> None:
    """204 without a receipt, success for HEAD, and the background computes what a restart has lost."""
    world = World(mode=mode, read_back_bytes=4)
    token = token_of(await world.create(5, b"012", metadata=with_digest(_digest("sha256"))))
    await world.restart()
    assert (await world.patch(token, 3, b"34")).receipt is None
    assert world.state(token) is UploadState.CHECKING
    assert (await world.head(token)).offset == 5
    await _until(world, token, UploadState.COMPLETE)
    assert world.store.kept[upload_id(token)].receipt == {"sha256": hashlib.sha256(CONTENT).digest()}
    assert world.store.kept[upload_id(token)].sealed == (mode is Mode.SEALED)
    assert (await world.patch(token, 5)).receipt is not None


@async_test
async def test_of_the_limit_is_read_back_at_once() -> None:
    """The limit itself is not too large."""
    world = World(read_back_bytes=5)
    token = token_of(await world.create(5, b"012"))
    await world.restart()
    assert (await world.patch(token, 3, b"34")).receipt is not None


@async_test
async def test_without_a_restart_nothing_is_read_back() -> None:
    """Digests were carried along."""
    world = World(read_back_bytes=0)
    token = token_of(await world.create(5, b"012"))
    assert (await world.patch(token, 3, b"34")).receipt is not None


@async_test
async def test_checking_that_finds_another_digest_rejects() -> None:
    """The client has gone home; the operator sees it, and a late HEAD too."""
    world = World(read_back_bytes=4)
    token = token_of(await world.create(5, b"012", metadata=with_digest(_digest("sha256", b"other"))))
    await world.restart()
    await world.patch(token, 3, b"34")
    await _until(world, token, UploadState.REJECTED)
    with pytest.raises(UploadGoneError):
        await world.head(token)


@async_test
async def test_checking_goes_on_after_another_restart() -> None:
    """Killed in the middle of it, the next process takes it up."""
    world = World(read_back_bytes=4)
    token = token_of(await world.create(5, b"012"))
    await world.restart()
    await world.patch(token, 3, b"34")
    await world.restart()
    assert world.state(token) is UploadState.CHECKING
    assert (await world.uploads.reconciler.reconcile()).later == 1
    await _until(world, token, UploadState.COMPLETE)
    await world.uploads.finisher.stop()
