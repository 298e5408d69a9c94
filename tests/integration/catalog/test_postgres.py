"""Particulars of PostgreSQL: its locks, its connections, its roles, and its absence."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable

import asyncpg
import pytest
from sqlalchemy.util import await_

from dropoff_tus.errors import CatalogFullError, CatalogUnavailableError
from dropoff_tus.model import Dropoff
from storage.catalog import CatalogError, SqlCatalog, migrate, open_catalog, open_engine
from storage.catalog import postgres as engine
from storage.catalog.address import parse_url
from storage.catalog.dropoffs import SET_CLOSED
from storage.catalog.postgres_connection import connect
from storage.catalog.schema import REVISION
from storage.catalog.transaction import Transaction
from tests.integration.catalog.conftest import RUNTIME, SHARED
from tests.integration.catalog.harness import NOW, add_complete, allow, make_dropoff, make_upload, summed_usage
from tests.support.aio import async_test
from tests.support.postgres import OWNER, PostgresServer, pause, resume

_PATIENCE_SECONDS = 1.0
_BOUND_SECONDS = 6.0  # for what takes _PATIENCE_SECONDS on an idle machine


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the database for a fraction of a second, on one connection for each kind of request."""
    for name in ("CALL_SECONDS", "LIST_SECONDS", "CONNECT_SECONDS"):
        monkeypatch.setattr(engine, name, _PATIENCE_SECONDS)
    for name in ("WRITERS", "READERS", "LISTERS"):
        monkeypatch.setattr(engine, name, 1)


async def _assert_unavailable(*attempts: Awaitable[object]) -> None:
    """Each is refused within a bounded time, all at once."""
    began = time.monotonic()
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert [type(result) for result in results] == [CatalogUnavailableError] * len(results)
    assert time.monotonic() - began < _BOUND_SECONDS


async def _answers_again(catalog: SqlCatalog, dropoff: Dropoff) -> None:
    """See that reads, lists and writes work, without anything having been opened again."""
    assert await catalog.dropoff(dropoff.id) == dropoff
    assert dropoff in await catalog.dropoffs()
    await add_complete(catalog, dropoff, 5)
    assert await catalog.usage(dropoff.id) == await summed_usage(catalog, dropoff.id)


# ---- the database goes away -----------------------------------------------------------------------------------


@pytest.mark.timeout(240)  # each round connects again, some fifteen times, and a busy machine takes seconds for one
@async_test
async def test_connections_ended_by_the_database_are_replaced_unnoticed(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """An administrator's `pg_terminate_backend` costs no request."""
    dropoff = make_dropoff()
    async with open_catalog(postgres_url) as catalog:
        await catalog.add_dropoff(dropoff)
        for _ in range(3):
            await asyncio.gather(*(add_complete(catalog, dropoff, 5) for _ in range(20)))
            await _answers_again(catalog, dropoff)
            ended = postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{RUNTIME}'")
            assert len(ended) > 1
        await _answers_again(catalog, dropoff)


@async_test
async def test_database_stopped_is_unavailable_and_started_again_is_enough(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """Refused at once while it is away; answered changes are there after; nothing has to be restarted."""
    dropoff = make_dropoff()
    answered: list[str] = []
    enough = asyncio.Event()

    async def add_until_refused() -> None:
        while True:
            answered.append((await catalog.add_upload(make_upload(dropoff, 3), allow)).id)
            if len(answered) == 100:
                enough.set()

    async with open_catalog(postgres_url) as catalog:
        await catalog.add_dropoff(dropoff)
        busy = [asyncio.ensure_future(add_until_refused()) for _ in range(16)]
        await enough.wait()
        await asyncio.to_thread(postgres.stop)
        try:
            await _assert_unavailable(*busy)
            await _assert_unavailable(catalog.dropoff(dropoff.id), catalog.dropoffs(), catalog.version())
        finally:
            await asyncio.to_thread(postgres.start)
        await _answers_again(catalog, dropoff)
        assert set(answered) <= {row.id for row in await catalog.uploads()}


@async_test
async def test_database_that_only_read_takes_writes_again_when_it_may(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """A session that was begun at a standby, or during maintenance, is not kept for ever."""
    dropoff = make_dropoff()
    setting = f"ALTER ROLE {RUNTIME} SET default_transaction_read_only = on"
    async with open_catalog(postgres_url) as catalog:
        postgres.sql(setting)
        try:
            for _ in range(2):
                await _assert_unavailable(catalog.add_dropoff(dropoff))
            assert await catalog.dropoffs() == []
        finally:
            postgres.sql(f"ALTER ROLE {RUNTIME} RESET default_transaction_read_only")
        await catalog.add_dropoff(dropoff)
        await _answers_again(catalog, dropoff)


@pytest.mark.usefixtures("impatient")
@async_test
async def test_connections_that_swallow_everything_are_given_up(postgres: PostgresServer, postgres_url: str) -> None:
    """A network that hangs is an answer in bounded time, and new connections are made instead of the old."""
    dropoff = make_dropoff()
    async with open_catalog(postgres_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await _answers_again(catalog, dropoff)
        silent = postgres.backends(SHARED)
        assert len(silent) == 3
        pause(silent)
        try:
            await _assert_unavailable(
                catalog.dropoff(dropoff.id), catalog.dropoffs(), catalog.add_upload(make_upload(dropoff, 1), allow)
            )
            await _answers_again(catalog, dropoff)
        finally:
            resume(silent)
        await _answers_again(catalog, dropoff)


@pytest.mark.usefixtures("impatient")
@async_test
async def test_requests_queued_behind_a_silent_connection_are_given_up_too(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """Those whose turn did not come in time are refused like the one before them."""
    dropoff = make_dropoff()
    async with open_catalog(postgres_url) as catalog:
        await catalog.add_dropoff(dropoff)
        silent = postgres.backends(SHARED)
        pause(silent)
        try:
            await _assert_unavailable(*(catalog.add_upload(make_upload(dropoff, 1), allow) for _ in range(20)))
        finally:
            resume(silent)
        await _answers_again(catalog, dropoff)


@async_test
async def test_dropoff_locked_for_long_is_unavailable_and_its_readers_do_not_wait(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another's lock held too long is a refusal that tells no secret; reads never wait for it."""
    monkeypatch.setattr(engine, "LOCK_SECONDS", 0.2)
    dropoff, other = make_dropoff(code_mac=b"secretsecretsecretsecretsecretse"), make_dropoff()
    async with open_catalog(postgres_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await catalog.add_dropoff(other)
        holder = await connect(parse_url(postgres.url(SHARED)))
        try:
            await holder.execute("BEGIN")
            await holder.execute("SELECT 1 FROM dropoffs WHERE id = $1 FOR UPDATE", dropoff.id)
            with caplog.at_level(logging.DEBUG):
                await _assert_unavailable(catalog.add_upload(make_upload(dropoff, 1), allow))
            assert await catalog.dropoff(dropoff.id) == dropoff
            await add_complete(catalog, other, 5)
        finally:
            await holder.close()
        await _answers_again(catalog, dropoff)
    assert "55P03" in caplog.text
    assert "secret" not in caplog.text
    assert dropoff.id not in caplog.text


@async_test
async def test_dropoff_locked_by_a_stranger_holds_up_no_other(postgres: PostgresServer, postgres_url: str) -> None:
    """Only operations on that drop-off wait for its row, and go on when it is let go."""
    locked, other = make_dropoff(), make_dropoff()
    async with open_catalog(postgres_url) as catalog:
        for dropoff in (locked, other):
            await catalog.add_dropoff(dropoff)
        stranger = await connect(parse_url(postgres.url(SHARED)))
        try:
            await stranger.execute("BEGIN")
            await stranger.execute("SELECT 1 FROM dropoffs WHERE id = $1 FOR UPDATE", locked.id)
            waiting = asyncio.ensure_future(catalog.add_upload(make_upload(locked, 1), allow))
            await asyncio.sleep(0.1)
            for _ in range(5):
                await add_complete(catalog, other, 5)
            assert not waiting.done()
        finally:
            await stranger.close()
        await waiting
        await _answers_again(catalog, locked)


def test_full_disk_of_the_database_is_told_as_what_it_is() -> None:
    """As of a database in a file: the client hears 507, and comes again later."""
    refusal = engine.unavailable(asyncpg.DiskFullError("could not extend file"))
    assert isinstance(refusal, CatalogFullError)
    assert (refusal.status_hint, refusal.code) == (507, "ERR_STORAGE_FULL")


@async_test
async def test_transaction_undone_by_a_deadlock_is_repeated(postgres: PostgresServer, postgres_url: str) -> None:
    """A stranger's locks and ours in a circle: the database undoes one, and our change gets through."""
    first, second = make_dropoff(), make_dropoff()
    stranger = await connect(parse_url(postgres.url(SHARED)))
    attempts: list[int] = []
    blocked: asyncio.Future[asyncio.Task[str]] = asyncio.get_running_loop().create_future()
    lock = "SELECT 1 FROM dropoffs WHERE id = '{}' FOR UPDATE"

    async def block() -> None:
        await stranger.execute("BEGIN")
        # The one who has waited longest finds the circle, so it has to be us who closes it.
        await stranger.execute("SET LOCAL deadlock_timeout = '60s'")
        await stranger.execute(lock.format(second.id))
        blocked.set_result(asyncio.ensure_future(stranger.execute(lock.format(first.id))))
        await asyncio.sleep(0.1)

    def change(transaction: Transaction) -> None:
        attempts.append(1)
        transaction.run(SET_CLOSED, drop_id=first.id, now_closed=1, now_ended=0)
        if not blocked.done():
            await_(block())
        transaction.run(SET_CLOSED, drop_id=second.id, now_closed=1, now_ended=0)

    try:
        async with open_engine(postgres_url) as opened:
            catalog = SqlCatalog(opened)
            await catalog.add_dropoff(first)
            await catalog.add_dropoff(second)
            running = asyncio.ensure_future(opened.write(change))
            await (await blocked)
            await stranger.execute("ROLLBACK")
            await running
            assert [one.closed for one in await catalog.dropoffs()] == [True, True]
    finally:
        await stranger.close()
    assert len(attempts) > 1


# ---- tables and roles -----------------------------------------------------------------------------------------


_REVISIONS = [f"{number:04}" for number in range(1, int(REVISION) + 1)]


def _open(url: str) -> None:
    async def attempt() -> None:
        async with open_catalog(url):
            pass

    asyncio.run(attempt())


def test_migrate_from_several_processes_at_once_applies_once(postgres: PostgresServer, empty_database: str) -> None:
    """One does it, the other waits and finds it done."""
    program = "import sys; from storage.catalog import migrate; print(migrate(sys.argv[1]))"
    command = [sys.executable, "-c", program, postgres.url(empty_database)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    said = sorted(process.communicate()[0].decode().strip() for process in processes)
    assert said == [str(_REVISIONS), "[]"]


def test_migrate_that_fails_halfway_leaves_nothing(postgres: PostgresServer, empty_database: str) -> None:
    """A table in the way of the third statement undoes the first two."""
    postgres.sql("CREATE TABLE catalog_state (strange INTEGER)", database=empty_database)
    with pytest.raises(CatalogError, match="cannot migrate"):
        migrate(postgres.url(empty_database))
    names = postgres.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database=empty_database)
    assert names == ["catalog_state"]


def test_open_says_what_to_do_about_other_tables(postgres: PostgresServer, empty_database: str) -> None:
    """Without tables, with older and with newer ones; a newer database is not migrated either."""
    url = postgres.url(empty_database)
    assert migrate(url, dry_run=True) == _REVISIONS  # which is undone
    with pytest.raises(CatalogError, match="run `dropoff-tus migrate`"):
        _open(url)
    assert migrate(url) == _REVISIONS
    for revision, why in (("0000", "run `dropoff-tus migrate`"), ("9999", "newer version")):
        postgres.sql(f"UPDATE alembic_version SET version_num = '{revision}'", database=empty_database)
        with pytest.raises(CatalogError, match=why):
            _open(url)
    with pytest.raises(CatalogError, match="newer version"):
        migrate(url)


def test_role_without_the_right_to_make_tables_is_told_so(postgres: PostgresServer, empty_database: str) -> None:
    """It can migrate nothing, and need not when there is nothing to do."""
    with pytest.raises(CatalogError, match="migrate as the owner"):
        migrate(postgres.url(empty_database, RUNTIME))
    assert migrate(postgres.url(SHARED, RUNTIME)) == []


def test_password_works_and_a_wrong_one_is_never_repeated(
    postgres: PostgresServer, password_role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an error, nor what it is chained to, nor a log holds a password."""
    right = f"postgresql://{password_role}:hunter2@/with_password?host={postgres.folder}"
    assert migrate(right) == _REVISIONS
    _open(right)
    wrong = right.replace("hunter2", "swordfish%2F%23")
    with caplog.at_level(logging.DEBUG):
        for attempt in (migrate, _open):
            with pytest.raises(CatalogError, match="refuses the user or the password") as caught:
                attempt(wrong)
            error: BaseException | None = caught.value
            while error is not None:
                assert "swordfish" not in f"{error} {error!r}"
                error = error.__cause__ or error.__context__
    assert "swordfish" not in caplog.text
    assert "swordfish" not in repr(parse_url(wrong))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"/shared": "/absent"}, "no database of this name"),
        ({"host=/": "host=/nowhere/"}, "no socket at this place"),
        ({f"{OWNER}@": "nobody_there@"}, "refuses the user"),
    ],
    ids=["database", "socket", "user"],
)
def test_open_of_what_is_not_there_says_what(postgres: PostgresServer, change: dict[str, str], why: str) -> None:
    """Each mistake in a URL that only the database can find gives a sentence."""
    url = postgres.url(SHARED)
    for old, new in change.items():
        url = url.replace(old, new)
    with pytest.raises(CatalogError, match=why):
        _open(url)


@async_test
async def test_durability_decides_whether_a_commit_is_synced(postgres_url: str) -> None:
    """`durable=False` gives up the newest commits at a power cut, and only then."""
    for durable, wanted in ((True, "on"), (False, "off")):

        def ask(transaction: Transaction) -> str:
            connection = transaction._connection  # type: ignore[attr-defined]  # noqa: SLF001 - a setting has no port
            said: str = await_(connection.fetchval("SHOW synchronous_commit"))
            return said

        async with open_engine(postgres_url, durable=durable) as opened:
            assert await opened.write(ask) == wanted


@async_test
async def test_completed_times_and_sizes_come_back_as_whole_numbers(postgres_url: str) -> None:
    """Sums are numbers as the port has them, not the driver's decimals."""
    dropoff = make_dropoff()
    async with open_catalog(postgres_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await catalog.add_upload(make_upload(dropoff, 2**62), allow)
        row = await add_complete(catalog, dropoff, 7)
        usage = await catalog.usage(dropoff.id)
        found = await catalog.upload(row.id)
    assert type(usage.bytes) is int
    assert found is not None
    assert found.completed_at == NOW
