"""Moving from tusd: uploads that a real tusd made, imported, and gone on with by their old URLs through nginx."""

import contextlib
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.support.documents import run_by
from tests.support.hook_server import HookServer
from tests.support.nginx import Proxy
from tests.support.programs import TUSD, require_program
from tests.support.server_process import Drop, ServerProcess, free_port_pair, program
from tests.support.tus_raw import TusSite, metadata

pytestmark = pytest.mark.timeout(300)
_NAME = "moved-marker-81.txt"
_RECORDED = Path(__file__).resolve().parents[1] / "vectors" / "tusd" / "hooks-1.13.json"


class _Tusd:
    """A running tusd."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, port = folder, free_port_pair()
        folder.mkdir(exist_ok=True)
        command = [str(require_program(TUSD)), "-listen", f"127.0.0.1:{port}", "-upload-dir", str(folder), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.site = TusSite(f"http://127.0.0.1:{port}/files/", None)

    def begin(self, length: int | None, content: bytes, **told: str) -> str:
        """Make an upload with its first bytes; return the path of its URL."""
        size = {"Upload-Length": str(length)} if length is not None else {"Upload-Defer-Length": "1"}
        url = self.site.post({**size, "Upload-Metadata": metadata(**told)}).needed("Location")
        if content:
            assert self.site.patch(url, 0, content).status == 204
        return urlsplit(url).path

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)


@contextlib.contextmanager
def _tusd(folder: Path, *options: str) -> Iterator[_Tusd]:
    running = _Tusd(folder, *options)
    try:
        yield running
    finally:
        running.stop()


def _import(server: ServerProcess, folder: Path, drop: Drop, *options: str) -> dict[str, Any]:
    done: dict[str, Any] = server.cli_json("import", "tusd", str(folder), "--drop", drop.id, *options)
    return done


def _as_written(server: ServerProcess, block: str, *more: str, **places: str) -> Any:  # noqa: ANN401 - what JSON gives
    """Run the one command of a block of the document, with our places."""
    for name, ours in {"folder": "/srv/tusd/data", "drop": " ID", "map": "/srv/dropoff/dropoff-tus-moved.map"}.items():
        assert (name in places) == (ours in block)
        block = block.replace(ours, ours[: -len(ours.strip())] + places.get(name, ""))
    return server.cli_json(*shlex.split(block)[1:], *more)


def _state(done: dict[str, Any]) -> dict[str, tuple[str, int, bool]]:
    return {one["name"]: (one["state"], one["offset"], one["verified"]) for one in done["uploads"]}


def _name(path: str) -> str:
    return path.rpartition("/")[2]


@pytest.mark.parametrize("mode", ["--managed", "--sealed"])
def test_uploads_of_a_real_tusd_go_on_by_their_old_urls(limited: ServerProcess, tmp_path: Path, mode: str) -> None:
    """Finished ones with name and path, half ones to their end by a client that knows only the URL it has."""
    create, look, take, front, remove = run_by(__file__, "docs/operate/move-from-tusd.md")
    drop, content = Drop(**_as_written(limited, create, mode)), os.urandom(700_000)
    identity = ("--identity", str(limited.data / "root-identity.txt")) if mode == "--sealed" else ()
    with _tusd(tmp_path / "tusd") as tusd:
        whole = tusd.begin(len(content), content, filename=_NAME, relativePath=f"d/{_NAME}")
        half = tusd.begin(len(content), content[:300_000], filename="half")
        fresh = tusd.begin(5, b"", filename="fresh")
        empty = tusd.begin(0, b"", filename="empty")
        deferred = tusd.begin(None, b"hello", filename="deferred")
    file = tmp_path / "moved.map"
    places = {"folder": str(tmp_path / "tusd"), "drop": drop.id}
    planned = _as_written(limited, look, **places)
    assert ({*planned["waiting"]}, planned["uploads"]) == ({*map(_name, (whole, half, fresh, empty, deferred))}, [])
    assert not file.exists()
    done = _as_written(limited, take, **places, map=str(file))
    assert (done["failed"], done["skipped"]) == ([], [])
    assert _state(done) == {
        _name(whole): ("complete", len(content), True),
        _name(half): ("open", 300_000, False),
        _name(fresh): ("open", 0, False),
        _name(empty): ("complete", 0, True),
        _name(deferred): ("open", 5, False),
    }
    again = _as_written(limited, take, **places, map=str(file))
    assert all(one["was_here"] for one in again["uploads"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "nginx").mkdir()
    here = {"/etc/nginx/dropoff-tus-moved.map": str(tmp_path / "nginx" / "dropoff-tus-moved.map")}
    proxy = Proxy(tmp_path / "nginx", limited, changes=here)
    here["/srv/dropoff/dropoff-tus-moved.map"] = str(file)
    here["/etc/nginx/conf.d/dropoff-tus.conf"] = str(tmp_path / "nginx" / "dropoff-tus.conf")
    here["nginx -t"] = shlex.join([*proxy.command, "-t"])
    here["--owner=root"] = f"--owner={os.geteuid()}"
    for place, ours in here.items():
        assert place in front
        front = front.replace(place, ours)
    subprocess.run(["bash", "-euc", front], check=True, capture_output=True)
    with proxy.running():
        # A client of before knows no code, only the URL that tusd gave it.
        old = TusSite(f"{proxy.origin}/files/", None, proxy.tls)
        assert old.head(f"{proxy.origin}{whole}").offset == len(content)
        for path, at, rest in ((half, 300_000, content[300_000:]), (fresh, 0, b"fresh")):
            assert old.head(f"{proxy.origin}{path}").offset == at
            assert old.patch(f"{proxy.origin}{path}", at, rest).status == 204
        sent = old.patch(f"{proxy.origin}{deferred}", 5, b" you", {"Upload-Length": "9"})
        assert sent.status == 204
        assert old.head(f"{proxy.origin}/files/{'0' * 32}").status == 405
        # And new ones are made as ever.
        assert proxy.site.post({"Upload-Length": "5"}).status == 201
    tokens = [one.rpartition("/")[2] for one in file.read_text().split('"') if f"/files/{drop.id}/" in one]
    assert len(tokens) == 5
    assert not [one for one in tokens if one in proxy.logs or one in limited.logged()]
    exported = limited.cli_json("drop", "export", drop.id, "--output", str(tmp_path / "out"), *identity)
    assert (exported["exported"], exported["failed"]) == (5, [])
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert (found[_NAME], found["half"], found["fresh"]) == (content, content, b"fresh")
    assert (found["empty"], found["deferred"], (tmp_path / "out" / "d" / _NAME).exists()) == (b"", b"hello you", True)
    # Only now are the originals superfluous.
    last = _as_written(limited, remove, **places)
    assert (last["removed"], last["failed"], list((tmp_path / "tusd").iterdir())) == (5, [], [])


def test_concatenations_come_whole_and_their_parts_stay_behind(limited: ServerProcess, tmp_path: Path) -> None:
    """A final has all its bytes in tusd's folder; one that tusd was stopped in the middle of was told to nobody."""
    drop, folder = limited.create_drop(name="concatenations"), tmp_path / "tusd"
    contents = [os.urandom(size) for size in (70_000, 1, 200_000)]
    with _tusd(folder) as tusd:
        parts = []
        for content in contents:
            head = {"Upload-Length": str(len(content)), "Upload-Concat": "partial"}
            parts.append(tusd.site.post(head).needed("Location"))
            assert tusd.site.patch(parts[-1], 0, content).status == 204
        joined = {"Upload-Concat": f"final;{' '.join(parts)}", "Upload-Metadata": metadata(filename="joined")}
        final, cut = (tusd.site.post(joined).needed("Location") for _ in range(2))
        # Finished parts of another, and one that is under way.
        begun = tusd.site.post({"Upload-Length": "9", "Upload-Concat": "partial"}).needed("Location")
        assert tusd.site.patch(begun, 0, b"part").status == 204
        refused = tusd.site.post({"Upload-Concat": f"final;{parts[0]} {begun}"})
        assert refused.status == 400
        assert tusd.site.delete(parts[0]).status == 204
    (folder / _name(cut)).write_bytes(contents[0][:100])
    done = _import(limited, folder, drop, "--map", str(tmp_path / "moved.map"))
    assert _state(done) == {_name(final): ("complete", sum(map(len, contents)), True)}
    assert {one["name"]: one["why"] for one in done["skipped"]}.keys() == {*map(_name, (*parts[1:], begun, cut))}
    assert _name(cut) not in (tmp_path / "moved.map").read_text()
    assert limited.export(done["uploads"][0]["id"]) == b"".join(contents)
    # The other one is whole, too, once tusd has made it again.
    (folder / _name(cut)).write_bytes(b"".join(contents))
    assert len(_state(_import(limited, folder, drop, "--remove"))) == 2
    left = {path.name for path in folder.iterdir() if path.suffix != ".info"}
    assert left == {*map(_name, (*parts[1:], begun))}


def test_import_goes_on_after_a_kill(limited: ServerProcess, tmp_path: Path) -> None:
    """Killed anywhere, the next run has everything once, with the bytes of the originals, which are all there still."""
    drop = limited.create_drop(name="killed import")
    contents = [os.urandom(size) for size in (10, 200_000, 24_000_000, 3_000_000)]
    with _tusd(tmp_path / "tusd") as tusd:
        names = [_name(tusd.begin(len(one), one, filename=str(index))) for index, one in enumerate(contents)]
    command = [*program(), "--config", str(limited.config), "import", "tusd", str(tmp_path / "tusd"), "--drop", drop.id]
    # In the catalog, and not in the store yet.
    died = subprocess.run(command, env={**os.environ, "DROPOFF_TUS_FAILPOINT": "write:1"}, check=False)
    assert (died.returncode, len(limited.uploads(drop)) > 0) == (-signal.SIGKILL, True)
    for rows in (1, 4):
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while len(limited.uploads(drop)) < rows and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    assert len(list((tmp_path / "tusd").glob("*"))) >= 2 * len(names)
    done = _import(limited, tmp_path / "tusd", drop)
    assert done["failed"] == []
    assert _state(done) == {name: ("complete", len(one), True) for name, one in zip(names, contents, strict=True)}
    assert len(limited.uploads(drop)) == len(names)
    for name, content in zip(names, contents, strict=True):
        (found,) = [one["id"] for one in done["uploads"] if one["name"] == name]
        assert limited.export(found) == content


def test_what_cannot_be_imported_is_told_and_the_rest_is_done(limited: ServerProcess, tmp_path: Path) -> None:
    """Links, files that are gone, elsewhere or too long, other formats, parts, what tusd holds, what we refuse."""
    drop = limited.create_drop("--max-upload-bytes", "1000", name="odd import")
    folder = tmp_path / "tusd"
    with _tusd(folder) as tusd:
        good = _name(tusd.begin(4, b"good", filename="good"))
        link, gone, long, locked, elsewhere = (_name(tusd.begin(4, b"file")) for _ in range(5))
        large = _name(tusd.begin(2000, bytes(2000)))
        part = tusd.site.post({"Upload-Length": "4", "Upload-Concat": "partial"}).needed("Location")
        wrong = _name(tusd.begin(5, b"wrong", sha256="0" * 64))
    secret = tmp_path / "secret"
    secret.write_bytes(b"root")
    (folder / link).unlink()
    (folder / link).symlink_to(secret)
    (folder / gone).unlink()
    (folder / long).write_bytes(b"longer")
    (folder / f"{locked}.lock").write_text(str(os.getpid()))
    (folder / "linked.info").symlink_to(folder / f"{good}.info")
    (folder / "text.info").write_text("no JSON")
    info = json.loads((folder / f"{elsewhere}.info").read_bytes())
    (folder / f"{elsewhere}.info").write_text(json.dumps({**info, "Storage": {"Path": "/etc/passwd"}}))
    (folder / "hostile.info").write_text(json.dumps({**info, "ID": '../x" "/files/;'}))
    (folder / "hostile").write_bytes(b"file")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "folder").symlink_to(outside)
    (outside / "x.info").write_bytes((folder / f"{good}.info").read_bytes())
    for _ in range(2):
        done = limited.cli("import", "tusd", str(folder), "--drop", drop.id, "--json", check=False)
        told = json.loads(done.stdout)
        why = {one["name"]: one["why"] for one in told["failed"]}
        assert (done.returncode, _state(told)) == (1, {good: ("complete", 4, True)})
        assert why.keys() == {link, gone, long, locked, elsewhere, large, wrong, "linked", "text", "hostile"}
        for name, said in (
            (link, "symbolic links"), ("linked", "symbolic links"), (gone, "No such file"), (long, "more than its"),
            (locked, "stop tusd"), (elsewhere, "not beside"), ("text", "not one of"), ("hostile", "not one of"),
            (large, "1000 bytes"), (wrong, "digest"),
        ):  # fmt: skip
            assert said in why[name] or (name == wrong and "rejected" in why[name]), why[name]
        assert [one["name"] for one in told["skipped"]] == [_name(urlsplit(part).path)]
        assert secret.read_bytes() == b"root"
    # An original that has other bytes than what is here stays, whatever is said.
    (folder / good).write_bytes(b"evil")
    told = json.loads(
        limited.cli("import", "tusd", str(folder), "--drop", drop.id, "--remove", "--json", check=False).stdout
    )
    assert "does not have the bytes of the original" in {one["name"]: one["why"] for one in told["failed"]}[good]
    assert (told["removed"], (folder / good).read_bytes()) == (0, b"evil")
    for said, options in (("there is no such drop-off", (str(folder), "--drop", drop.id[:-4] + "0000")), (
        "nothing was imported", (str(secret), "--drop", drop.id))):  # fmt: skip
        refused = limited.cli("import", "tusd", *options, check=False)
        assert (refused.returncode, said in refused.stderr.decode()) == (1, True), refused.stderr


# ---- hooks ------------------------------------------------------------------------------------------------------


def _shape(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the form of a payload: its members and the kind of each; of the client's request only that it is there."""
    if isinstance(value, dict):
        free = {"Header": "headers", "MetaData": "texts", "Storage": "a place"}
        return {name: free.get(name) or _shape(inner) for name, inner in value.items() if name != "Dropoff"}
    return type(value).__name__


async def _empty(_request: web.Request) -> web.StreamResponse:
    return web.json_response({})


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_events_have_the_form_that_tusd_gives_them(tmp_path: Path, version: str) -> None:
    """Of each kind, to the members: beside a tusd 2.9 that runs here, and what a tusd 1.13 sent."""
    secret = tmp_path / "webhook-secret"
    secret.write_text("a secret of the webhook, long enough")
    secret.chmod(0o600)
    with HookServer(_empty) as theirs, HookServer(_empty) as ours:
        if version == "v1":
            expected = json.loads(_RECORDED.read_bytes())
        else:
            with _tusd(tmp_path / "tusd", "-hooks-http", theirs.url) as tusd:
                url = tusd.site.post({"Upload-Length": "5", "Upload-Metadata": metadata(filename="x")}).needed(
                    "Location"
                )
                assert tusd.site.patch(url, 0, b"hello").status == 204
                assert tusd.site.delete(url).status == 204
                kinds = {"pre-create", "post-create", "post-finish", "post-terminate"}
                deadline = time.monotonic() + 20
                while not kinds <= {one.json["Type"] for one in theirs.received}:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            expected = {one.json["Type"]: one.json for one in theirs.received}
        settings = {
            "WEBHOOK__URL": ours.url,
            "WEBHOOK__SECRET": str(secret),
            "WEBHOOK__FORMAT": version,
            "WEBHOOK__EVENTS": "upload.created,upload.complete,upload.terminated",
            "WEBHOOK__METADATA": "filename",
            "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
            "PRE_CREATE__WEBHOOK": ours.url,
            "PRE_CREATE__FORMAT": version,
            "PRE_CREATE__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
        }
        (tmp_path / "server").mkdir()
        with ServerProcess(tmp_path / "server", environment=settings) as server:
            site = server.drop.site
            url = site.create(5, {"Upload-Metadata": metadata(filename="x")})
            assert site.patch(url, 0, b"hello").status == 204
            assert site.delete(site.create(9)).status == 204
            told = ours.wait_for(6)
    names = {one.headers["Hook-Name"]: one.json for one in told}
    assert names.keys() == {"pre-create", "post-create", "post-finish", "post-terminate"}
    for name, payload in names.items():
        assert _shape(payload) == _shape(expected[name]), name
