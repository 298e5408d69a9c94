"""Two whole servers on one store and one catalog: they take turns, and each thing is done once."""

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.answers import assert_refused
from tests.support.hook_server import HookServer
from tests.support.postgres import PostgresServer
from tests.support.server_process import Drop, ServerProcess, program, token_of, upload_id_of
from tests.support.tus_raw import ConnectionCutError, Response, TusSite

pytestmark = pytest.mark.timeout(180)
_ROOM, _CROWD = 20, 60
_IDLE_SECONDS = 2


@dataclass
class _Pair:
    """Two servers and the receiver of their events; and the results of their first starts."""

    first: ServerProcess
    second: ServerProcess
    hooks: HookServer
    refusals: list[tuple[int, str]] = field(default_factory=list)
    applied: list[int] = field(default_factory=list)

    @property
    def servers(self) -> tuple[ServerProcess, ServerProcess]:
        return self.first, self.second

    def sites(self, drop: Drop) -> tuple[TusSite, TusSite]:
        """Return a drop-off as each of them serves it."""
        return drop.site, TusSite(drop.upload_url.replace(self.first.url, self.second.url), drop.code)

    def start(self) -> None:
        """Start both at the same moment."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_ready(timeout_seconds=90)

    def rows(self, drop: Drop) -> list[dict[str, Any]]:
        """Return what the audit has of a drop-off."""
        rows: list[dict[str, Any]] = self.first.cli_json("audit", "export")["rows"]
        return [row for row in rows if row.get("drop") == drop.id]


@pytest.fixture(scope="module", params=[pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Pair]:
    """Start two servers at the same moment on a store and a catalog that nobody has used: at first without tables."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    with ExitStack() as stack:
        hooks = stack.enter_context(HookServer())
        options: tuple[str, ...] = ()
        postgres = stack.enter_context(PostgresServer()) if request.param == "postgresql" else None
        if postgres is not None:
            postgres.sql("CREATE DATABASE two")
            options = ("--catalog-url", postgres.url("two"))
        secret = folders[0] / "secret"
        secret.write_text("a secret of the webhook, long enough")
        secret.chmod(0o600)
        settings = {
            "WEBHOOK__URL": hooks.url,
            "WEBHOOK__SECRET": str(secret),
            "WEBHOOK__EVENTS": "upload.complete,upload.expired",
            "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
            "TUS__BODY_IDLE_TIMEOUT": f"{_IDLE_SECONDS}s",
            "LIMITS__CONNECTIONS_PER_ADDRESS": str(2 * _CROWD),
        }
        first = ServerProcess(folders[0], environment=settings, init_options=options)
        if postgres is not None:
            postgres.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database="two")
        for path in (*first.data.glob("catalog.sqlite3*"), *first.data.rglob("store-id")):
            path.unlink()
        made = _Pair(first, first.beside(folders[1]), hooks)
        for server in made.servers:
            stack.callback(server.close)
            server.launch()
        ends = [server.wait(timeout_seconds=90) for server in made.servers]
        made.refusals = [(end, server.log_text) for end, server in zip(ends, made.servers, strict=True)]
        command = [*program(), "migrate", "--config", str(first.config), "--json"]
        migrations = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        made.applied = [len(json.loads(migration.communicate()[0])["applied"]) for migration in migrations]
        made.start()
        yield made


@pytest.fixture(autouse=True)
def _running(pair: _Pair) -> None:
    """Start again what a test has stopped."""
    if not all(server.is_running for server in pair.servers):
        pair.start()


def test_first_start_of_two_at_once_makes_one_store(pair: _Pair) -> None:
    """Without tables each says what to run; of two that make them one does; both get ready and know one store."""
    assert [(end, "run `dropoff-tus migrate`" in said) for end, said in pair.refusals] == [(1, True)] * 2
    assert sorted(map(bool, pair.applied)) == [False, True]
    ids = {path.read_text() for path in pair.first.data.rglob("store-id")}
    assert len(ids) == 1
    assert all(server.is_running and "Traceback" not in server.logged() for server in pair.servers)


@pytest.mark.parametrize("mode", ["--managed", "--sealed"])
def test_upload_that_began_at_one_goes_on_at_the_other(pair: _Pair, mode: str) -> None:
    """To and fro; one answers the bytes that the other has committed, and both know when it is whole."""
    content = bytes(range(256)) * 40
    drop = pair.first.create_drop(mode)
    sites = pair.sites(drop)
    url = sites[0].post({"Upload-Length": str(len(content)), "Upload-Metadata": "filename YQ=="}).needed("Location")
    for turn, start in enumerate(range(0, len(content), 2560)):
        here, there = sites[turn % 2], sites[1 - turn % 2]
        assert there.head(url).offset == start
        assert here.patch(url, start, content[start : start + 2560]).status == 204
    answers = [site.head(url) for site in sites]
    assert [(answer.status, answer.offset) for answer in answers] == [(200, len(content))] * 2
    assert {answer.header("Upload-Metadata") for answer in answers} == {None if mode == "--sealed" else "filename YQ=="}
    identity = () if mode == "--managed" else ("--identity", str(pair.first.data / "root-identity.txt"))
    assert pair.first.cli("upload", "export", url, "--output", "-", *identity).stdout == content


def test_upload_whose_link_broke_at_one_goes_on_at_the_other(pair: _Pair) -> None:
    """The other waits until the first has given up and committed; then nothing is lost."""
    site, other = pair.sites(pair.first.create_drop())
    url = site.create(10)
    with site.connect() as dead:
        dead.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
        time.sleep(0.3)
        assert_refused(other.patch(url, 0, b"helloworld"), 409)
        assert other.head(url).offset == 5
        assert other.patch(url, 5, b"world").status == 204
    assert pair.first.export(url) == b"helloworld"


def _crowd(pair: _Pair, drop: Drop, headers: dict[str, str | None]) -> list[Response]:
    """Send a creation many times, half to each, before reading any answer."""
    sites = pair.sites(drop)
    connections = [sites[number % 2].connect() for number in range(_CROWD)]
    try:
        for number, connection in enumerate(connections):
            site = sites[number % 2]
            connection.send(site.message("POST", site.upload_url, site.post_headers(headers)))
        return [connection.read_response() for connection in connections]
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("limit", ["uploads", "bytes"])
def test_quota_is_exact_across_both(pair: _Pair, limit: str) -> None:
    """A crowd at both: as many are let in as there is room for, and not one more."""
    option = ("--max-uploads", str(_ROOM)) if limit == "uploads" else ("--max-total-bytes", str(10 * _ROOM))
    drop = pair.first.create_drop(*option)
    answers = _crowd(pair, drop, {"Upload-Length": "10"})
    refusal = 403 if limit == "uploads" else 413
    assert Counter(answer.status for answer in answers) == {201: _ROOM, refusal: _CROWD - _ROOM}
    shown = pair.second.cli_json("drop", "show", drop.id)
    assert (shown["uploads"], shown["bytes"]) == (_ROOM, 10 * _ROOM)


def test_concatenation_asked_of_both_at_once_is_made_once(pair: _Pair) -> None:
    """Both answer the same upload, whole; its files are made by one and taken away by none."""
    drop = pair.first.create_drop()
    sites = pair.sites(drop)
    for _ in range(3):
        parts = [site.create(3, {"Upload-Concat": "partial"}) for site in sites]
        for part, content in zip(parts, (b"abc", b"def"), strict=True):
            assert drop.site.patch(part, 0, content).status == 204
        # Parts are named as one server knows them; only their paths count.
        headers = {"Upload-Concat": "final;" + " ".join(f"/files/{part.partition('/files/')[2]}" for part in parts)}
        barrier = threading.Barrier(2)

        def ask(site: TusSite, headers: dict[str, str] = headers, barrier: threading.Barrier = barrier) -> Response:
            barrier.wait()
            return site.post(headers)

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(ask, sites))
        assert [answer.status for answer in answers] == [201, 201]
        (token,) = {token_of(answer.needed("Location")) for answer in answers}
        assert pair.first.export(token) == b"abcdef"
    acts = Counter(row["act"] for row in pair.rows(drop) if row.get("result") == "final")
    assert acts == {"upload.create": 3, "upload.complete": 3}


def _told(pair: _Pair, upload: str) -> int:
    """Return how many events of an upload the site got since the list was emptied."""
    return sum(upload.encode() in received.body for received in list(pair.hooks.received))


def test_what_the_background_does_is_done_once(pair: _Pair) -> None:
    """Both start at once and find expired and unfinished uploads and waiting events: each is handled once."""
    drop = pair.first.create_drop()
    expired = {upload_id_of(drop.site.create(5)) for _ in range(8)}
    whole = drop.site.create(5)
    for server in pair.servers:
        server.stop()
    pair.first.start(failpoint="before-receipt:1")
    with pytest.raises(ConnectionCutError):
        drop.site.patch(whole, 0, b"hello")
    pair.first.kill9()
    pair.hooks.received.clear()
    environments = [server.environment for server in pair.servers]
    time.sleep(1)
    awaited = {*expired, upload_id_of(whole)}
    try:
        for server in pair.servers:
            server.environment = {**server.environment, "TUS__EXPIRE_AFTER": "1s"}
        pair.start()
        deadline = time.monotonic() + 30
        while not all(_told(pair, upload) for upload in awaited):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)  # whoever would tell it once more does so within a second
    finally:
        for server, environment in zip(pair.servers, environments, strict=True):
            server.close()
            server.environment = environment
    # The commands below need no server.
    acts = Counter((row["act"], row["upload"]) for row in pair.rows(drop) if row["act"] != "drop.create")
    assert set(acts.values()) == {1}
    assert {upload for act, upload in acts if act == "upload.expire"} == expired
    assert acts["upload.complete", upload_id_of(whole)] == 1
    assert {_told(pair, upload) for upload in awaited} == {1}
    assert pair.first.export(whole) == b"hello"
    assert pair.first.cli_json("store", "check")["findings"] == []
    assert pair.first.cli_json("audit", "verify")["whole"] is True
