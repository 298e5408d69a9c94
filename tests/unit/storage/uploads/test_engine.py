"""The store's rules, on real files."""

import asyncio
import errno
import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.errors import (
    BodyCutError,
    ChecksumMismatchError,
    KeyMissingError,
    MismatchedOffsetError,
    PolicyTamperedError,
    StorageFailedError,
    UploadDamagedError,
    UploadNotFoundError,
)
from dropoff_tus.ids import upload_id
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Metadata, Mode, Role
from dropoff_tus.ports.store import NewUpload
from dropoff_tus.states import UploadState
from storage.files import durable
from storage.uploads.maintenance.check import check_store
from tests.support.aio import async_test
from tests.support.store_kit import BytesBody, StoreKit, make_roots


@pytest.mark.parametrize("key_type", ["x25519", "hybrid"])
@async_test
async def test_upload_in_pieces_with_a_cut_reads_back_whole(tmp_path: Path, key_type: str) -> None:
    """Bytes before a cut are kept, and any range of the whole reads back."""
    kit = StoreKit(tmp_path, key_type=key_type)
    data = os.urandom(700_001)
    _token, upload = await kit.create(len(data))
    with pytest.raises(BodyCutError):
        await kit.append(upload.id, 0, data[:333_333], cut=True)
    assert (await kit.store.stat(upload.id)).offset == 333_333
    await kit.append(upload.id, 333_333, data[333_333:])
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == data
    assert await kit.read(upload.id, 333_000, 400_000) == data[333_000:400_000]
    receipt = await kit.store.receipt(upload.id)
    assert receipt is not None
    assert receipt["sha256"] == hashlib.sha256(data).hexdigest()
    assert [finding.problem async for finding in check_store(kit.store)] == [None]


@async_test
async def test_two_processes_join_one_after_the_other_and_know_of_each_other(tmp_path: Path) -> None:
    """Kernel locks: a server joins by itself, and a server that starts learns whether another one runs."""
    kit = StoreKit(tmp_path)
    await kit.create(1)
    one, other = kit.store, kit.open()
    order: list[str] = []

    async def join() -> None:
        async with other.joining():
            order.append("other")

    async with one.joining():
        waiting = asyncio.create_task(join())
        await asyncio.sleep(0.2)
        order.append("one")
    await waiting
    assert order == ["one", "other"]
    assert [one.announce(), other.announce()] == [True, False]
    await one.close()
    await other.close()
    last = kit.open()
    assert last.announce()
    await last.close()


@async_test
async def test_restart_with_torn_tails_keeps_every_committed_byte(tmp_path: Path) -> None:
    """Half a log line and bytes past the commit are cut, and the upload goes on."""
    kit = StoreKit(tmp_path)
    data = os.urandom(100_000)
    _token, upload = await kit.create(len(data))
    await kit.append(upload.id, 0, data[:60_000])
    paths = kit.store.layout.of(upload.id)
    for path in (paths.log, paths.data):
        with path.open("ab") as file:
            file.write(b'{"half a rec\r')
    kit.open()
    assert (await kit.store.stat(upload.id)).offset == 60_000
    await kit.append(upload.id, 60_000, data[60_000:])
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == data


@async_test
async def test_flipped_bit_in_the_log_is_refused_and_truncates_nothing(tmp_path: Path) -> None:
    """A complete line that does not verify is tampering."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(100)
    await kit.append(upload.id, 0, bytes(50))
    paths = kit.store.layout.of(upload.id)
    raw = bytearray(paths.log.read_bytes())
    raw[-100] ^= 1
    paths.log.write_bytes(raw)
    size = paths.data.stat().st_size
    kit.open()
    with pytest.raises(UploadDamagedError):
        await kit.append(upload.id, 50, bytes(50))
    assert paths.data.stat().st_size == size
    assert paths.log.read_bytes() == bytes(raw)


@async_test
async def test_flipped_bit_in_the_data_is_found_by_check_and_by_read(tmp_path: Path) -> None:
    """`store check` needs no key for it."""
    kit = StoreKit(tmp_path)
    _token, upload = await kit.create(5000)
    await kit.append(upload.id, 0, os.urandom(5000))
    await kit.finish(upload.id)
    paths = kit.store.layout.of(upload.id)
    raw = bytearray(paths.data.read_bytes())
    raw[-40] ^= 1
    paths.data.write_bytes(raw)
    findings = [finding.problem async for finding in check_store(kit.store)]
    assert findings[0] is not None
    with pytest.raises(UploadDamagedError):
        await kit.read(upload.id)


@async_test
async def test_checksum_mismatch_discards_the_body(tmp_path: Path) -> None:
    """The offset stays, and the next body goes there."""
    kit = StoreKit(tmp_path)
    _token, upload = await kit.create(10)
    wrong = ExpectedChecksum("sha1", bytes(20))
    async with kit.store.lease(upload.id, offset=0) as lease:
        with pytest.raises(ChecksumMismatchError):
            await lease.append(BytesBody(b"0123456789"), AppendPlan(0, 10, 10, checksum=wrong), idle_timeout_seconds=5)
        assert lease.upload.offset == 0
        assert kit.store.layout.of(upload.id).data.read_bytes() == b""
    await kit.append(upload.id, 0, b"abcdefghij")
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"abcdefghij"


@async_test
async def test_sealed_upload_opens_with_the_root_alone(tmp_path: Path) -> None:
    """After finishing, no key of the server opens content or metadata."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    _token, upload = await kit.create(1000, name=b"secret")
    await kit.append(upload.id, 0, bytes(1000))
    kit.open()
    assert await kit.store.metadata(upload.id) is not None
    await kit.finish(upload.id)
    assert await kit.store.metadata(upload.id) is None
    assert not kit.store.layout.of(upload.id).ingest_envelope.exists()
    with pytest.raises(KeyMissingError):
        _ = [piece async for piece in kit.store.read(upload.id)]
    assert await kit.read(upload.id) == bytes(1000)


@async_test
async def test_concatenation_reads_its_parts_in_order(tmp_path: Path) -> None:
    """A final moves no data, and ending it ends its parts."""
    kit = StoreKit(tmp_path)
    pieces = [os.urandom(70_000), b"", os.urandom(3)]
    parts = []
    for piece in pieces:
        _token, part = await kit.create(len(piece), role=Role.PARTIAL)
        if piece:
            await kit.append(part.id, 0, piece)
        await kit.finish(part.id)
        parts.append(part.id)
    _token, final = await kit.create(None, role=Role.FINAL, parts=parts)
    await kit.finish(final.id)
    kit.open()
    assert await kit.read(final.id) == b"".join(pieces)
    assert [finding.problem async for finding in check_store(kit.store)] == [None] * 4
    async with kit.store.lease(final.id) as lease:
        await lease.end(UploadState.TERMINATED, "test", datetime.now(UTC))
    for part_id in parts:
        assert (await kit.store.stat(part_id)).ended is UploadState.TERMINATED
    assert not any(kit.store.layout.of(part).root_envelope.exists() for part in parts)


@pytest.mark.parametrize("root", ["store/uploads", "keys"])
@pytest.mark.parametrize("replaced", [False, True])
@async_test
async def test_root_that_goes_away_takes_nothing_and_makes_nothing_unknown(
    tmp_path: Path, root: str, replaced: bool
) -> None:
    """An unmounted volume leaves an empty folder, or none: nothing is stored there, no client has to begin again."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    _, begun = await kit.create(10)
    await kit.append(begun.id, 0, b"01234")
    store = kit.open()
    folder, aside = tmp_path / root, tmp_path / "aside"
    folder.rename(aside)
    if replaced:
        folder.mkdir()
    with pytest.raises(StorageFailedError, match="is not there"):
        await kit.create(1, roots=False)
    with pytest.raises(StorageFailedError, match="is not there"):
        await store.free_bytes()
    for one in (upload, begun):
        with pytest.raises((StorageFailedError, KeyMissingError)):
            await kit.append(one.id, one.offset, b"x")
    if root != "keys":
        with pytest.raises(StorageFailedError):
            await store.stat(upload.id)
    assert not folder.exists() or list(folder.iterdir()) == []
    if replaced:
        folder.rmdir()
    aside.rename(folder)
    await kit.append(upload.id, 0, b"0123456789")
    await kit.append(begun.id, 5, b"56789")
    await kit.create(1, roots=False)


@async_test
async def test_concatenation_made_by_two_processes_at_once_is_one(tmp_path: Path) -> None:
    """Its token is not random: the second one finds the first one's upload, and takes nothing away."""
    kit = StoreKit(tmp_path, durability="os")
    _, part = await kit.create(0, role=Role.PARTIAL)
    await kit.finish(part.id)
    other = kit.at(tmp_path)
    for number in range(20):
        token = f"{number:032x}"
        made = await asyncio.gather(
            *(one.create(None, role=Role.FINAL, parts=[part.id], token=token) for one in (kit, other))
        )
        assert made[0][1] == made[1][1]
        await other.finish(made[0][1].id)
    assert {finding.problem async for finding in check_store(kit.open())} == {None}


@async_test
async def test_concatenation_whose_maker_died_is_made_anew(tmp_path: Path) -> None:
    """Its remains, whole files or parts, are in nobody's way."""
    kit = StoreKit(tmp_path)
    _, part = await kit.create(0, role=Role.PARTIAL)
    await kit.finish(part.id)
    token = "5" * 32
    paths = kit.store.layout.of(upload_id(token))
    for path in (paths.keys_folder, paths.folder):
        path.mkdir(parents=True)
    for number, left in enumerate((paths.root_envelope, paths.data, paths.log)):
        for name in (paths.root_envelope, paths.data, paths.log)[: number + 1]:
            name.write_bytes(b"" if name == left else b"left")
        _, final = await kit.create(None, role=Role.FINAL, parts=[part.id], token=token)
        assert (await kit.store.stat(final.id)).parts == (part.id,)
        await kit.store.forget(final.id)
        paths.folder.mkdir()


@async_test
async def test_part_put_back_and_finished_anew_is_refused_by_its_final(tmp_path: Path) -> None:
    """Each of its states was valid once; the final names the one that it was made of."""
    kit = StoreKit(tmp_path)
    _, part = await kit.create(3, role=Role.PARTIAL)
    paths = kit.store.layout.of(part.id)
    await kit.append(part.id, 0, b"o")
    before = {path: path.read_bytes() for path in (paths.log, paths.data)}
    await kit.append(part.id, 1, b"ne")
    await kit.finish(part.id)
    _, final = await kit.create(None, role=Role.FINAL, parts=[part.id])
    await kit.finish(final.id)
    assert await kit.read(final.id) == b"one"
    for path, content in before.items():
        path.write_bytes(content)
    kit.open()
    await kit.append(part.id, 1, b"ld")
    await kit.finish(part.id)
    with pytest.raises(UploadDamagedError, match="not the one that was concatenated"):
        await kit.read(final.id)
    problems = {finding.upload_id: finding.problem async for finding in check_store(kit.store)}
    assert problems == {part.id: None, final.id: f"its part {part.id} is not the one that was concatenated"}


@async_test
async def test_end_whose_keys_cannot_be_removed_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer calls an upload safe of which half is gone; repeating it takes the rest."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(5)
    await kit.append(upload.id, 0, b"hello")
    await kit.finish(upload.id)

    class Immutable(durable.Calls):
        """A folder whose files cannot be removed."""

        def unlink(self, path: Path, folder: int | None) -> None:
            del folder
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    async def end() -> None:
        async with kit.store.lease(upload.id) as lease:
            await lease.end(UploadState.DELETED, "test", datetime.now(UTC))

    monkeypatch.setattr(durable, "calls", Immutable())
    with pytest.raises(StorageFailedError, match=rf"{upload.id} has ended, .*Operation not permitted"):
        await end()
    monkeypatch.setattr(durable, "calls", durable.Calls())
    assert await kit.store.leftovers(upload.id)
    await end()
    assert not await kit.store.leftovers(upload.id)


@async_test
async def test_swapped_envelope_is_refused(tmp_path: Path) -> None:
    """An envelope belongs to one upload."""
    kit = StoreKit(tmp_path)
    _, first = await kit.create(10)
    _, second = await kit.create(10)
    for upload in (first, second):
        await kit.append(upload.id, 0, b"12345")
    other = kit.store.layout.of(second.id).root_envelope.read_bytes()
    kit.store.layout.of(first.id).root_envelope.write_bytes(other)
    kit.open()
    with pytest.raises(UploadDamagedError):
        await kit.append(first.id, 5, b"67890")


@async_test
async def test_disk_that_fails_before_the_first_bytes_calls_no_upload_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its envelope cannot be read now: the client hears that the disk failed, and goes on with the upload later."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(None)
    async with kit.store.lease(upload.id) as lease:
        await lease.declare_length(5, datetime.now(UTC))
    kit.open()
    real = durable.Disk.read_small

    def read_small(disk: durable.Disk, path: Path, most_bytes: int) -> bytes:
        if path == kit.store.layout.of(upload.id).root_envelope:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(disk, path, most_bytes)

    monkeypatch.setattr(durable.Disk, "read_small", read_small)
    with pytest.raises(StorageFailedError):
        await kit.append(upload.id, 0, b"hello")
    monkeypatch.setattr(durable.Disk, "read_small", real)
    assert await kit.append(upload.id, 0, b"hello") == 5


@async_test
async def test_policy_changed_behind_the_server_is_refused(tmp_path: Path) -> None:
    """A drop-off made managed by SQL does not carry the server's signature."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    make_roots(kit.store)
    signed = kit.keys.sign_terms(kit.drop())
    forged = replace(signed, terms=replace(signed.terms, mode=Mode.MANAGED))
    new = NewUpload(
        id="0" * 32,
        token="1" * 32,
        drop=forged,
        role=Role.REGULAR,
        metadata=Metadata(),
        created_at=datetime.now(UTC),
        length=1,
    )
    with pytest.raises(PolicyTamperedError):
        await kit.store.create(new)
    with pytest.raises(UploadNotFoundError):
        await kit.store.stat("0" * 32)


@async_test
async def test_append_at_a_wrong_offset_writes_nothing(tmp_path: Path) -> None:
    """The lease is where the truth is."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    with pytest.raises(MismatchedOffsetError):
        await kit.append(upload.id, 3, b"45678")
    assert (await kit.store.stat(upload.id)).offset == 5


@async_test
async def test_store_holds_no_marker_and_no_digest_in_the_clear(tmp_path: Path) -> None:
    """Neither content nor name, nor a digest of either, is in any file of the store."""
    kit = StoreKit(tmp_path)
    marker, name = b"MARKER-content-0123456789", b"MARKER-name.vcf"
    token, upload = await kit.create(len(marker), name=name)
    await kit.append(upload.id, 0, marker)
    await kit.finish(upload.id)
    needles = [marker, name, token.encode()]
    for value in (marker, name):
        for algorithm in ("md5", "sha1", "sha256", "sha512"):
            digest = hashlib.new(algorithm, value)
            needles += [digest.digest(), digest.hexdigest().encode()]
    for folder in ("store", "keys"):
        for path in (tmp_path / folder).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not any(needle in content for needle in needles), path.name


@async_test
async def test_roots_that_are_links_to_volumes_take_uploads(tmp_path: Path) -> None:
    """Each of the two, and they stay links."""
    links = [tmp_path / name for name in ("store", "keys")]
    for link in links:
        (tmp_path / f"volume-{link.name}").mkdir()
        link.symlink_to(f"volume-{link.name}")
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(5)
    await kit.append(upload.id, 0, b"hello")
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"hello"
    assert all(link.is_symlink() for link in links)
