"""Every change leaves its row in the audit, in its own transaction, on both databases; checkpoints sign all of them."""

import asyncio
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.util import await_

from dropoff_tus.audit import Act, Actor, Event, acting
from dropoff_tus.errors import CatalogUnavailableError, DropoffFullError
from dropoff_tus.model import ApiToken, Role, Scope
from dropoff_tus.states import UploadState
from storage.catalog import SqlCatalog, audit, open_catalog, open_engine
from storage.catalog.address import parse_url
from storage.catalog.checkpoints import Checkpoints
from storage.catalog.postgres_connection import connect
from storage.catalog.transaction import Transaction
from storage.catalog.verifier import Verifier
from storage.keyring.signing import SigningKey
from tests.integration.catalog.conftest import RUNTIME, SHARED
from tests.integration.catalog.harness import NOW, add_complete, allow, make_dropoff, make_upload, refuse
from tests.support.aio import async_test
from tests.support.postgres import PostgresServer

_KEY = SigningKey(bytes(range(32)))


async def _verified(catalog: SqlCatalog, checkpoints: Checkpoints | None = None) -> list[dict[str, object]]:
    """Return all rows, when the checkpoints vouch for them."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = checkpoints or Checkpoints(catalog, _KEY, Path(folder))
        signed = await checkpoints.sign()
        verifier, rows = Verifier(_KEY), []
        async for page in checkpoints.verify(verifier):
            rows += [json.loads(text) for _, text in page]
    assert verifier.last == signed
    assert (verifier.count, verifier.unsigned.count) == (len(rows), 0)
    return rows


@async_test
async def test_every_change_leaves_its_row(catalog_url: str) -> None:
    """Actor, act, drop-off, upload and amount; a repetition, which changes nothing, leaves no row."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        with acting(lambda: Actor("operator:ada")):
            await catalog.add_dropoff(dropoff)
        with acting(lambda: Actor("client", "ab" * 16)):
            row = await catalog.add_upload(make_upload(dropoff, 5, length=5), allow)
            for _ in range(2):
                await catalog.complete_upload(row.id, 5, NOW, final="cd" * 32)
        for _ in range(2):
            await catalog.set_state(row.id, UploadState.DELETED, NOW)
        lost = await catalog.add_upload(make_upload(dropoff), allow)
        for _ in range(2):
            await catalog.drop_upload(lost.id)
        await catalog.change_dropoff(dropoff.id, lambda found: replace(found, code_mac=b"c" * 32))
        await catalog.set_closed(dropoff.id, closed=True, end_open=True)
        await catalog.set_closed(dropoff.id, closed=False)
        await catalog.record(Event(Act.WRONG_CODES, dropoff.id, count=3))
        rows = await _verified(catalog)
    told = [(r["who"], r["act"], r.get("upload"), r.get("result"), r.get("bytes"), r.get("count")) for r in rows]
    assert told == [
        ("operator:ada", "drop.create", None, "managed", None, None),
        ("client", "upload.create", row.id, "regular", 5, None),
        ("client", "upload.complete", row.id, "regular", 5, None),
        ("server", "upload.delete", row.id, "was complete", 5, None),
        ("server", "upload.create", lost.id, "regular", None, None),
        ("server", "upload.forget", lost.id, None, None, None),
        ("server", "drop.new_code", None, None, None, None),
        ("server", "drop.close", None, "now", None, None),
        ("server", "drop.reopen", None, None, None, None),
        ("server", "code.wrong", None, None, None, 3),
    ]
    assert rows[2]["final"] == "cd" * 32
    assert rows[1]["from"] == rows[2]["from"] == "ab" * 16
    assert {row["drop"] for row in rows} == {dropoff.id}


@async_test
async def test_rows_of_one_upload_are_found_with_those_of_its_drop_off_itself(catalog_url: str) -> None:
    """And with those of checks of all uploads; not with those of other uploads, which may be many, nor drop-offs."""
    ours, other = make_dropoff(), make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(ours)
        await catalog.add_dropoff(other)
        row, another, _ = [await catalog.add_upload(make_upload(drop, 5), allow) for drop in (ours, ours, other)]
        await catalog.set_closed(other.id, closed=True, end_open=True)
        await catalog.set_closed(ours.id, closed=True, end_open=True)
        await catalog.set_state(row.id, UploadState.TERMINATED, NOW)
        for upload_id in (None, row.id, another.id):
            await catalog.record(Event(Act.STORE_CHECK, upload_id=upload_id, began_at=NOW, findings=0))
        found = [json.loads(text) for text in await catalog.audit_of(row.id, ours.id)]
    acts = [each["act"] for each in found]
    assert acts == ["drop.create", "upload.create", "drop.close", "upload.terminate", "store.check", "store.check"]
    assert {each.get("upload", row.id) for each in found} == {row.id}
    assert {each.get("drop", ours.id) for each in found} == {ours.id}


@async_test
async def test_time_ends_finished_uploads_by_retention_and_others_by_expiry(catalog_url: str) -> None:
    """Told apart by what ended, so that an end repeated after a crash has the same name; parts only ever expire."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        finished = await add_complete(catalog, dropoff, 5)
        taken_back = await add_complete(catalog, dropoff, 5)
        await catalog.set_state(taken_back.id, UploadState.WITHDRAWN, NOW)
        part = await add_complete(catalog, dropoff, 5, Role.PARTIAL)
        begun = await catalog.add_upload(make_upload(dropoff), allow)
        for row in (finished, taken_back, part, begun):
            assert await catalog.set_state(row.id, UploadState.EXPIRED, NOW)
        ends = [row["act"] for row in await _verified(catalog)][-4:]
    assert ends == ["upload.retire", "upload.retire", "upload.expire", "upload.expire"]


@async_test
async def test_tokens_made_and_revoked_leave_rows_without_a_secret(catalog_url: str) -> None:
    """Id, scopes and the drop-off it is for; revoked again, or without there being one, there is nothing to tell."""
    dropoff = make_dropoff()
    token = ApiToken("0123456789abcdef", "name", tuple(Scope)[:2], NOW, bytes(range(32)), drop_id=dropoff.id)
    async with open_catalog(catalog_url) as catalog:
        with acting(lambda: Actor("operator:ada")):
            await catalog.add_token(token)
            assert [await catalog.revoke_token(one, NOW) for one in (token.id, token.id, "f" * 16)] == [
                True,
                True,
                False,
            ]
        rows = await _verified(catalog)
    assert [(r["who"], r["act"], r["token"], r.get("drop"), r.get("result")) for r in rows] == [
        ("operator:ada", "token.create", token.id, dropoff.id, "drops:read drops:write"),
        ("operator:ada", "token.revoke", token.id, None, None),
    ]
    assert "name" not in json.dumps(rows)


@async_test
async def test_change_that_is_refused_leaves_no_row(catalog_url: str) -> None:
    """The row is in the transaction of what it records: undone with it."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        with pytest.raises(DropoffFullError):
            await catalog.add_upload(make_upload(dropoff), refuse)
        assert [row["act"] for row in await _verified(catalog)] == ["drop.create"]


@async_test
async def test_checkpoints_beside_writers_in_two_processes_sign_every_row_once(
    catalog_url: str, tmp_path: Path
) -> None:
    """Rows that are written while others are signed are in the next checkpoint, or in this one."""
    drops = [make_dropoff() for _ in range(6)]
    async with open_catalog(catalog_url) as one, open_catalog(catalog_url) as other:
        for drop in drops:
            await one.add_dropoff(drop)

        async def use(catalog: SqlCatalog, number: int) -> None:
            for _ in range(5):
                row = await add_complete(catalog, drops[number], 1, Role.PARTIAL)
                await catalog.set_state(row.id, UploadState.EXPIRED, NOW)

        async def sign(catalog: SqlCatalog) -> None:
            checkpoints = Checkpoints(catalog, _KEY, tmp_path)
            while not done.is_set():
                await checkpoints.sign()

        done = asyncio.Event()
        signing = [asyncio.ensure_future(sign(catalog)) for catalog in (one, other)]
        await asyncio.gather(*(use(catalog, n) for n in range(6) for catalog in (one, other)))
        done.set()
        await asyncio.gather(*signing)
        assert len(await _verified(one, Checkpoints(one, _KEY, tmp_path))) == 6 + 2 * 6 * 5 * 3
        assert len(await one.checkpoints(0, 10_000)) > 1


@async_test
async def test_row_that_is_committed_behind_a_later_one_is_in_a_checkpoint(catalog_url: str, tmp_path: Path) -> None:
    """Two processes write at once, and the first to get a number commits last: no checkpoint leaves it out for ever."""
    taken, go_on, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    def write(transaction: Transaction) -> None:
        audit.append(transaction, [Event(Act.WRONG_CODES, "first")], Actor("server"))
        loop.call_soon_threadsafe(taken.set)
        if catalog_url.startswith("sqlite"):
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        else:
            await_(go_on.wait())

    async with open_engine(catalog_url) as slow, open_catalog(catalog_url) as catalog:
        checkpoints = Checkpoints(catalog, _KEY, tmp_path)
        first = asyncio.ensure_future(slow.write(write))
        await taken.wait()
        second = asyncio.ensure_future(catalog.record(Event(Act.WRONG_CODES, "second")))
        # As long as it takes where nobody waits for the first; SQLite has one writer at a time.
        await asyncio.wait([second], timeout=0.5)
        assert second.done() != catalog_url.startswith("sqlite")
        signing = asyncio.ensure_future(checkpoints.sign())
        ended = asyncio.ensure_future(catalog.audit_end())
        await asyncio.wait([signing, ended], timeout=0.5)
        assert not signing.done()
        assert not ended.done()
        go_on.set()
        await asyncio.gather(first, second, signing)
        rows = await catalog.audit_rows(0, await ended, 9)
        assert {json.loads(text)["drop"] for _, text in rows} >= {"first"}
        assert {row["drop"] for row in await _verified(catalog, checkpoints)} == {"first", "second"}


@async_test
async def test_last_number_is_not_waited_for_long_where_somebody_holds_up_a_writer(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """A stranger's lock on one drop-off: others are let in between, and the checkpoint comes the next time."""
    held, free = make_dropoff(), make_dropoff()
    async with open_catalog(postgres_url) as catalog:
        for dropoff in (held, free):
            await catalog.add_dropoff(dropoff)
        stranger = await connect(parse_url(postgres.url(SHARED)))
        try:
            await stranger.execute("BEGIN")
            await stranger.execute("SELECT 1 FROM dropoffs WHERE id = $1 FOR UPDATE", held.id)
            waiting = asyncio.ensure_future(catalog.add_upload(make_upload(held), allow))
            await asyncio.sleep(0.1)
            with pytest.raises(CatalogUnavailableError):
                await catalog.audit_end()
            assert not waiting.done()
            await catalog.add_upload(make_upload(free), allow)
        finally:
            await stranger.close()
        await waiting
        assert await catalog.audit_end() > 0


@async_test
async def test_number_of_a_row_that_was_undone_is_left_out(postgres_url: str, tmp_path: Path) -> None:
    """PostgreSQL gives it to no other row, and nothing takes the hole for a row that was removed."""

    def undone(transaction: Transaction) -> None:
        audit.append(transaction, [Event(Act.WRONG_CODES)], Actor("server"))
        raise ZeroDivisionError

    async with open_engine(postgres_url) as opened:
        catalog = SqlCatalog(opened)
        await catalog.record(Event(Act.WRONG_CODES))
        with pytest.raises(ZeroDivisionError):
            await opened.write(undone)
        await catalog.record(Event(Act.WRONG_CODES))
        (first, _), (last, _) = await catalog.audit_rows(0, 1 << 62, 9)
        assert last > first + 1
        assert len(await _verified(catalog, Checkpoints(catalog, _KEY, tmp_path))) == 2


def test_runtime_role_may_only_read_and_add(postgres: PostgresServer, postgres_url: str) -> None:
    """The role that the whole suite runs as can neither change nor remove a row of the audit."""
    assert RUNTIME in postgres_url
    may = ", ".join(
        f"has_table_privilege('{RUNTIME}', '{table}', '{right}')"
        for table in ("audit", "checkpoints")
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
    )
    assert postgres.sql(f"SELECT {may}", database=SHARED) == ["t|t|f|f|f|t|t|f|f|f"]
