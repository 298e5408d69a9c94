"""Sealed is sealed: with every key that is left, nobody opens what was sealed, whatever happened on the way."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import KeyMissingError
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from storage.age import Identity, KeyType
from storage.keyring.identities import MAX_RECIPIENTS
from storage.uploads.maintenance.check import check_store
from tests.support.aio import async_test
from tests.support.attacker import opened
from tests.support.killing import Killer
from tests.support.store_kit import StoreKit


def _all(kit: StoreKit) -> set[str]:
    """Return what opens with everything that a server's machine holds."""
    return opened(kit.folder / "store", kit.folder / "keys", kit.folder / "secrets")


async def _concatenation(kit: StoreKit) -> tuple[str, list[str]]:
    parts = []
    for piece in (b"one", b"two"):
        _, part = await kit.create(3, role=Role.PARTIAL)
        await kit.append(part.id, 0, piece)
        await kit.finish(part.id)
        parts.append(part.id)
    _, final = await kit.create(None, role=Role.FINAL, parts=parts)
    return final.id, parts


@pytest.mark.parametrize("key_type", ["x25519", "hybrid"])
@async_test
async def test_finished_sealed_upload_opens_with_nothing_on_the_server(tmp_path: Path, key_type: str) -> None:
    """Neither envelope, segment nor receipt; while it was open the same search found them all."""
    kit = StoreKit(tmp_path, key_type=key_type, mode=Mode.SEALED)
    _, upload = await kit.create(100_000)
    await kit.append(upload.id, 0, os.urandom(70_000))
    await kit.append(upload.id, 70_000, os.urandom(30_000))
    assert {name.rpartition("/")[2].partition(".")[0] for name in _all(kit)} >= {upload.id, "data@0"}
    await kit.finish(upload.id)
    assert _all(kit) == set()
    kit.open()
    assert _all(kit) == set()


@async_test
async def test_managed_upload_opens_so_that_the_search_is_worth_something(tmp_path: Path) -> None:
    """The other mode is the proof that the attacker can search."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(5)
    await kit.append(upload.id, 0, b"12345")
    await kit.finish(upload.id)
    names = {name.rpartition("/")[2] for name in _all(kit)}
    # The receipt opens with the key beside the upload's own.
    assert names == {"data@0", *(f"{upload.id}.{kind}@0" for kind in ("age", "receipt"))}


@async_test
async def test_sealed_concatenation_seals_its_parts(tmp_path: Path) -> None:
    """Finished parts wait open for their final; once it is finished, nothing of any of them opens."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    final, parts = await _concatenation(kit)
    assert len(_all(kit)) >= len(parts) * 2
    await kit.finish(final)
    assert _all(kit) == set()
    assert await kit.read(final) == b"onetwo"


@pytest.mark.parametrize("state", [UploadState.REJECTED, UploadState.TERMINATED, UploadState.EXPIRED])
@async_test
async def test_ended_sealed_upload_opens_with_no_key_at_all(tmp_path: Path, state: UploadState) -> None:
    """Rejected, terminated or expired: not even the root opens what is left."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    final, parts = await _concatenation(kit)
    for upload_id in (upload.id, final):
        async with kit.store.lease(upload_id) as lease:
            await lease.end(state, "test", datetime.now(UTC))
    assert opened(tmp_path) == set()
    assert not list((tmp_path / "keys").rglob("*.age*"))
    assert all(kit.store.layout.of(part).data.read_bytes() == b"" for part in parts)


@pytest.mark.parametrize("concatenated", [False, True])
@async_test
async def test_finishing_killed_at_any_step_ends_sealed(tmp_path: Path, killer: Killer, concatenated: bool) -> None:
    """After a death at any step, finishing it again after a restart leaves nothing that opens."""
    step, killer.died = 0, True
    while killer.died:
        step += 4 if concatenated else 1
        kit = StoreKit(tmp_path / str(step), mode=Mode.SEALED)
        if concatenated:
            upload_id, _ = await _concatenation(kit)
        else:
            _, upload = await kit.create(5)
            await kit.append(upload.id, 0, b"12345")
            upload_id = upload.id
        with killer.at(step):
            await kit.finish(upload_id)
        if killer.died:
            kit.open()
            await _finish_again(kit, upload_id)
        assert _all(kit) == set(), step
        assert await kit.read(upload_id) == (b"onetwo" if concatenated else b"12345")
        findings = [finding.problem async for finding in check_store(kit.store)]
        assert set(findings) == {None}, step
    assert step > 8, "there were no steps to die at"


@async_test
async def test_old_copy_opens_nothing_sealed_since_whatever_another_uploader_keeps_open(
    tmp_path: Path,
) -> None:
    """Store and keys of then, with every key of now, while an upload of that day still goes on."""
    kit = StoreKit(tmp_path / "live", mode=Mode.SEALED)
    _, patient = await kit.create(100)
    await kit.append(patient.id, 0, b"1")
    _, upload = await kit.create(5)
    await kit.append(upload.id, 0, b"12345")
    final, _ = await _concatenation(kit)
    copy = tmp_path / "copy"
    for name in ("store", "keys"):
        shutil.copytree(kit.folder / name, copy / name)
    await kit.finish(upload.id)
    await kit.finish(final)
    secrets = kit.folder / "secrets"
    await kit.append(patient.id, 1, b"2")
    found = opened(copy, kit.folder / "store", kit.folder / "keys", secrets)
    assert found, "the patient one is open, so its envelope must be"
    assert not [name for name in found if patient.id not in name]
    assert await kit.read(upload.id) == b"12345"


@async_test
async def test_missing_ingest_identity_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """An upload in progress, one with no byte yet and one that only waits to be finished: all go on when it is back."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    _, begun = await kit.create(10)
    await kit.append(begun.id, 0, b"12345")
    _, empty = await kit.create(3)
    _, whole = await kit.create(3)
    await kit.append(whole.id, 0, b"abc")
    async with kit.store.lease(whole.id) as lease:
        await lease.write_final(datetime.now(UTC))
    folder = kit.places.ingest_dir
    away = folder.rename(folder.with_name("away"))
    kit.open()
    before = _tree(kit)
    for upload_id, offset, data in ((begun.id, 5, b"67890"), (empty.id, 0, b"xyz")):
        with pytest.raises(KeyMissingError):
            await kit.append(upload_id, offset, data)
    with pytest.raises(KeyMissingError):
        await kit.finish(whole.id)
    assert await kit.store.metadata(begun.id) is None
    assert (await kit.store.stat(begun.id)).offset == 5
    assert _tree(kit) == before
    # Later uploads make the folder again, and the old files do not disturb it.
    _, between = await kit.create(2)
    for path in away.iterdir():
        path.rename(folder / path.name)
    kit.open()
    for upload_id, offset, data in ((begun.id, 5, b"67890"), (empty.id, 0, b"xyz"), (between.id, 0, b"hi")):
        await kit.append(upload_id, offset, data)
        await kit.finish(upload_id)
    await kit.finish(whole.id)
    assert _all(kit) == set()
    contents = [await kit.read(upload_id) for upload_id in (begun.id, empty.id, between.id, whole.id)]
    assert contents == [b"1234567890", b"xyz", b"hi", b"abc"]


@async_test
async def test_other_managed_identity_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """A wrong key in the right place is no reason to take an upload for lost."""
    kit = StoreKit(tmp_path)
    _, begun = await kit.create(10)
    await kit.append(begun.id, 0, b"12345")
    _, empty = await kit.create(3)
    path = Path(kit.places.managed_identity)
    right = _text(path)
    StoreKit(tmp_path / "other")
    _put(path, _text(tmp_path / "other" / "secrets" / "managed-identity.txt"))
    kit.open()
    before = _tree(kit)
    for upload_id, offset, data in ((begun.id, 5, b"67890"), (empty.id, 0, b"xyz")):
        with pytest.raises(KeyMissingError):
            await kit.append(upload_id, offset, data)
    assert _tree(kit) == before
    _put(path, right)
    kit.open()
    await kit.append(begun.id, 5, b"67890")
    await kit.append(empty.id, 0, b"xyz")


@async_test
async def test_store_without_roots_takes_nothing_and_goes_on(tmp_path: Path) -> None:
    """A new upload is refused before anything of it is written; uploads that have begun may finish."""
    kit = StoreKit(tmp_path)
    _, begun = await kit.create(10)
    await kit.append(begun.id, 0, b"12345")
    roots, kit.roots = kit.roots, ()
    kit.open()
    before = _tree(kit)
    with pytest.raises(KeyMissingError, match=r"keys\.root_recipients"):
        await kit.create(10)
    assert _tree(kit) == before
    await kit.append(begun.id, 5, b"67890")
    await kit.finish(begun.id)
    kit.roots = roots
    kit.open()
    await kit.create(10)


@async_test
async def test_envelope_for_the_most_recipients_reads_back_and_for_more_is_never_made(tmp_path: Path) -> None:
    """With hybrid keys and all the metadata a client may send it stays below what is read again."""
    kit = StoreKit(tmp_path, key_type="hybrid")
    more = [str(Identity.generate(KeyType.HYBRID).recipient) for _ in range(MAX_RECIPIENTS)]
    kit.roots = (kit.root, *more)
    kit.open()
    with pytest.raises(KeyMissingError, match="nothing was stored"):
        await kit.create(2)
    kit.roots = kit.roots[:MAX_RECIPIENTS]
    kit.open()
    _, upload = await kit.create(2, name=bytes(16 << 10))
    await kit.append(upload.id, 0, b"hi")
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"hi"


async def _finish_again(kit: StoreKit, upload_id: str) -> None:
    """Finish as the server does after a restart: a sealed upload was checked before."""
    if await kit.store.metadata(upload_id) is not None:
        await kit.finish(upload_id)
        return
    async with kit.store.lease(upload_id) as lease:
        assert lease.upload.final
        await lease.complete({}, datetime.now(UTC))


def _tree(kit: StoreKit) -> dict[str, bytes]:
    folders = (kit.folder / "store", kit.folder / "keys")
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def _text(path: Path) -> str:
    return path.read_text("ascii")


def _put(path: Path, text: str) -> None:
    path.write_text(text, "ascii")
