"""The store port's promises on finished and ended uploads: digests, final record, receipts, sealing, shredding."""

import hashlib
from datetime import UTC, datetime

import pytest

from dropoff_tus.errors import KeyMissingError, UploadNotFoundError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from storage.age import Identity, KeyType, encrypt
from tests.integration.store.harness import METADATA, Uploads
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody


def _now() -> datetime:
    return datetime.now(UTC)


@async_test
async def test_digests_carried_since_the_first_byte_need_no_reading(uploads: Uploads) -> None:
    """The configured one and those named at creation are there, whatever may be read back."""
    _, upload = await uploads.create(5, digests=("md5",))
    await uploads.append(upload.id, 0, b"01")
    await uploads.append(upload.id, 2, b"234")
    async with uploads.store.lease(upload.id) as lease:
        found = await lease.digests(["md5"], read_back_bytes=0)
    assert found == {
        "sha256": hashlib.sha256(b"01234").digest(),
        "md5": hashlib.md5(b"01234", usedforsecurity=False).digest(),
    }


@async_test
async def test_digests_after_a_restart_are_read_back_up_to_a_limit(uploads: Uploads) -> None:
    """One byte less than the upload has is too little, and then nothing is said."""
    _, upload_id = await uploads.whole(b"01234")
    uploads.backend.reopen()
    async with uploads.store.lease(upload_id) as lease:
        assert await lease.digests([], read_back_bytes=4) is None
        assert await lease.digests([], read_back_bytes=5) == {"sha256": hashlib.sha256(b"01234").digest()}


@async_test
async def test_final_record_again_is_the_same(uploads: Uploads) -> None:
    """Finishing may be repeated, also by another process: one final record, one receipt id, one time."""
    _, upload_id = await uploads.whole(b"01234")
    async with uploads.store.lease(upload_id) as lease:
        final_hash = await lease.write_final(_now())
        assert await lease.write_final(_now()) == final_hash
    uploads.backend.reopen()
    async with uploads.store.lease(upload_id) as lease:
        first = await lease.complete({}, _now())
        assert first.final_hash == final_hash
        assert first.size_bytes == 5
    at = (await uploads.store.stat(upload_id)).last_commit_at
    uploads.backend.reopen()
    async with uploads.store.lease(upload_id) as lease:
        assert await lease.complete({}, _now()) == first
    stored = await uploads.store.stat(upload_id)
    assert stored.final
    assert stored.last_commit_at == at


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_receipt_is_for_whoever_has_the_token(uploads: Uploads, mode: Mode) -> None:
    """It is there once the upload is complete, only for its token, even if a restart came before."""
    token, upload_id = await uploads.whole(b"01234", mode=mode)
    assert await uploads.store.url_receipt(upload_id, token) is None
    uploads.backend.reopen()
    await uploads.finish(upload_id)
    line = await uploads.store.url_receipt(upload_id, token)
    assert line is not None
    assert hashlib.sha256(b"01234").hexdigest().encode() in line
    assert await uploads.store.url_receipt(upload_id, "f" * 32) is None
    uploads.backend.reopen()
    async with uploads.store.lease(upload_id) as lease:
        await lease.complete({}, _now())
    assert await uploads.store.url_receipt(upload_id, token) == line


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_content_that_begins_sealed_is_told_before_the_end(uploads: Uploads, mode: Mode) -> None:
    """By what was held back too, and after a restart; the upload completes as ever after that."""
    key = Identity(KeyType.X25519, b"\x01" * 32).recipient
    for content, sealed in ((encrypt(b"hello", key), True), (encrypt(bytes(200_000), key), True), (b"hello", False)):
        for way in ("held back", "committed", "reopened"):
            _, upload = await uploads.create(len(content), mode=mode)
            if way != "held back":
                await uploads.append(upload.id, 0, content)
            if way == "reopened":
                uploads.backend.reopen()
            async with uploads.store.lease(upload.id) as lease:
                if way == "held back":
                    plan = AppendPlan(0, len(content), len(content))
                    await lease.append(MemoryBody(content), plan, idle_timeout_seconds=30, hold_last=True)
                assert await lease.begins_sealed() is sealed
                assert (lease.upload.offset, lease.upload.final) == (len(content), False)
                assert (await lease.complete({}, _now())).size_bytes == len(content)


@async_test
async def test_read_needs_a_finished_upload_and_returns_any_range(uploads: Uploads) -> None:
    """A managed one opens with the server's own identity."""
    _, upload_id = await uploads.whole(b"0123456789")
    with pytest.raises(UploadNotFoundError):
        await uploads.read(upload_id)
    await uploads.finish(upload_id)
    assert await uploads.read(upload_id, with_root=False) == b"0123456789"
    assert await uploads.read(upload_id, start=3, stop=7) == b"3456"


@async_test
async def test_sealed_upload_is_closed_to_the_server_from_completion_on(uploads: Uploads) -> None:
    """Before it, the metadata can be read, also after a restart; then only the root opens anything."""
    _, upload_id = await uploads.whole(b"0123456789", mode=Mode.SEALED)
    uploads.backend.reopen()
    assert await uploads.store.metadata(upload_id) == METADATA
    await uploads.finish(upload_id)
    assert await uploads.store.metadata(upload_id) is None
    with pytest.raises(KeyMissingError):
        await uploads.read(upload_id, with_root=False)
    assert await uploads.read(upload_id) == b"0123456789"


@async_test
async def test_final_record_alone_neither_seals_nor_writes_a_receipt(uploads: Uploads) -> None:
    """State checking: the upload stays readable."""
    token, upload_id = await uploads.whole(b"01234", mode=Mode.SEALED)
    async with uploads.store.lease(upload_id) as lease:
        await lease.write_final(_now())
    uploads.backend.reopen()
    assert (await uploads.store.stat(upload_id)).final
    assert await uploads.store.url_receipt(upload_id, token) is None
    assert await uploads.store.metadata(upload_id) == METADATA


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_concatenation_is_its_parts_in_order(uploads: Uploads, mode: Mode) -> None:
    """Parts have no receipt and are not sealed by themselves; the final has one, and seals them all."""
    pieces = [b"012", b"", b"3456"]
    parts: list[str] = []
    for piece in pieces:
        token, part = await uploads.whole(piece, role=Role.PARTIAL, mode=mode)
        await uploads.finish(part)
        assert await uploads.store.url_receipt(part, token) is None
        assert await uploads.store.metadata(part) == METADATA
        parts.append(part)
    token, final = await uploads.create(None, role=Role.FINAL, mode=mode, parts=parts)
    await uploads.finish(final.id)
    stored = await uploads.store.stat(final.id)
    assert (stored.parts, stored.offset, stored.length, stored.final) == (tuple(parts), 7, 7, True)
    assert await uploads.read(final.id) == b"0123456"
    line = await uploads.store.url_receipt(final.id, token)
    assert line is not None
    assert hashlib.sha256(b"0123456").hexdigest().encode() in line
    sealed = [await uploads.store.metadata(upload_id) is None for upload_id in (*parts, final.id)]
    assert sealed == [mode is Mode.SEALED] * 4


@pytest.mark.parametrize("state", [UploadState.REJECTED, UploadState.TERMINATED, UploadState.EXPIRED])
@async_test
async def test_end_leaves_a_tombstone_that_stays(uploads: Uploads, state: UploadState) -> None:
    """The first end is kept, the metadata is gone, and a new process sees the same."""
    _, upload_id = await uploads.whole(b"01234")
    async with uploads.store.lease(upload_id) as lease:
        await lease.end(state, "a test", _now())
        await lease.end(UploadState.DELETED, "again", _now())
        assert lease.upload.ended is state
    uploads.backend.reopen()
    assert (await uploads.store.stat(upload_id)).ended is state
    assert await uploads.store.metadata(upload_id) is None


@async_test
async def test_end_of_a_finished_upload_takes_its_receipts(uploads: Uploads) -> None:
    """No answer has anything of a shredded upload any more."""
    token, upload_id = await uploads.whole(b"01234")
    await uploads.finish(upload_id)
    async with uploads.store.lease(upload_id) as lease:
        await lease.end(UploadState.DELETED, "a test", _now())
    assert await uploads.store.url_receipt(upload_id, token) is None


@async_test
async def test_end_of_a_concatenation_ends_its_parts(uploads: Uploads) -> None:
    """They were its content."""
    parts = []
    for piece in (b"01", b"23"):
        _, part = await uploads.whole(piece, role=Role.PARTIAL)
        await uploads.finish(part)
        parts.append(part)
    _, final = await uploads.create(None, role=Role.FINAL, parts=parts)
    await uploads.finish(final.id)
    async with uploads.store.lease(final.id) as lease:
        await lease.end(UploadState.TERMINATED, "a test", _now())
    for upload_id in (*parts, final.id):
        assert (await uploads.store.stat(upload_id)).ended is UploadState.TERMINATED
