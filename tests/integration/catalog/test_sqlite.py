"""Particulars of SQLite: its file, its thread, its locks, and their failures."""

import asyncio
import contextlib
import logging
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dropoff_tus.errors import CatalogUnavailableError
from dropoff_tus.model import Usage
from dropoff_tus.states import UploadState
from storage.catalog import CatalogError, migrate, open_catalog, sqlite
from storage.catalog.accounting import END_PARTS
from storage.catalog.dropoffs import list_dropoffs
from storage.catalog.sqlite import connect
from storage.catalog.transaction import Statement
from storage.catalog.upload_rows import PARTS
from storage.catalog.uploads import list_uploads
from tests.integration.catalog.harness import NOW, add_complete, allow, make_dropoff, make_upload, summed_usage
from tests.support.aio import async_test


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("catalog")]


@async_test
async def test_database_files_are_the_owners_alone(sqlite_url: str) -> None:
    """Neither the file nor those that SQLite puts beside it can be read by others."""
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(make_dropoff())
        files = list(_file(sqlite_url).parent.iterdir())
        assert {path.name for path in files} == {"catalog.sqlite3", "catalog.sqlite3-wal", "catalog.sqlite3-shm"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@async_test
async def test_catalog_closed_leaves_no_thread_and_one_file(sqlite_url: str) -> None:
    """Everything that opening made is gone again."""
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(make_dropoff())
        assert len(await catalog.dropoffs()) == 1
        assert len(_threads()) == 2
    assert _threads() == []
    assert [path.name for path in _file(sqlite_url).parent.iterdir()] == ["catalog.sqlite3"]


def test_full_disk_and_read_only_file_are_told_as_what_they_are(sqlite_url: str) -> None:
    """The operator reads what to correct."""
    with contextlib.closing(connect(_file(sqlite_url))) as database:
        database.execute("CREATE TABLE filler (filling BLOB)")
        database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0]}")
        with pytest.raises(sqlite3.Error) as full:
            database.execute("INSERT INTO filler VALUES (zeroblob(100000))")
        database.execute("PRAGMA query_only = ON")
        with pytest.raises(sqlite3.Error) as read_only:
            database.execute("DELETE FROM filler")
        with pytest.raises(sqlite3.Error) as other:
            database.execute("SELECT * FROM nowhere")
    said = [str(sqlite.unavailable(found.value, _file(sqlite_url))) for found in (full, read_only, other)]
    assert ["disk is full" in said[0], "read-only" in said[1], said[2]] == [
        True,
        True,
        "the catalog does not answer; try again shortly",
    ]


@async_test
async def test_database_locked_by_another_process_is_unavailable_then_works(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock held too long is an answer, not a hang; the lock's end is the trouble's end; reads never wait."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    dropoff = make_dropoff(code_mac=b"secretsecretsecretsecretsecretse")
    async with open_catalog(sqlite_url) as catalog:
        with contextlib.closing(connect(_file(sqlite_url))) as other:
            other.execute("BEGIN IMMEDIATE")
            with caplog.at_level(logging.DEBUG), pytest.raises(CatalogUnavailableError) as caught:
                await catalog.add_dropoff(dropoff)
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert caught.value.retry_after_seconds == 5
            assert await catalog.dropoffs() == []
        await catalog.add_dropoff(dropoff)
        assert await catalog.dropoffs() == [dropoff]
    said = str(caught.value) + str(caught.value.__cause__) + caplog.text
    assert "SQLITE_BUSY" in caplog.text
    assert "secret" not in said
    assert dropoff.id not in said


@async_test
async def test_lock_shorter_than_the_patience_is_waited_for(sqlite_url: str) -> None:
    """The command line's short transactions are not the server's errors."""
    async with open_catalog(sqlite_url) as catalog:
        with contextlib.closing(connect(_file(sqlite_url))) as other:
            other.execute("BEGIN IMMEDIATE")
            task = asyncio.ensure_future(catalog.add_dropoff(make_dropoff()))
            await asyncio.sleep(0.3)
            assert not task.done()
            other.execute("COMMIT")
            await task


@async_test
async def test_database_moved_deleted_or_replaced_is_unavailable(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written to a file that no other process sees; after its return it goes on."""
    monkeypatch.setattr(sqlite, "LOOK_SECONDS", 0.0)
    dropoff = make_dropoff()
    path = _file(sqlite_url)
    away = path.with_suffix(".away")
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(dropoff)
        path.rename(away)
        for there in (False, True):
            if there:
                path.write_bytes(away.read_bytes())
            for attempt in (catalog.set_closed(dropoff.id, closed=True), catalog.version(), catalog.dropoffs()):
                with pytest.raises(CatalogUnavailableError):
                    await attempt
        away.replace(path)
        assert await catalog.dropoffs() == [dropoff]
        await add_complete(catalog, dropoff, 5)


@async_test
async def test_database_damaged_is_unavailable(sqlite_url: str) -> None:
    """A damaged file is refused with the reason chained, and nothing hangs."""
    dropoff = make_dropoff()
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(dropoff)
        for _ in range(50):
            await add_complete(catalog, dropoff, 1)
    path = _file(sqlite_url)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        roots = [row[0] for row in connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'uploads'")]
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(path.read_bytes())
    for root in roots:
        if root:
            content[(root - 1) * page_bytes : root * page_bytes] = b"\xee" * page_bytes
    path.write_bytes(content)
    async with open_catalog(sqlite_url) as catalog:
        for attempt in (
            catalog.add_upload(make_upload(dropoff, 1), allow),
            catalog.upload("0" * 32),
            catalog.uploads(),
        ):
            with pytest.raises(CatalogUnavailableError) as caught:
                await attempt
            assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
        assert await catalog.dropoff(dropoff.id) == dropoff


def _start_writer(url: str, drop_id: str, *limit: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.catalog.writer", url, drop_id, *limit], stdout=subprocess.PIPE
    )


@async_test
async def test_writer_killed_among_commits_loses_nothing_it_answered(sqlite_url: str) -> None:
    """Changes that were answered before SIGKILL are there after it, and the counters match the rows."""
    dropoff = make_dropoff()
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(dropoff)
    answered: set[str] = set()
    for round_size in (1, 150, 600):
        with _start_writer(sqlite_url, dropoff.id) as process:
            assert process.stdout is not None
            for _ in range(round_size):
                answered.add(process.stdout.readline().decode().strip())
            process.kill()
            # The lines that it could still write count; a last one may be cut.
            answered |= {line for line in process.stdout.read().decode().split("\n") if len(line) == 32}
        async with open_catalog(sqlite_url) as catalog:
            present = {row.id for row in await catalog.uploads()}
            assert answered <= present
            assert await catalog.usage(dropoff.id) == await summed_usage(catalog, dropoff.id)
            assert (await catalog.usage(dropoff.id)).uploads == len(present)


@async_test
async def test_disk_full_is_unavailable_and_room_again_is_enough(sqlite_url: str) -> None:
    """No room to grow: answered changes stay, the refusal tells no secret, and later writes work."""
    dropoff = make_dropoff()
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(dropoff)
    with _start_writer(sqlite_url, dropoff.id, str(400_000)) as process:
        said = process.communicate()[0].decode().splitlines()
    assert process.returncode == 0
    assert said[-2] == "unavailable the catalog does not answer; try again shortly"
    assert len(said) > 10
    async with open_catalog(sqlite_url) as catalog:
        assert {row.id for row in await catalog.uploads()} == {*said[:-2], said[-1]}
        uploads = len(said) - 1
        assert await catalog.usage(dropoff.id) == Usage(uploads, 3 * uploads)


@async_test
async def test_question_for_a_long_list_does_not_delay_a_short_one(sqlite_url: str) -> None:
    """Lists have a thread of their own."""
    dropoff = make_dropoff()
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await asyncio.gather(*(catalog.add_upload(make_upload(dropoff, 1), allow) for _ in range(3000)))
        listing = asyncio.ensure_future(catalog.uploads())
        await asyncio.sleep(0)
        assert await catalog.dropoff(dropoff.id) == dropoff
        assert not listing.done()
        assert len(await listing) == 3000


def _listing(*, created_before: bool = False, unclaimed: bool = False, state: UploadState | None = None) -> Statement:
    return list_uploads(
        of_dropoff=False,
        states=frozenset([state] if state else []),
        partials=True,
        created_before=created_before,
        unclaimed=unclaimed,
    )


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (_listing(created_before=True, unclaimed=True, state=UploadState.COMPLETE), "ix_uploads_unclaimed"),
        (_listing(unclaimed=True, state=UploadState.COMPLETE), "ix_uploads_unclaimed"),
        (_listing(state=UploadState.OPEN), "ix_uploads_state"),
        (
            list_uploads(
                of_dropoff=True,
                states=frozenset(),
                partials=True,
                created_before=False,
                unclaimed=False,
                after=True,
                limited=True,
            ),
            "ix_uploads_drop_id",
        ),
        (
            list_uploads(
                of_dropoff=False,
                states=frozenset(),
                partials=False,
                created_before=False,
                unclaimed=False,
                after=True,
                limited=True,
            ),
            "ix_uploads_created_at",
        ),
        (list_dropoffs(after=True, limited=True), "ix_dropoffs_created_at"),
        (PARTS, "ix_uploads_final_id"),
        (END_PARTS, "ix_uploads_final_id"),
    ],
    ids=[
        "expirable",
        "sealed-parts",
        "open",
        "page",
        "page-of-all",
        "page-of-drops",
        "parts",
        "end-parts",
    ],
)
def test_statement_with_a_partial_index_uses_it(sqlite_url: str, statement: Statement, index: str) -> None:
    """Frequent statements never walk through all finished uploads."""
    values = {"drop_id": "d", "upload_id": "u", "final_id": "f", "before": 0, "new_state": "expired", "at": 0}
    values |= {"after_at": 0, "after_id": "u", "most": 1}
    with contextlib.closing(connect(_file(sqlite_url))) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sqlite.compiled(statement)}", values).fetchall()
    assert any(index in row["detail"] for row in plan), [row["detail"] for row in plan]


@async_test
async def test_catalog_never_holds_a_code(sqlite_url: str) -> None:
    """Only what the drop-off carries of its code, its keyed hash, is in the file."""
    dropoff = make_dropoff(code_mac=bytes(range(32)))
    async with open_catalog(sqlite_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await add_complete(catalog, dropoff, 5)
        await catalog.complete_upload(row.id, 5, NOW)
    # The log may still hold what is not copied into the file yet.
    files = _file(sqlite_url).parent.glob(f"{_file(sqlite_url).name}*")
    content = b"".join(path.read_bytes() for path in files)
    assert bytes(range(32)) in content
    assert row.id.encode() in content


@async_test
async def test_open_without_a_file_makes_none(tmp_path: Path) -> None:
    """A mistyped path is reported, not filled."""
    for _ in range(2):  # the second finds none of the first's making
        with pytest.raises(CatalogError, match=r"there is no catalog.*dropoff-tus migrate"):
            async with open_catalog(f"sqlite:///{tmp_path}/none.sqlite3"):
                pass


@async_test
async def test_path_with_odd_characters_is_opened(tmp_path: Path) -> None:
    """A space, a question mark, a percent sign and a hash in a folder's name are only characters."""
    folder = tmp_path / "a b?c=d%20#e%"
    folder.mkdir()
    url = f"sqlite:///{str(folder).replace('%', '%25').replace('?', '%3F')}/catalog.sqlite3"
    assert migrate(url)[0] == "0001"
    async with open_catalog(url) as catalog:
        assert await catalog.dropoffs() == []
    assert [path.name for path in folder.iterdir()] == ["catalog.sqlite3"]
