"""The names of folders that uploads share are synced once a process, and again when it makes them anew."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dropoff_tus.ids import upload_id
from dropoff_tus.model import Mode
from storage.files import durable
from tests.support.aio import async_test
from tests.support.store_kit import StoreKit


class _Synced(durable.Calls):
    def __init__(self) -> None:
        self.folders: list[Path] = []

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self.folders.append(path)
        super().fsync(descriptor)

    def take(self) -> list[Path]:
        taken, self.folders = self.folders, []
        return taken


def _tokens() -> Iterator[str]:
    """Yield tokens of uploads that lie in one folder."""
    while True:
        token = secrets.token_hex(16)
        if upload_id(token).startswith("00"):
            yield token


@pytest.mark.parametrize("mode", Mode)
@async_test
async def test_names_of_shared_folders_are_synced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """The upload's own names are synced each time, wherever they lie."""
    kit = StoreKit(tmp_path, mode=mode)
    synced, tokens = _Synced(), _tokens()
    monkeypatch.setattr(durable, "calls", synced)
    uploads, keys = tmp_path / "store" / "uploads", tmp_path / "keys"
    shared = {uploads, uploads.parent, keys}

    async def commit() -> list[Path]:
        _, upload = await kit.create(9, token=next(tokens))
        synced.take()
        await kit.append(upload.id, 0, b"some")
        found = synced.take()
        own = {uploads / "00" / upload.id, uploads / "00", keys / "00"}
        assert own <= set(found), "a name of its own was not synced"
        assert (tmp_path / "secrets" / "ingest" in found) == (mode is Mode.SEALED)
        assert len(found) == len(set(found)), "a folder was synced twice"
        return [path for path in found if path in shared]

    assert set(await commit()) == shared
    assert await commit() == []
    for folder, name in ((uploads, {uploads}), (keys, {keys})):
        shutil.rmtree(folder / "00")
        assert set(await commit()) == name
    kit.open()
    assert set(await commit()) == shared
