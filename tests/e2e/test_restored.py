"""A server on restored folders: it says what is missing, tells no old news, and takes back what its catalog lacks."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.hook_server import HookServer
from tests.support.server_process import Drop, ServerProcess, token_of, upload_id_of
from tests.support.tus_raw import ConnectionCutError, TusSite

pytestmark = pytest.mark.timeout(180)
_CONTENT = b"hello" * 1000


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that uploads go on at while it is copied."""
    with ServerProcess(tmp_path_factory.mktemp("live")) as server:
        yield server


def _beside(server: ServerProcess, folder: Path) -> ServerProcess:
    """Return a server in another folder, which has the secret keys from elsewhere; nothing runs yet."""
    restored = server.beside(folder)
    restored.folder, restored.data = folder, folder / "data"
    shutil.copytree(server.data / "secrets", restored.data / "secrets", dirs_exist_ok=True)
    shutil.rmtree(restored.data / "secrets" / "ingest")
    shutil.copy(server.config, restored.data)
    restored.config = restored.data / "config.toml"
    return restored


def _site_at(restored: ServerProcess, server: ServerProcess, drop: Drop) -> TusSite:
    return TusSite(drop.upload_url.replace(server.url, restored.url), drop.code)


def _readiness(server: ServerProcess, until: Callable[[str], bool]) -> str:
    """Return what `/readyz` says once that is so: the server looks for losses after it has begun to accept."""
    deadline = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 1}/readyz") as answer:
            said: str = answer.read().decode()
        if until(said) or time.monotonic() > deadline:
            return said
        time.sleep(0.05)


def _problems(server: ServerProcess) -> dict[str, str]:
    found = json.loads(server.cli("store", "check", "--json", check=False).stdout)["findings"]
    return {finding["upload_id"]: finding["problem"] for finding in found}


def _tree(name: str) -> Callable[[Path, Path], None]:
    def copy(source: Path, target: Path) -> None:
        shutil.copytree(source / name, target / name)

    return copy


def _catalog(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source / "catalog.sqlite3")) as database,
        contextlib.closing(sqlite3.connect(target / "catalog.sqlite3")) as copy,
    ):
        database.backup(copy)


def _catalog_as_a_file(source: Path, target: Path) -> None:
    shutil.copy(source / "catalog.sqlite3", target)


@pytest.mark.parametrize(
    ("steps", "what", "why"),
    [
        pytest.param(
            (_tree("store/uploads"), _tree("keys"), None, _catalog),
            "1 finished uploads of the catalog are not in the store",
            "the store lacks it",
            id="catalog-last",
        ),
        pytest.param(
            (_tree("keys"), None, _tree("store/uploads"), _catalog),
            "1 finished uploads of the catalog are not in the store",
            "its envelope is missing",
            id="keys-first",
        ),
        pytest.param(
            (None, _catalog_as_a_file, _tree("store/uploads"), _tree("keys")),
            "uploads of the store are not in the catalog",
            "the catalog does not know it",
            id="file-of-the-catalog",
        ),
    ],
)
def test_copy_in_a_wrong_order_is_told_by_the_restored_server(
    live: ServerProcess, tmp_path: Path, steps: tuple[Callable[[Path, Path], None] | None, ...], what: str, why: str
) -> None:
    """An upload that came between two steps (None) is named by `store check`, and the server says so by itself."""
    copy = tmp_path / "data"
    copy.mkdir()
    between = ""
    for step in steps:
        if step is None:
            between = live.drop.site.upload(_CONTENT)
        else:
            step(live.data, copy)
    restored = _beside(live, tmp_path)
    assert why in _problems(restored)[upload_id_of(between)]
    with restored:
        assert what in _readiness(restored, lambda said: what in said)
        assert what in restored.logged()


def test_catalog_that_was_lost_is_made_again_from_the_store(live: ServerProcess, tmp_path: Path) -> None:
    """Finished, joined, sealed and half uploads are taken back, with their drop-offs, and clients go on."""
    drops = [live.create_drop(), live.create_drop("--sealed", name="sealed")]
    urls = [drop.site.upload(_CONTENT) for drop in drops]
    parts = [drops[0].site.create(5, {"Upload-Concat": "partial"}) for _ in range(2)]
    for part in parts:
        assert drops[0].site.patch(part, 0, b"parts").status == 204
    joined = drops[0].site.post({"Upload-Concat": "final;" + " ".join(parts)}).needed("Location")
    half = drops[0].site.create(10)
    assert drops[0].site.patch(half, 0, b"hello").status == 204
    (tmp_path / "data").mkdir()
    for copy in (_tree("store/uploads"), _tree("keys")):
        copy(live.data, tmp_path / "data")
    restored = _beside(live, tmp_path)
    restored.cli("migrate")
    planned = restored.cli_json("store", "adopt", "--dry-run")
    done = restored.cli_json("store", "adopt", "--restored")
    assert (planned["held_events"], done["held_events"]) == (None, 0)
    assert [one["id"] for one in planned["adopted"]] == [one["id"] for one in done["adopted"]]
    assert {drop.id for drop in drops} <= set(planned["drops"]) == set(done["drops"])
    states = {one["id"]: one["state"] for one in done["adopted"]}
    finished = {upload_id_of(url) for url in (*urls, *parts, joined)}
    assert {states[one] for one in finished} == {"complete"}
    assert states[upload_id_of(half)] == "open"
    before, after = ({row["id"]: row["completed_at"] for row in one.uploads(partials=True)} for one in (live, restored))
    # The catalog's time is a little later than that of the final record.
    assert {_seconds_between(before[one], after[one]) < 30 for one in finished} == {True}
    assert all(restored.cli_json("drop", "show", drop.id)["state"] == "closed" for drop in drops)
    assert not [problem for one, problem in _problems(restored).items() if one in states]
    assert restored.cli_json("store", "adopt")["adopted"] == []
    with restored:
        site = _site_at(restored, live, drops[0])
        url = half.replace(live.url, restored.url)
        assert site.post({"Upload-Length": "5"}).status == 403
        assert site.head(url).offset == 5
        assert site.patch(url, 5, b"world").status == 204
        assert _readiness(restored, lambda said: "not in" not in said).count("not in") == 0
    identity = ("--identity", str(live.data / "root-identity.txt"))
    assert {restored.export(url) for url in (urls[0], joined, half)} == {_CONTENT, b"partsparts", b"helloworld"}
    assert restored.cli("upload", "export", urls[1], *identity, "--output", "-").stdout == _CONTENT
    shown = restored.cli_json("drop", "show", drops[0].id)
    assert (shown["uploads"], shown["bytes"]) == (3, len(_CONTENT) + 10 + 10)


def _seconds_between(first: str | None, second: str | None) -> float:
    times = [datetime.fromisoformat(text or "") for text in (first, second)]
    return abs((times[1] - times[0]).total_seconds())


@pytest.fixture
def hooks() -> Iterator[HookServer]:
    """Receive webhooks; at first they are refused, so that they wait."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    with HookServer(refuse) as receiver:
        yield receiver


def _told(hooks: HookServer) -> set[str]:
    return {received.json["Event"]["Upload"]["ID"] for received in list(hooks.received)}


def test_restored_server_tells_no_old_news_and_how_to_read_what_it_cannot_open(
    hooks: HookServer, tmp_path: Path
) -> None:
    """Events that waited are kept back until they are resent, also of what the start finishes; new ones are told."""
    secret = tmp_path / "secret"
    secret.write_text("a secret of the webhook, long enough")
    secret.chmod(0o600)
    settings = {
        "WEBHOOK__URL": hooks.url,
        "WEBHOOK__SECRET": str(secret),
        "WEBHOOK__EVENTS": "upload.complete",
        "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
    }
    (tmp_path / "old").mkdir()
    old = ServerProcess(tmp_path / "old", environment=settings)
    sealed_drop = old.create_drop("--sealed", name="sealed")
    old.start(failpoint="before-receipt:2")
    waiting = old.drop.site.upload(_CONTENT)
    managed = old.drop.site.create(len(_CONTENT))
    with pytest.raises(ConnectionCutError):
        old.drop.site.patch(managed, 0, _CONTENT)
    old.kill9()
    old.start(failpoint="after-log-sync:2")
    sealed = sealed_drop.site.post({"Upload-Length": None, "Upload-Defer-Length": "1"}).needed("Location")
    assert sealed_drop.site.patch(sealed, 0, _CONTENT).status == 204
    with pytest.raises(ConnectionCutError):
        sealed_drop.site.patch(sealed, len(_CONTENT), b"", {"Upload-Length": str(len(_CONTENT))})
    old.kill9()
    old.cli("backup", str(tmp_path / "new" / "data"))
    restored = _beside(old, tmp_path / "new")
    hooks.answer = None
    hooks.received.clear()
    with restored:
        assert restored.row(managed)["state"] == "complete"
        fresh = _site_at(restored, old, old.drop).upload(b"fresh")
        deadline = time.monotonic() + 30
        while not hooks.received:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert _told(hooks) == {upload_id_of(fresh)}
        held = restored.cli_json("outbox", "list", "--dead")
        assert {one["upload_id"] for one in held} == {upload_id_of(waiting), upload_id_of(managed)}
        restored.cli("outbox", "resend", "--all-dead")
        while len(hooks.received) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert _told(hooks) == {upload_id_of(url) for url in (fresh, waiting, managed)}
        assert not (restored.data / "keys" / "backup.json").exists()
        acts = [row["act"] for row in restored.cli_json("audit", "export")["rows"]]
        assert acts.count("store.restore") == 1
        _assert_readable_by_root(restored, old, sealed)


def _assert_readable_by_root(restored: ServerProcess, old: ServerProcess, url: str) -> None:
    upload, identity = upload_id_of(url), str(old.data / "root-identity.txt")
    assert f"`dropoff-tus upload export {upload} --identity FILE` reads it" in _problems(restored)[upload]
    refused = restored.cli("upload", "export", token_of(url), "--output", "-", check=False)
    assert (refused.returncode, b"--identity FILE reads it" in refused.stderr) == (1, True)
    read = ("upload", "export", upload, "--identity", identity, "--output", "-")
    public = restored.cli("keys", "show").stdout.decode().strip()
    for options in ((), ("--store", str(restored.data), "--key", public)):
        done: subprocess.CompletedProcess[bytes] = restored.cli(*read, *options)
        assert done.stdout == _CONTENT
        assert b"there is no receipt" in done.stderr
