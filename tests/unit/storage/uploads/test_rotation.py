"""Rotating the signing key: open uploads go on, old signatures hold, and a kill at any step is gone on from."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import KeyMissingError, UploadDamagedError
from dropoff_tus.model import Mode
from dropoff_tus.states import UploadState
from storage.keyring.keys import load_server_keys
from storage.keyring.keysource import KeySourceError, RotationError
from storage.keyring.lines import sign_line
from storage.keyring.rotation import hold_store
from storage.keyring.signing import SigningKeyFile, key_id, new_signing_key, public_of
from storage.open import SigningRotation
from storage.uploads.log import key_record, next_record
from storage.uploads.maintenance.check import check_store
from storage.uploads.recovery import read_chain, read_state
from tests.support.aio import async_test
from tests.support.killing import Killer
from tests.support.store_kit import StoreKit


def rotate(kit: StoreKit, output: Path | None = None, source: str | None = None) -> SigningRotation:
    """Rotate in one go."""
    rotation = SigningRotation(kit.settings, kit.places.ingest_dir, source or kit.places.signing_key, output)
    rotation.prepare()
    reports = [rotation.hand_over(upload_id) for upload_id in rotation.upload_ids()]
    assert all(report is None or report.handed for report in reports), reports
    rotation.finish()
    return rotation


@async_test
async def test_open_upload_goes_on_under_the_new_key(tmp_path: Path) -> None:
    """Begun, empty and finished uploads are all whole after two rotations, and every signature verifies."""
    kit = StoreKit(tmp_path)
    data = os.urandom(90_000)
    _, begun = await kit.create(len(data))
    await kit.append(begun.id, 0, data[:50_000])
    _, empty = await kit.create(10)
    _, done = await kit.create(3)
    await kit.append(done.id, 0, b"abc")
    await kit.finish(done.id)
    first = rotate(kit)
    second = rotate(kit)
    assert second.old_id == first.new_id
    kit.open()
    await kit.append(begun.id, 50_000, data[50_000:])
    await kit.finish(begun.id)
    await kit.append(empty.id, 0, bytes(10))
    await kit.finish(empty.id)
    assert await kit.read(begun.id) == data
    assert await kit.read(done.id) == b"abc"
    assert [finding.problem async for finding in check_store(kit.store)] == [None] * 3
    receipts = [await kit.store.receipt(upload) for upload in (begun.id, done.id)]
    assert None not in receipts
    kinds = [json.loads(line.rpartition(b" ")[0])["t"] for line in _log(kit, begun.id).splitlines()]
    assert kinds == ["create", "segs", "key", "key", "segs", "final"]
    assert b'"t":"key"' not in _log(kit, done.id)


@async_test
async def test_finished_upload_of_a_retired_key_can_be_deleted(tmp_path: Path) -> None:
    """Its tombstone is signed by the key of today, and a check of the store is clean."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(3)
    await kit.append(upload.id, 0, b"abc")
    await kit.finish(upload.id)
    rotate(kit)
    kit.open()
    async with kit.store.lease(upload.id) as lease:
        await lease.end(UploadState.DELETED, "test", datetime.now(UTC))
    kit.open()
    assert (await kit.store.stat(upload.id)).ended is UploadState.DELETED
    assert [finding.problem async for finding in check_store(kit.store)] == [None]


@async_test
async def test_policy_and_sealed_upload_survive_a_rotation(tmp_path: Path) -> None:
    """A drop-off made before takes uploads afterwards."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    rotate(kit)
    kit.open()
    _, upload = await kit.create(4)
    await kit.append(upload.id, 0, b"1234")
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"1234"


@async_test
async def test_retired_key_in_the_file_verifies_and_signs_nothing(tmp_path: Path) -> None:
    """Afterwards the file has the new private key and the old public one, and no old private one."""
    kit = StoreKit(tmp_path)
    before = SigningKeyFile.parse(_key_text(kit))
    assert before.private is not None
    rotation = rotate(kit)
    after = SigningKeyFile.parse(_key_text(kit))
    assert after.private is not None
    assert after.private != before.private
    assert after.retired == (public_of(before.private),)
    assert after.following is None
    assert load_server_keys(kit.places).signing.id == rotation.new_id
    load_server_keys(kit.places)  # refused unless it is the owner's alone


@async_test
async def test_upload_whose_key_was_replaced_without_a_rotation_is_refused_until_it_is_back(tmp_path: Path) -> None:
    """A key listed as retired by hand verifies; going on needs it to sign again, and nothing is lost meanwhile."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    before = _key_text(kit)
    old = SigningKeyFile.parse(before).private
    assert old is not None
    _put_key(kit, SigningKeyFile(new_signing_key(), (public_of(old),)).text())
    kit.open()
    log, data = _log(kit, upload.id), kit.store.layout.of(upload.id).data.read_bytes()
    with pytest.raises(KeyMissingError, match="only verifies"):
        await kit.append(upload.id, 5, b"67890")
    async with kit.store.lease(upload.id) as lease:
        with pytest.raises(KeyMissingError):
            await lease.write_final(datetime.now(UTC))
    assert (_log(kit, upload.id), kit.store.layout.of(upload.id).data.read_bytes()) == (log, data)
    _put_key(kit, before)
    kit.open()
    await kit.append(upload.id, 5, b"67890")
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"1234567890"


@async_test
async def test_log_signed_by_a_stranger_names_the_key_that_is_missing(tmp_path: Path) -> None:
    """The name in the create record tells a wrong signing key from tampering, and nothing is cut."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    wanted = kit.keys.signing.id
    _put_key(kit, SigningKeyFile(new_signing_key()).text())
    kit.open()
    before = _log(kit, upload.id)
    with pytest.raises(UploadDamagedError, match=f"names the key {wanted}"):
        await kit.append(upload.id, 5, b"67890")
    assert _log(kit, upload.id) == before


@async_test
async def test_record_of_an_older_key_is_refused(tmp_path: Path) -> None:
    """A thief of a retired key cannot go on with a log that began under a newer one, nor with one handed over."""
    kit = StoreKit(tmp_path)
    thief = load_server_keys(kit.places).signing
    _, handed = await kit.create(10)
    await kit.append(handed.id, 0, b"12345")
    rotate(kit)
    kit.open()
    _, newer = await kit.create(10)
    await kit.append(newer.id, 0, b"12345")
    for upload in (handed, newer):
        state = kit.store.load(upload.id)
        forged = sign_line(next_record(state, "len", datetime.now(UTC), {}), thief)
        with kit.store.layout.of(upload.id).log.open("ab") as file:
            file.write(forged)
    kit.open()
    with pytest.raises(UploadDamagedError):
        kit.store.load(newer.id)
    with pytest.raises(UploadDamagedError, match="another key"):
        kit.store.chain(handed.id)
    with pytest.raises(UploadDamagedError, match="another key"):
        await kit.append(handed.id, 5, b"67890")


@async_test
async def test_new_key_alone_does_not_take_a_log_over(tmp_path: Path) -> None:
    """Without the old key's `key` record a newer signature breaks the chain; and a `key` record must name itself."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    private = new_signing_key()
    old = SigningKeyFile.parse(_key_text(kit)).private
    assert old is not None
    _put_key(kit, SigningKeyFile(private, (public_of(old),)).text())
    kit.open()
    log, state = kit.store.layout.of(upload.id).log, kit.store.load(upload.id)
    before = log.read_bytes()
    signing = load_server_keys(kit.places).signing
    log.write_bytes(before + sign_line(next_record(state, "len", datetime.now(UTC), {}), signing))
    kit.open()
    with pytest.raises(UploadDamagedError, match="another key"):
        kit.store.chain(upload.id)
    wrong = key_record(state, public_of(new_signing_key()), datetime.now(UTC)) | {"key": signing.id}
    log.write_bytes(before + sign_line(wrong, SigningKeyFile(old).key()))
    kit.open()
    with pytest.raises(UploadDamagedError, match="another id"):
        kit.store.chain(upload.id)


@async_test
async def test_log_handed_to_a_key_that_is_not_here_waits_for_it(tmp_path: Path) -> None:
    """A restored old key file gives a sentence, and nothing is changed."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    old = _key_text(kit)
    rotation = rotate(kit)
    new = _key_text(kit)
    _put_key(kit, old)
    kit.open()
    with pytest.raises(KeyMissingError, match=rotation.new_id):
        await kit.append(upload.id, 5, b"67890")
    _put_key(kit, new)
    kit.open()
    assert await kit.append(upload.id, 5, b"67890") == 10


@async_test
async def test_rotation_killed_at_any_step_is_gone_on_from(tmp_path: Path, killer: Killer) -> None:
    """After a death at any step, the next run finishes it and the upload goes on; until then no server starts."""
    step, refused = 0, 0
    while True:
        step += 1
        kit = StoreKit(tmp_path / str(step))
        _, upload = await kit.create(10)
        await kit.append(upload.id, 0, b"12345")
        _, other = await kit.create(5)
        with killer.at(step):
            rotate(kit)
        if not killer.died:
            break
        text = _key_text(kit)
        if "next-private" in text:
            refused += 1
            with pytest.raises(KeySourceError, match="keys rotate --signing"):
                load_server_keys(kit.places)
        rotate(kit)
        kit.open()
        await kit.append(upload.id, 5, b"67890")
        await kit.finish(upload.id)
        await kit.append(other.id, 0, b"abcde")
        await kit.finish(other.id)
        assert await kit.read(upload.id) == b"1234567890"
        assert await kit.read(other.id) == b"abcde"
        assert [finding.problem async for finding in check_store(kit.store)] == [None, None]
    assert step > 15, "there were no steps to die at"
    assert refused > 5


@async_test
async def test_torn_tail_is_cut_before_a_log_is_handed_over(tmp_path: Path) -> None:
    """An honest crash before the rotation costs nothing that was acknowledged."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    for path in (kit.store.layout.of(upload.id).log, kit.store.layout.of(upload.id).data):
        with path.open("ab") as file:
            file.write(b'{"half')
    rotate(kit)
    kit.open()
    await kit.append(upload.id, 5, b"67890")
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"1234567890"


@async_test
async def test_damaged_upload_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    """One bad log stops neither the rotation nor the others."""
    kit = StoreKit(tmp_path)
    uploads = [(await kit.create(10))[1] for _ in range(2)]
    for upload in uploads:
        await kit.append(upload.id, 0, b"12345")
    log = kit.store.layout.of(uploads[0].id).log
    raw = bytearray(log.read_bytes())
    raw[-30] ^= 1
    log.write_bytes(raw)
    rotation = SigningRotation(kit.settings, kit.places.ingest_dir, kit.places.signing_key)
    rotation.prepare()
    reports = {upload.id: rotation.hand_over(upload.id) for upload in uploads}
    rotation.finish()
    bad, good = reports[uploads[0].id], reports[uploads[1].id]
    assert bad is not None
    assert good is not None
    assert (bad.handed, good.handed) == (False, True)
    assert "does not verify" in str(bad.why)
    assert log.read_bytes() == bytes(raw)


@async_test
async def test_key_that_comes_from_a_command_is_rotated_into_another_file(tmp_path: Path) -> None:
    """The operator puts the new file in place; a repeated run, also after a crash, goes on with the same key."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    source, output = f"command:cat {kit.places.signing_key}", tmp_path / "new-signing-key"
    with pytest.raises(RotationError, match="--output"):
        SigningRotation(kit.settings, kit.places.ingest_dir, source)
    begun = SigningRotation(kit.settings, kit.places.ingest_dir, source, output)
    begun.prepare()
    again = rotate(kit, output, source)
    assert again.resumed
    assert again.new_id == begun.new_id
    assert rotate(kit, output, source).new_id == begun.new_id
    output.rename(kit.places.signing_key)
    kit.open()
    await kit.append(upload.id, 5, b"67890")
    await kit.finish(upload.id)
    foreign = tmp_path / "foreign"
    foreign.write_text(SigningKeyFile(new_signing_key()).text())
    foreign.chmod(0o600)
    with pytest.raises(RotationError, match="holds another key"):
        SigningRotation(kit.settings, kit.places.ingest_dir, source, foreign)


def test_key_behind_a_link_is_rotated_where_it_lies(tmp_path: Path) -> None:
    """The link stays one, and leads to the new key."""
    kit = StoreKit(tmp_path)
    key, elsewhere = Path(kit.places.signing_key), tmp_path / "elsewhere"
    key.rename(elsewhere)
    key.symlink_to(elsewhere)
    rotation = rotate(kit)
    assert key.is_symlink()
    assert SigningKeyFile.parse(elsewhere.read_text("ascii")).key().id == rotation.new_id


def test_store_is_held_by_many_or_by_one(tmp_path: Path) -> None:
    """A rotation waits for nobody and lets nobody in."""
    (tmp_path / "store").mkdir()

    def held(*, alone: bool) -> bool:
        try:
            with hold_store(tmp_path / "store", alone=alone):
                return True
        except RotationError:
            return False

    with hold_store(tmp_path / "store"):
        assert (held(alone=False), held(alone=True)) == (True, False)
    with hold_store(tmp_path / "store", alone=True):
        assert (held(alone=False), held(alone=True)) == (False, False)
    assert (held(alone=False), held(alone=True)) == (True, True)


@async_test
async def test_key_record_is_what_the_format_says(tmp_path: Path) -> None:
    """Byte for byte: signed by the old key, naming the new one, with the totals as they were."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    old = load_server_keys(kit.places).signing
    rotation = rotate(kit)
    lines = _log(kit, upload.id).split(b"\n")
    text, _, _ = lines[2].rpartition(b" ")
    record = json.loads(text)
    assert text == json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    assert set(record) == {"t", "at", "prev", "len", "tot", "key", "pub"}
    assert record["key"] == rotation.new_id == key_id(rotation.new_public)
    before = json.loads(lines[1].rpartition(b" ")[0])
    assert (record["tot"], record["len"]) == (before["tot"], before["len"])
    log = kit.store.base.chains.open(upload.id)
    try:
        with pytest.raises(KeyMissingError):
            read_state(log, upload.id, old)
        chain = read_chain(log, upload.id, load_server_keys(kit.places).signing, every_signature=True)
    finally:
        log.close()
    assert chain.state.key == rotation.new_id


def _log(kit: StoreKit, upload_id: str) -> bytes:
    return kit.store.layout.of(upload_id).log.read_bytes()


def _key_text(kit: StoreKit) -> str:
    return Path(kit.places.signing_key).read_text("ascii")


def _put_key(kit: StoreKit, text: str) -> None:
    Path(kit.places.signing_key).write_text(text, "ascii")
