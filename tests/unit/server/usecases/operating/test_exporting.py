"""Exporting: many small files at once, in their order, and what goes wrong with one of them."""

import hashlib
import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from dropoff_tus.audit import Event
from dropoff_tus.errors import DropoffError, ToldError, UploadDamagedError
from dropoff_tus.model import Mode, Role, StoredUpload, UploadRow
from dropoff_tus.ports.store import Seen
from dropoff_tus.states import UploadState
from server.usecases.operating.archiving import as_tar
from server.usecases.operating.exporting import Export, ExportedRows, Exporter
from tests.support.aio import async_test

_AT = datetime(2030, 1, 1, tzinfo=UTC)
_LARGE = b"L" * (2 << 20)
_CONTENTS = {f"{number:032x}": _LARGE if number == 150 else b"%d" % number for number in range(300)}
_DAMAGED, _TAKEN = f"{7:032x}", f"{9:032x}"


class _Store:
    """A store in memory that counts its turns."""

    def __init__(self) -> None:
        self.turns = 0

    async def look(self, upload_ids: Sequence[str], identities: Sequence[str] = ()) -> list[Seen]:
        del identities
        self.turns += 1
        return [
            Seen(
                StoredUpload(one, "d", Role.REGULAR, Mode.MANAGED, _AT, _AT, len(content), len(content), final=True),
                receipt={
                    "drop": "d", "path": one, "receipt": "r", "created_at": "c", "completed_at": "c",
                    "sha256": hashlib.sha256(content).hexdigest(),
                },
            )
            for one in upload_ids
            for content in (_CONTENTS[one],)
        ]  # fmt: skip

    async def read_whole(self, upload_ids: Sequence[str], identities: Sequence[str] = ()) -> list[bytes | DropoffError]:
        del identities
        self.turns += 1
        return [UploadDamagedError("damaged") if one == _DAMAGED else _CONTENTS[one] for one in upload_ids]

    async def read(
        self, upload_id: str, *, start: int = 0, stop: int | None = None, identities: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        del start, stop, identities
        self.turns += 1
        yield _CONTENTS[upload_id]


class _Catalog:
    """Counts what is recorded, in how many transactions."""

    def __init__(self) -> None:
        self.recorded: list[str | None] = []
        self.transactions = 0

    async def uploads(self, **_filters: object) -> list[UploadRow]:
        return [UploadRow(one, "d", Role.REGULAR, Mode.MANAGED, UploadState.COMPLETE, _AT) for one in _CONTENTS]

    async def record(self, *events: Event) -> None:
        self.transactions += 1
        self.recorded += [event.upload_id for event in events]


class _Folder:
    """Files in memory; one is there already, and is another."""

    def __init__(self, catalog: _Catalog) -> None:
        self.files, self._catalog = {_TAKEN: b"other"}, catalog

    async def taken(self, paths: Sequence[str]) -> list[bool]:
        return [path in self.files for path in paths]

    async def has(self, path: str) -> bool:
        return path in self.files

    async def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest()

    async def write(self, path: str, pieces: AsyncIterator[bytes], check: Callable[[], None]) -> None:
        self.files[path] = b"".join([piece async for piece in pieces])
        check()

    async def write_whole(self, files: Sequence[tuple[str, bytes]]) -> list[OSError | ToldError | None]:
        assert {path for path, _ in files} <= {*self._catalog.recorded}, "nothing leaves unrecorded"
        self.files |= dict(files)
        return [None] * len(files)


@pytest.fixture(name="world")
def _world() -> tuple[_Store, _Catalog, Exporter]:
    store, catalog = _Store(), _Catalog()
    return store, catalog, Exporter(store, cast("ExportedRows", catalog))


@async_test
async def test_small_files_go_into_a_folder_many_in_a_turn(world: tuple[_Store, _Catalog, Exporter]) -> None:
    """300 files in few turns and transactions; a damaged one is told, one whose path is taken gets a number."""
    store, catalog, exporter = world
    folder = _Folder(catalog)
    export = await exporter.plan("d", None, lambda _total: lambda _count: None)
    await exporter.into_folder(export, folder, lambda _count: None)
    expected = {one: content for one, content in _CONTENTS.items() if one not in {_DAMAGED, _TAKEN}}
    assert folder.files == {**expected, _TAKEN: b"other", f"{_TAKEN} (2)": _CONTENTS[_TAKEN]}
    assert export.failed == [(_DAMAGED, "damaged")]
    assert {*catalog.recorded} == {*_CONTENTS}
    assert len(export.rows) == 299
    assert (catalog.transactions, store.turns) < (10, 20)


@async_test
async def test_archive_has_small_and_large_files_in_order(world: tuple[_Store, _Catalog, Exporter]) -> None:
    """Also here many at once, each recorded before any byte of it."""
    store, catalog, exporter = world
    export = Export()
    planned = exporter.planned(export, await exporter.finished("d"), None)
    packed = b"".join([piece async for piece in as_tar(exporter, export, planned, lambda _count: None)])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        found: dict[str, Any] = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        contents = {name: file.read() for name, file in found.items() if not name.startswith("manifest")}
    assert list(contents) == [one for one in _CONTENTS if one != _DAMAGED]
    assert contents == {one: content for one, content in _CONTENTS.items() if one != _DAMAGED}
    assert (catalog.transactions, store.turns) < (10, 20)
