"""Rotating the roots: only `<id>.age` changes, and a kill at any step loses no envelope."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import KeyMissingError, UploadNotFoundError
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from storage import failpoints
from storage.files.layout import NEW_SUFFIX
from storage.keyring.identities import generate_root_identity, read_identity_file
from storage.keyring.journal import JOURNAL
from storage.keyring.keysource import RotationError
from storage.uploads.maintenance.check import check_store
from storage.uploads.maintenance.rotation import Outcome, Rewrapped
from tests.support.aio import async_test
from tests.support.killing import Killed, Killer
from tests.support.store_kit import StoreKit


class Roots:
    """A store whose roots were exchanged."""

    def __init__(self, folder: Path, *, mode: Mode = Mode.MANAGED, key_type: str = "x25519") -> None:
        """Make a store under an old root, and a new root."""
        self.kit = StoreKit(folder, mode=mode, key_type=key_type)
        self.old = self.kit.identities
        self.new_root = generate_root_identity(folder / "new-root.txt", key_type)
        self.new = read_identity_file(folder / "new-root.txt")

    def rotate(
        self, ids: Sequence[str], identities: Sequence[str] = (), *, dry_run: bool = False
    ) -> dict[str, Rewrapped]:
        """Re-wrap these uploads for the new root."""
        self.kit.open()
        with self.kit.store.rewrapper(identities, dry_run=dry_run) as rewrapper:
            return {upload_id: rewrapper.rewrap(upload_id, [self.new_root]) for upload_id in ids}

    async def opens(self, upload_id: str, identities: list[str]) -> bytes | None:
        """Return an upload's content if these identities open it."""
        self.kit.open()
        self.kit.identities = identities
        try:
            return await self.kit.read(upload_id)
        except KeyMissingError:
            return None

    async def finished(self, content: bytes) -> str:
        """Make a finished upload."""
        _, upload = await self.kit.create(len(content))
        await self.kit.append(upload.id, 0, content)
        await self.kit.finish(upload.id)
        return upload.id

    def everything_but_envelopes(self) -> dict[str, bytes]:
        """Return all files that a rotation leaves alone."""
        roots = {path for path in (self.kit.folder / "keys").glob("??/*.age") if path.name.count(".") == 1}
        found = {}
        for folder in ("store", "keys", "secrets"):
            for path in (self.kit.folder / folder).rglob("*"):
                if path.is_file() and path not in roots and path.name != JOURNAL:
                    found[str(path)] = path.read_bytes()
        return found


@pytest.mark.parametrize("key_type", ["x25519", "hybrid"])
@async_test
async def test_managed_upload_opens_with_the_new_root_alone(tmp_path: Path, key_type: str) -> None:
    """The server opens its own copy, and nothing else in the store changes."""
    roots = Roots(tmp_path, key_type=key_type)
    upload_id = await roots.finished(b"content")
    before = roots.everything_but_envelopes()
    dry = roots.rotate([upload_id], dry_run=True)
    assert dry[upload_id].outcome is Outcome.REWRAPPED
    assert not (tmp_path / "keys" / JOURNAL).exists()
    assert await roots.opens(upload_id, roots.old) == b"content"
    assert roots.rotate([upload_id])[upload_id].outcome is Outcome.REWRAPPED
    assert await roots.opens(upload_id, roots.old) is None
    assert await roots.opens(upload_id, roots.new) == b"content"
    assert roots.everything_but_envelopes() == before
    assert roots.rotate([upload_id])[upload_id].outcome is Outcome.CURRENT
    assert [finding.problem async for finding in check_store(roots.kit.store)] == [None]
    receipt = await roots.kit.store.receipt(upload_id, roots.new)
    assert receipt is not None


@async_test
async def test_sealed_upload_needs_an_identity_that_opens_it(tmp_path: Path) -> None:
    """Without one it is skipped and told so; with one it is re-wrapped, and a second run sees that it is."""
    roots = Roots(tmp_path, mode=Mode.SEALED)
    upload_id = await roots.finished(b"content")
    stranger = roots.new
    skipped = roots.rotate([upload_id])[upload_id]
    assert skipped.outcome is Outcome.SKIPPED
    assert "--identity" in str(skipped.why)
    wrong = roots.rotate([upload_id], stranger)[upload_id]
    assert wrong.outcome is Outcome.SKIPPED
    assert "none of the identities given opens it" in str(wrong.why)
    assert roots.rotate([upload_id], roots.old)[upload_id].outcome is Outcome.REWRAPPED
    # The old identity opens nothing any more, so only the journal tells that it is done.
    assert roots.rotate([upload_id], roots.old)[upload_id].outcome is Outcome.CURRENT
    assert await roots.opens(upload_id, roots.old) is None
    assert await roots.opens(upload_id, roots.new) == b"content"
    # The receipt of a sealed upload follows its envelope.
    assert (await roots.kit.store.receipt(upload_id, roots.new) or {})["upload"] == upload_id


@async_test
async def test_unfinished_upload_is_rewrapped_and_goes_on(tmp_path: Path) -> None:
    """The server's envelope of a sealed one in progress is in the ingest folder, and opens."""
    roots = Roots(tmp_path, mode=Mode.SEALED)
    _, upload = await roots.kit.create(10)
    await roots.kit.append(upload.id, 0, b"12345")
    assert roots.rotate([upload.id])[upload.id].outcome is Outcome.REWRAPPED
    await roots.kit.append(upload.id, 5, b"67890")
    await roots.kit.finish(upload.id)
    assert await roots.opens(upload.id, roots.new) == b"1234567890"


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_upload_without_a_byte_goes_on_after_rotations_and_restarts(tmp_path: Path, mode: Mode) -> None:
    """Its envelope is another than at its creation, and not torn: also after a second rotation that was killed."""
    roots = Roots(tmp_path, mode=mode)
    _, upload = await roots.kit.create(4)
    path = roots.kit.store.layout.of(upload.id).root_envelope
    assert roots.rotate([upload.id])[upload.id].outcome is Outcome.REWRAPPED
    first = path.read_bytes()
    roots.new_root = generate_root_identity(tmp_path / "third-root.txt", "x25519")
    assert roots.rotate([upload.id])[upload.id].outcome is Outcome.REWRAPPED
    path.write_bytes(first)
    roots.kit.open()
    assert await roots.kit.append(upload.id, 0, b"more") == 4
    await roots.kit.finish(upload.id)
    assert await roots.opens(upload.id, roots.new) == b"more"
    _, torn = await roots.kit.create(4)
    roots.rotate([torn.id])
    path = roots.kit.store.layout.of(torn.id).root_envelope
    path.write_bytes(path.read_bytes()[:-1])
    roots.kit.open()
    with pytest.raises(UploadNotFoundError):
        await roots.kit.append(torn.id, 0, b"more")


@async_test
async def test_concatenation_and_its_parts_open_with_the_new_root(tmp_path: Path) -> None:
    """Every part has an envelope of its own."""
    roots = Roots(tmp_path)
    parts = []
    for piece in (b"one", b"two"):
        _, part = await roots.kit.create(3, role=Role.PARTIAL)
        await roots.kit.append(part.id, 0, piece)
        await roots.kit.finish(part.id)
        parts.append(part.id)
    _, final = await roots.kit.create(None, role=Role.FINAL, parts=parts)
    await roots.kit.finish(final.id)
    roots.rotate([final.id, *parts])
    assert await roots.opens(final.id, roots.old) is None
    assert await roots.opens(final.id, roots.new) == b"onetwo"


@async_test
async def test_rotation_killed_at_any_step_is_gone_on_from(tmp_path: Path, killer: Killer) -> None:
    """After every kill each envelope is whole, and the next run leaves all of them with only the new root."""
    step, killer.died = 0, True
    while killer.died:
        step += 1
        roots = Roots(tmp_path / str(step), mode=Mode.SEALED)
        ids = [await roots.finished(b"\0")]
        with killer.at(step):
            roots.rotate(ids, roots.old)
        for number, upload_id in enumerate(ids):
            by_old, by_new = await roots.opens(upload_id, roots.old), await roots.opens(upload_id, roots.new)
            assert {by_old, by_new} == {bytes([number]), None}, step
        again = roots.rotate(ids, roots.old)
        assert all(item.outcome in {Outcome.REWRAPPED, Outcome.CURRENT} for item in again.values()), (step, again)
        for number, upload_id in enumerate(ids):
            assert await roots.opens(upload_id, roots.new) == bytes([number])
            assert await roots.opens(upload_id, roots.old) is None
    assert step > 7, "there were no steps to die at"


@async_test
async def test_upload_that_ends_meanwhile_gets_no_envelope_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shredded stays shredded, whoever comes second."""
    roots = Roots(tmp_path)
    upload_id = await roots.finished(b"content")
    log = roots.kit.store.layout.of(upload_id).log
    async with roots.kit.store.lease(upload_id) as lease:
        whole = log.read_bytes()
        envelope = roots.kit.store.layout.of(upload_id).root_envelope.read_bytes()
        await lease.end(UploadState.DELETED, "test", datetime.now(UTC))
    ended = log.read_bytes()
    log.write_bytes(whole)
    roots.kit.store.layout.of(upload_id).root_envelope.write_bytes(envelope)
    roots.kit.store.layout.of(upload_id).data.write_bytes(b"")

    def hook(point: str) -> None:
        if point == "rename":
            log.write_bytes(ended)

    monkeypatch.setattr(failpoints, "hook", hook)
    done = roots.rotate([upload_id], roots.old)[upload_id]
    assert done.outcome is Outcome.ENDED
    assert not roots.kit.store.layout.of(upload_id).root_envelope.exists()


@async_test
async def test_shredding_takes_what_a_killed_rotation_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file beside the envelope opens the upload too."""
    roots = Roots(tmp_path)
    upload_id = await roots.finished(b"content")

    def hook(point: str) -> None:
        if point == "rename":
            raise Killed

    monkeypatch.setattr(failpoints, "hook", hook)
    with pytest.raises(Killed):
        roots.rotate([upload_id])
    monkeypatch.setattr(failpoints, "hook", None)
    envelope = roots.kit.store.layout.of(upload_id).root_envelope
    left = envelope.with_name(envelope.name + NEW_SUFFIX)
    assert left.exists()
    async with roots.kit.store.lease(upload_id) as lease:
        await lease.end(UploadState.DELETED, "test", datetime.now(UTC))
    assert not left.exists()


@async_test
async def test_swapped_envelope_is_not_wrapped_anew(tmp_path: Path) -> None:
    """An envelope that is not the upload's own stays as it is, for a person to look at."""
    roots = Roots(tmp_path)
    one, other = await roots.finished(b"one"), await roots.finished(b"two")
    layout = roots.kit.store.layout
    layout.of(one).root_envelope.write_bytes(layout.of(other).root_envelope.read_bytes())
    swapped = layout.of(one).root_envelope.read_bytes()
    done = roots.rotate([one, other], roots.old)
    assert done[one].outcome is Outcome.SKIPPED
    assert "belongs to another upload" in str(done[one].why)
    assert done[other].outcome is Outcome.REWRAPPED
    assert layout.of(one).root_envelope.read_bytes() == swapped


@async_test
async def test_journal_says_what_each_envelope_is_wrapped_for(tmp_path: Path) -> None:
    """A torn last line is overwritten, and a line about other bytes than the file's does not count."""
    roots = Roots(tmp_path)
    one, other = await roots.finished(b"one"), await roots.finished(b"two")
    roots.rotate([one])
    journal = tmp_path / "keys" / JOURNAL
    envelope = roots.kit.store.layout.of(one).root_envelope
    wanted = hashlib.sha256(roots.new_root.encode()).hexdigest()
    line = f"{one} {wanted} {hashlib.sha256(envelope.read_bytes()).hexdigest()}\n"
    assert journal.read_text() == line
    assert journal.stat().st_mode & 0o777 == 0o600
    with journal.open("a") as file:
        file.write(f"{other} {wanted} 01")
    before = roots.kit.store.layout.of(other).root_envelope.read_bytes()
    assert roots.rotate([other])[other].outcome is Outcome.REWRAPPED
    assert journal.read_text().startswith(line + other)
    assert journal.read_text().count("\n") == 2
    # Put back from a backup, the old envelope is not taken for the new one.
    roots.kit.store.layout.of(other).root_envelope.write_bytes(before)
    assert roots.rotate([other])[other].outcome is Outcome.REWRAPPED
    assert await roots.opens(other, roots.new) == b"two"


@async_test
async def test_two_rotations_at_once_are_refused(tmp_path: Path) -> None:
    """The journal has one writer."""
    roots = Roots(tmp_path)
    await roots.finished(b"one")
    with roots.kit.store.rewrapper(()):
        second = roots.kit.store.rewrapper(())
        with pytest.raises(RotationError, match="another rotation"):
            second.__enter__()
