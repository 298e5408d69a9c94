"""A store whose folders somebody replaced by links: nothing elsewhere is made, changed, cut or removed."""

import contextlib
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from dropoff_tus.errors import DropoffError
from dropoff_tus.model import Mode
from dropoff_tus.states import UploadState
from storage.files.durable import Disk
from storage.files.layout import UploadPaths
from storage.keyring.identities import generate_root_identity
from storage.uploads.maintenance.check import check_store
from tests.support.aio import async_test
from tests.support.store_kit import StoreKit

_VICTIM = b"a file of somebody else's, longer than what was committed" * 10
_PLACES: dict[str, Callable[[UploadPaths], Path]] = {
    "upload": lambda paths: paths.folder,
    "shard": lambda paths: paths.folder.parent,
    "keys": lambda paths: paths.keys_folder,
}


class _Trap:
    """One folder of an upload moved elsewhere, a link in its place, and everything there as it may never change."""

    def __init__(self, kit: StoreKit, paths: UploadPaths, place: str) -> None:
        folder = _PLACES[place](paths)
        self.elsewhere = kit.folder / "elsewhere"
        shutil.move(folder, self.elsewhere)
        folder.symlink_to(self.elsewhere)
        for path in list(self.elsewhere.rglob("data")):
            path.write_bytes(path.read_bytes() + _VICTIM)
        for name in ("log.torn", "log.damaged", "log.new", f"{paths.folder.name}.age.new"):
            (self.elsewhere / name).write_bytes(_VICTIM)
        self.before = self._tree()

    def _tree(self) -> dict[str, bytes | None]:
        found = sorted(self.elsewhere.rglob("*"))
        return {str(path): None if path.is_dir() else path.read_bytes() for path in found}

    def check(self) -> None:
        assert self._tree() == self.before


async def _append(kit: StoreKit, upload_id: str) -> None:
    await kit.append(upload_id, 5, b"67890")


async def _torn(kit: StoreKit, upload_id: str) -> None:
    async with kit.store.lease(upload_id):
        pass


async def _end(kit: StoreKit, upload_id: str) -> None:
    async with kit.store.lease(upload_id) as lease:
        await lease.end(UploadState.DELETED, "test", datetime.now(UTC))


async def _shred_damaged(kit: StoreKit, upload_id: str) -> None:
    await kit.store.shred_damaged(upload_id, UploadState.DELETED, "test", datetime.now(UTC))


async def _forget(kit: StoreKit, upload_id: str) -> None:
    await kit.store.forget(upload_id)


async def _rotate(kit: StoreKit, upload_id: str) -> None:
    root = kit.folder / "new-root.txt"
    with kit.store.rewrapper(kit.identities) as rewrapper:
        rewrapper.rewrap(upload_id, [generate_root_identity(root, "x25519")])


_ATTEMPTS = (_append, _torn, _end, _shred_damaged, _forget, _rotate)


@pytest.mark.parametrize("work", _ATTEMPTS, ids=lambda work: str(work.__name__).strip("_"))
@pytest.mark.parametrize("place", _PLACES)
@async_test
async def test_link_in_place_of_a_folder_lets_nothing_elsewhere_change(
    tmp_path: Path, place: str, work: Callable[[StoreKit, str], Awaitable[None]]
) -> None:
    """Any use of the upload is refused, and a file named `data` elsewhere is not cut to its committed length."""
    kit = StoreKit(tmp_path, durability="os")
    _, upload = await kit.create(10)
    await kit.append(upload.id, 0, b"12345")
    trap = _Trap(kit, kit.store.layout.of(upload.id), place)
    kit.open()
    # Uses that need the keys' folder only later are not refused yet; nothing may change there anyway.
    with contextlib.suppress(DropoffError, OSError):
        await work(kit, upload.id)
    trap.check()
    (finding,) = [one async for one in check_store(kit.open(), [upload.id])]
    assert (finding.problem is None) == (work is _forget and place == "keys")


@pytest.mark.parametrize("place", ["shard", "keys"])
@async_test
async def test_link_in_place_of_a_shared_folder_takes_no_new_upload(tmp_path: Path, place: str) -> None:
    """A creation, and one that goes on as a concatenation would, make nothing behind it."""
    kit = StoreKit(tmp_path, durability="os")
    token, upload = await kit.create(10)
    paths = kit.store.layout.of(upload.id)
    await kit.store.forget(upload.id)
    trap = _Trap(kit, paths, place)
    kit.open()
    with pytest.raises(DropoffError, match="could not be created"):
        await kit.create(10, token=token, roots=False)
    trap.check()


@pytest.mark.parametrize("mode", Mode)
@async_test
async def test_roots_of_a_store_may_be_links(tmp_path: Path, mode: Mode) -> None:
    """To volumes, say: everything goes on behind them."""
    kit = StoreKit(tmp_path / "live", mode=mode, durability="os")
    for name, root in (("u", kit.store.layout.uploads), ("k", kit.store.layout.keys_dir), ("i", kit.places.ingest_dir)):
        volume = tmp_path / name
        volume.mkdir()
        root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            root.rmdir()
        root.symlink_to(volume)
    _, upload = await kit.create(5)
    await kit.append(upload.id, 0, b"12345")
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"12345"
    assert [one.problem async for one in check_store(kit.open())] == [None]
    await _end(kit, upload.id)
    assert not await kit.store.leftovers(upload.id)


def test_disk_reaches_nothing_below_a_root_through_a_link(tmp_path: Path) -> None:
    """Each call, at each depth; and what the link leads to stays as it is."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "a").mkdir(parents=True)
    (elsewhere / "b").mkdir(parents=True)
    for folder in (elsewhere, elsewhere / "b"):
        (folder / "file").write_bytes(b"theirs")
    (root / "link").symlink_to(elsewhere)
    (root / "a" / "link").symlink_to(elsewhere)
    disk, descriptors = Disk(sync=True, roots=(root,)), Path("/proc/self/fd")
    opened = len(list(descriptors.iterdir()))
    before = sorted(elsewhere.rglob("*"))
    for folder in (root / "link", root / "link" / "b", root / "a" / "link", root / "a" / "link" / "b"):
        attempts: list[Callable[[], object]] = [
            partial(disk.open_existing, folder / "file", write=True),
            partial(disk.read_small, folder / "file", 10),
            partial(disk.create, folder / "new"),
            partial(disk.write_new, folder / "new", b"x"),
            partial(disk.make_folder, folder / "new"),
            partial(disk.replace, folder / "file", b"ours"),
            partial(disk.remove, folder / "file"),
            partial(disk.remove_folder, folder / "b"),
            partial(disk.sync_path, folder / "file"),
        ]
        for attempt in attempts:
            with pytest.raises(NotADirectoryError) as caught:
                attempt()
            assert str(caught.value.filename).startswith(str(folder))
    assert sorted(elsewhere.rglob("*")) == before
    assert {path.read_bytes() for path in before if path.is_file()} == {b"theirs"}
    assert len(list(descriptors.iterdir())) == opened
