"""`store check` and `store sweep` on a real store, damaged and orphaned in every way."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dropoff_tus import ids
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Metadata, Role
from dropoff_tus.ports.store import NewUpload
from dropoff_tus.states import UploadState
from server.services import Services, open_services
from server.settings.config import load_config
from tests.support.memory_body import MemoryBody
from tests.support.server_process import ServerProcess, run_warm, upload_id_of
from tests.support.tus_raw import metadata

_OLD = datetime.now(UTC) - timedelta(days=2)


@pytest.fixture
def stopped(tmp_path: Path) -> ServerProcess:
    """Return a server's folder, with nothing running."""
    return ServerProcess(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server whose store the tests of this module damage."""
    with ServerProcess(tmp_path_factory.mktemp("store")) as server:
        yield server


def _folder(server: ServerProcess, upload_id: str) -> Path:
    return server.data / "store" / "uploads" / upload_id[:2] / upload_id


def _keys(server: ServerProcess, upload_id: str) -> list[Path]:
    return sorted((server.data / "keys" / upload_id[:2]).glob(f"{upload_id}.*"))


def _sql(server: ServerProcess, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3", isolation_level=None)) as database:
        database.execute(statement, values)


def _flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def _problems(server: ServerProcess, *options: str) -> dict[str, str]:
    """Return what `store check` finds, by upload, and hold the exit code to it."""
    done = server.cli("store", "check", *options, "--json", check=False)
    assert b"Traceback" not in done.stderr, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == (1 if findings else 0)
    return {finding["upload_id"]: finding["problem"] for finding in findings}


# ---- check ------------------------------------------------------------------------------------------------------


def test_check_of_a_sound_store_finds_nothing_and_needs_no_secret(running: ServerProcess, tmp_path: Path) -> None:
    """Quick, full and decrypting; with nothing of the keys but the public one, one upload or all."""
    url = running.drop.site.upload(os.urandom(200_000), {"Upload-Metadata": metadata(filename="x")})
    sealed = running.create_drop("--sealed", name="sealed").site.upload(b"hello" * 1000)
    public = running.cli("keys", "show").stdout.decode().strip()
    identity = str(running.data / "root-identity.txt")
    for options in ((), ("--quick",), ("--identity", identity), (url,), (upload_id_of(sealed), "--identity", identity)):
        assert _problems(running, *options) == {}
    hidden = tmp_path / "hidden"
    shutil.move(running.data / "secrets", hidden)
    try:
        assert _problems(running, "--key", public) == {}
        assert running.cli("store", "check", check=False).returncode == 1
    finally:
        shutil.move(hidden, running.data / "secrets")


def test_check_of_a_copy_needs_neither_catalog_nor_secrets(running: ServerProcess, tmp_path: Path) -> None:
    """With only the public key, at a backup: sound files pass, rotted ones are found, another volume is refused."""
    upload_id = upload_id_of(running.drop.site.upload(b"hello" * 1000))
    public = running.cli("keys", "show").stdout.decode().strip()
    copy = tmp_path / "copy"
    for name in ("store", "keys"):
        shutil.copytree(running.data / name, copy / name, ignore=shutil.ignore_patterns("servers"))

    def check() -> tuple[int, dict[str, str], bytes]:
        options = ("--store", str(copy), "--key", public, "--json")
        done = run_warm("store", "check", *options, folder=tmp_path)
        findings = json.loads(done.stdout)["findings"] if done.stdout else []
        return done.returncode, {item["upload_id"]: item["problem"] for item in findings}, done.stderr

    assert check()[:2] == (0, {})
    data = copy / "store" / "uploads" / upload_id[:2] / upload_id / "data"
    _flip(data, 300)
    assert check()[:2] == (1, {upload_id: "segment 0 is not the committed one"})
    (copy / "keys" / "store-id").write_text("0" * 32 + "\n")
    status, _, said = check()
    assert (status, b"is of another store" in said) == (1, True)
    assert not (copy / "catalog.sqlite3").exists()


def test_check_finds_a_flipped_byte_and_quick_does_not_look(running: ServerProcess) -> None:
    """Every byte of ciphertext is read, of a sealed upload too; --quick reads only logs, and finds a flip there."""
    for drop in (running.drop, running.create_drop("--sealed", name="s")):
        upload_id = upload_id_of(drop.site.upload(os.urandom(150_000)))
        data, log = _folder(running, upload_id) / "data", _folder(running, upload_id) / "log"
        _flip(data, 100_000)
        assert _problems(running, upload_id) == {upload_id: "segment 0 is not the committed one"}
        assert _problems(running, upload_id, "--quick") == {}
        _flip(data, 100_000)
        _flip(log, 200)
        assert "does not verify" in _problems(running, upload_id, "--quick")[upload_id]
        _flip(log, 200)
        assert _problems(running, upload_id) == {}


def test_check_with_an_identity_finds_what_no_one_can_open(running: ServerProcess, tmp_path: Path) -> None:
    """Whether it opens; that the envelope is another than was written is seen without one."""
    upload_id = upload_id_of(running.drop.site.upload(b"hello" * 1000))
    identity = running.data / "root-identity.txt"
    other = tmp_path / "other.txt"
    run_warm("keys", "generate", "--output", str(other), folder=tmp_path)
    found = _problems(running, upload_id, "--identity", str(other))
    assert found == {upload_id: "none of the identities opens it"}
    envelope = next(path for path in _keys(running, upload_id) if path.name == f"{upload_id}.age")
    _flip(envelope, envelope.stat().st_size - 1)
    for options in ((), ("--quick",), ("--identity", str(identity))):
        assert "envelope" in _problems(running, upload_id, *options)[upload_id]
    _flip(envelope, envelope.stat().st_size - 1)
    envelope.rename(envelope.with_suffix(".away"))
    for options in ((), ("--identity", str(identity))):
        assert "envelope is missing" in _problems(running, upload_id, *options)[upload_id]
    envelope.with_suffix(".away").rename(envelope)


def test_check_finds_what_became_of_the_servers_envelopes_and_of_receipts(running: ServerProcess) -> None:
    """Swapped, full of garbage or gone: of managed uploads, of a sealed one in progress, and of what is finished."""
    done = running.drop.site.upload(b"done")
    site = running.create_drop("--sealed", name="going").site
    going = site.create(10)
    assert site.patch(going, 0, b"12345").status == 204
    done_id, going_id = upload_id_of(done), upload_id_of(going)
    receipt = next(path for path in _keys(running, done_id) if path.name.endswith(".receipt"))
    own = next(path for path in _keys(running, done_id) if path.name.endswith(".age"))
    ingest = running.data / "secrets" / "ingest"
    sealed = ingest / f"{going_id}.age"
    assert _problems(running, "--quick") == {}
    for path, upload_id in ((receipt, done_id), (own, done_id), (sealed, going_id)):
        before = path.read_bytes()
        path.write_bytes(os.urandom(len(before)))
        assert set(_problems(running, "--quick")) == {upload_id}, path.name
        path.write_bytes(before)
    aside = sealed.rename(running.folder / "aside")
    assert "the server's envelope is missing" in _problems(running, "--quick")[going_id]
    aside.rename(sealed)
    assert _problems(running, "--quick") == {}


def test_check_of_a_concatenation_reads_its_parts(running: ServerProcess) -> None:
    """Its bytes are theirs."""
    site = running.drop.site
    parts = [site.upload(word, {"Upload-Concat": "partial"}) for word in (b"one", b"two")]
    final = site.post({"Upload-Concat": "final;" + " ".join(parts)}).needed("Location")
    assert _problems(running, final) == {}
    data = _folder(running, upload_id_of(parts[1])) / "data"
    _flip(data, data.stat().st_size - 1)
    assert _problems(running, final) == {upload_id_of(parts[1]): "segment 0 is not the committed one"}
    _flip(data, data.stat().st_size - 1)


def test_upload_whose_data_is_gone_is_damaged_not_unknown(running: ServerProcess, tmp_path: Path) -> None:
    """Nobody has to begin again, or reads that an export could not be written; after its return it goes on."""
    url, finished = running.drop.site.create(10), running.drop.site.upload(b"hello")
    assert running.drop.site.patch(url, 0, b"hello").status == 204
    for one in (url, finished):
        _folder(running, upload_id_of(one)).joinpath("data").rename(tmp_path / upload_id_of(one))
    try:
        assert running.drop.site.patch(url, 5, b"world").error_code == "ERR_UPLOAD_DAMAGED"
        done = running.cli("upload", "export", finished, "--output", str(tmp_path / "out"), check=False)
        assert b"its data is gone" in done.stderr
        assert _problems(running) == dict.fromkeys(map(upload_id_of, (url, finished)), "its data is gone")
    finally:
        for one in (url, finished):
            (tmp_path / upload_id_of(one)).rename(_folder(running, upload_id_of(one)) / "data")
    assert running.drop.site.patch(url, 5, b"world").status == 204


def test_sealed_upload_whose_keys_a_backup_put_back_is_sealed_again(running: ServerProcess) -> None:
    """Its own envelope to the server and those of its parts: found, and swept; root and receipt stay."""
    drop = running.create_drop("--sealed", name="put back")
    parts = [drop.site.upload(word, {"Upload-Concat": "partial"}) for word in (b"one", b"two")]
    part = upload_id_of(parts[0])
    envelope = running.data / "secrets" / "ingest" / f"{part}.age"
    backup = envelope.read_bytes()
    final = drop.site.post({"Upload-Concat": "final;" + " ".join(parts)}).needed("Location")
    assert not envelope.exists()
    assert _problems(running, final) == {}
    envelope.write_bytes(backup)
    assert "the server's envelope is back" in _problems(running, final)[upload_id_of(final)]
    assert running.cli_json("store", "sweep", "--dry-run")["leftovers"] == [upload_id_of(final)]
    assert envelope.exists()
    assert running.cli_json("store", "sweep")["leftovers"] == [upload_id_of(final)]
    assert not envelope.exists()
    assert _problems(running, final, "--identity", str(running.data / "root-identity.txt")) == {}


def test_check_tells_where_store_and_catalog_disagree(running: ServerProcess, tmp_path: Path) -> None:
    """Complete here and missing there, in both directions; and a receipt that is gone."""
    lost, unknown, begun, unpaid = (upload_id_of(running.drop.site.upload(b"hello")) for _ in range(4))
    open_url = running.drop.site.create(10)
    running.drop.site.patch(open_url, 0, b"hello")
    begun = upload_id_of(open_url)
    assert _problems(running) == {}
    shutil.move(_folder(running, lost), tmp_path / lost)
    _sql(running, "DELETE FROM uploads WHERE id IN (?, ?)", unknown, begun)
    receipt = next(path for path in _keys(running, unpaid) if path.name == f"{unpaid}.receipt")
    receipt.rename(tmp_path / "receipt")
    found = _problems(running, "--quick")
    assert found.keys() == {lost, unknown, begun, unpaid}
    assert "the store lacks it" in found[lost]
    assert f"the catalog does not know it; `dropoff-tus upload export {unknown}` reads it" in found[unknown]
    assert "5 bytes" in found[begun]
    assert found[unpaid] == "its receipt is missing"
    assert "the store lacks it" in _problems(running, lost)[lost]
    assert running.export(unknown) == b"hello"
    shutil.move(tmp_path / lost, _folder(running, lost))
    (tmp_path / "receipt").rename(receipt)


def test_check_beside_a_busy_server_finds_nothing(running: ServerProcess) -> None:
    """Files that are being written are no finding."""
    site = running.drop.site
    for _ in range(3):
        url = site.create(3_000_000)
        with site.connect() as connection:
            headers = site.patch_headers(0, {"Content-Length": "3000000"})
            connection.send(site.message("PATCH", url, headers, bytes(2_000_000)))
            assert upload_id_of(url) not in _problems(running)


# ---- sweep ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Made:
    """Uploads of two days ago that the catalog does not know, by what they are."""

    empty: str
    young: str
    finished_empty: str
    finished: str
    begun: str
    part: str
    final: str
    unreadable: str


async def _create(
    services: Services,
    drop_id: str,
    length: int | None,
    *,
    role: Role = Role.REGULAR,
    at: datetime = _OLD,
    parts: tuple[str, ...] = (),
) -> str:
    token = os.urandom(16).hex()
    dropoff = await services.catalog.dropoff(drop_id)
    assert dropoff is not None
    new = NewUpload(
        id=ids.upload_id(token),
        token=token,
        drop=dropoff,
        role=role,
        metadata=Metadata((("filename", b"x"),)),
        created_at=at,
        length=length,
        parts=parts,
    )
    return (await services.store.create(new)).id


async def _finish(services: Services, upload_id: str) -> None:
    async with services.store.lease(upload_id) as lease:
        digests = await lease.digests([], read_back_bytes=1 << 20)
        await lease.complete(digests or {}, _OLD)


async def _append(services: Services, upload_id: str, content: bytes) -> None:
    async with services.store.lease(upload_id, offset=0) as lease:
        await lease.append(MemoryBody(content), AppendPlan(0, len(content), len(content)), idle_timeout_seconds=5)


def _make(server: ServerProcess) -> _Made:
    async def work() -> _Made:
        async with open_services(load_config(server.config, {})) as services:
            drop = server.drop.id
            made = {name: await _create(services, drop, 5) for name in ("empty", "finished", "begun", "unreadable")}
            made["young"] = await _create(services, drop, 5, at=datetime.now(UTC))
            made["finished_empty"] = await _create(services, drop, 0)
            await _finish(services, made["finished_empty"])
            for name, content in (("finished", b"hello"), ("begun", b"he"), ("unreadable", b"hello")):
                await _append(services, made[name], content)
            await _finish(services, made["finished"])
            made["part"] = await _create(services, drop, 5, role=Role.PARTIAL)
            await _append(services, made["part"], b"hello")
            await _finish(services, made["part"])
            made["final"] = await _create(services, drop, None, role=Role.FINAL, parts=(made["part"],))
            await _finish(services, made["final"])
            return _Made(**made)

    made = asyncio.run(work())
    _flip(_folder(server, made.unreadable) / "log", 100)
    return made


def _files(server: ServerProcess) -> set[Path]:
    return {path for root in ("store", "keys") for path in (server.data / root).rglob("*") if path.is_file()}


def test_sweep_removes_old_empty_orphans_and_nothing_that_holds_anything(stopped: ServerProcess) -> None:
    """Finished (an empty one and a concatenation too), begun, unreadable and young uploads stay, file by file."""
    made = _make(stopped)
    before = _files(stopped)
    planned = stopped.cli_json("store", "sweep", "--dry-run")
    assert (planned["orphans"], planned["expired"], planned["leftovers"]) == ([made.empty], [], [])
    reasons = {item["id"]: item["reason"] for item in planned["kept"]}
    assert reasons.keys() == {upload_id for name, upload_id in vars(made).items() if name != "empty"}
    for name in ("finished", "finished_empty", "part", "final"):
        assert reasons[getattr(made, name)] == "finished, never removed"
    assert reasons[made.begun] == "begun, never removed"
    assert reasons[made.unreadable].startswith("unreadable, never removed")
    assert reasons[made.young] == "younger than --min-age"
    assert _files(stopped) == before
    assert stopped.cli_json("store", "sweep")["orphans"] == [made.empty]
    removed = before - _files(stopped)
    assert removed
    assert all(made.empty in str(path) for path in removed)
    assert not _folder(stopped, made.empty).exists()
    assert _keys(stopped, made.empty) == []
    assert stopped.cli_json("store", "sweep")["orphans"] == []
    assert stopped.export(made.final) == b"hello"
    assert stopped.export(made.finished_empty) == b""


@pytest.mark.parametrize("log", ["empty", "missing"])
def test_sweep_removes_a_sealed_creation_that_died_before_its_log(running: ServerProcess, log: str) -> None:
    """The server's envelope in the ingest folder, in which the file's name stands, goes too."""
    upload_id = upload_id_of(running.create_drop("--sealed").site.create(5))
    _sql(running, "DELETE FROM uploads WHERE id = ?", upload_id)
    os.truncate(_folder(running, upload_id) / "log", 0)
    if log == "missing":
        (_folder(running, upload_id) / "log").unlink()
    assert running.cli_json("store", "sweep")["orphans"] == []
    envelope = running.data / "secrets" / "ingest" / f"{upload_id}.age"
    for path in (_folder(running, upload_id), envelope, *_keys(running, upload_id)):
        os.utime(path, (0, 0))
    assert running.cli_json("store", "sweep", "--dry-run")["orphans"] == [upload_id]
    assert envelope.exists()
    assert running.cli_json("store", "sweep")["orphans"] == [upload_id]
    assert not envelope.exists()
    assert not _folder(running, upload_id).exists()
    assert _keys(running, upload_id) == []


def test_sweep_demands_a_minimum_age(stopped: ServerProcess) -> None:
    """A creation in progress has files and no row for a moment."""
    done = stopped.cli("store", "sweep", "--min-age", "9m", check=False)
    assert (done.returncode, b"--min-age must be 10m or more" in done.stderr) == (1, True)


def test_sweep_expires_what_was_idle_and_shreds_what_is_left_of_ended_ones(tmp_path: Path) -> None:
    """The dry run says exactly what then goes; a finished upload and a fresh one stay."""
    with ServerProcess(tmp_path, environment={"TUS__EXPIRE_AFTER": "1h"}) as server:
        site = server.drop.site
        finished, idle, ended = site.upload(b"hello"), site.create(10), site.create(10)
        site.patch(idle, 0, b"hello")
        site.patch(ended, 0, b"hello")
        copies = {path: path.read_bytes() for path in _keys(server, upload_id_of(ended))}
        assert site.delete(ended).status == 204
        for path, content in copies.items():
            path.write_bytes(content)
        # As in a catalog that was restored from before the end.
        _sql(server, "UPDATE uploads SET state = 'complete' WHERE id = ?", upload_id_of(ended))
        server.environment["TUS__EXPIRE_AFTER"] = "1ms"
        planned = server.cli_json("store", "sweep", "--dry-run")
        assert (planned["expired"], planned["leftovers"]) == ([upload_id_of(idle)], [upload_id_of(ended)])
        assert "run `dropoff-tus store sweep`" in _problems(server)[upload_id_of(ended)]
        assert site.head(idle).status == 200
        done = server.cli_json("store", "sweep")
        assert (done["expired"], done["leftovers"]) == (planned["expired"], planned["leftovers"])
        assert _keys(server, upload_id_of(ended)) == []
        assert site.head(idle).status == 410
        assert server.export(finished) == b"hello"
        assert server.row(idle)["state"] == UploadState.EXPIRED
        assert _problems(server) == {}


def test_sweep_says_before_what_retention_takes(stopped: ServerProcess) -> None:
    """Uploads that are older than their drop-off keeps them; no younger ones, nor those of one without a limit."""
    with stopped as server:
        brief, keeping = server.create_drop("--retain", "1s"), server.create_drop("--retain", "1d")
        old, young = brief.site.upload(b"old"), keeping.site.upload(b"young")
        other = server.drop.site.upload(b"other")
        server.stop()
        time.sleep(1)
        planned = server.cli_json("store", "sweep", "--dry-run")
        assert (planned["retention"], planned["expired"]) == ([upload_id_of(old)], [])
        assert server.export(old) == b"old"
        assert server.cli_json("store", "sweep")["retention"] == [upload_id_of(old)]
        assert _keys(server, upload_id_of(old)) == []
        assert (server.export(young), server.export(other)) == (b"young", b"other")
        assert server.cli_json("store", "sweep", "--dry-run")["retention"] == []


def test_sweep_leaves_an_orphan_that_another_process_holds(stopped: ServerProcess) -> None:
    """A holder of the lease may be about to make something of it; without one the upload goes."""
    made = _make(stopped)
    log = os.open(_folder(stopped, made.empty) / "log", os.O_RDWR)
    fcntl.flock(log, fcntl.LOCK_EX)
    kept = stopped.cli_json("store", "sweep")
    assert kept["orphans"] == []
    reasons = {item["id"]: item["reason"] for item in kept["kept"]}
    assert reasons[made.empty] == "the upload is in use by another process"
    assert _keys(stopped, made.empty) != []
    os.close(log)
    assert stopped.cli_json("store", "sweep")["orphans"] == [made.empty]


# ---- shredding what is damaged ----------------------------------------------------------------------------------


def test_damaged_upload_is_shredded_only_when_the_operator_says_so(running: ServerProcess) -> None:
    """Beside the running server, which says that it is gone; the check finds nothing any more."""
    site = running.drop.site
    url = site.upload(b"hello" * 100)
    upload_id = upload_id_of(url)
    log = _folder(running, upload_id) / "log"
    _flip(log, log.read_bytes().index(b"\n") + 30)
    before = log.read_bytes()
    refused = running.cli("upload", "delete", upload_id, "--yes", check=False)
    assert refused.returncode == 1
    assert f"upload {upload_id} does not verify".encode() in refused.stderr
    assert f"`upload delete {upload_id} --damaged` shreds it anyway".encode() in refused.stderr
    assert (log.read_bytes(), _keys(running, upload_id) != []) == (before, True)
    done = running.cli_json("upload", "delete", upload_id, "--yes", "--damaged")
    assert done == {"id": upload_id, "state": "deleted"}
    assert _keys(running, upload_id) == []
    assert (_folder(running, upload_id) / "data").read_bytes() == b""
    assert (_folder(running, upload_id) / "log.damaged").read_bytes() == before
    assert upload_id not in _problems(running)
    assert site.head(url).status == 410
    assert running.row(url)["state"] == UploadState.DELETED
