"""`drop export`: everything out, whatever clients called it, and what is left when it fails."""

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from server.usecases.operating.manifest import COLUMNS
from storage.age import Recipient, encrypt
from tests.support.programs import require_program
from tests.support.server_process import Drop, ServerProcess, program, run_warm, upload_id_of
from tests.support.tus_raw import metadata

_MANIFESTS = {"manifest.csv", "manifest.json"}


def _send(drop: Drop, content: bytes, **told: str | bytes) -> str:
    url = drop.site.upload(content, {"Upload-Metadata": metadata(**told)})
    return upload_id_of(url)


def _files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but the manifest."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name not in _MANIFESTS}


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads((folder / "manifest.json").read_bytes())}


def _export(server: ServerProcess, drop: Drop, folder: Path, *options: str) -> dict[str, Any]:
    done = server.cli_json("drop", "export", drop.id, "--output", str(folder), *options)
    assert isinstance(done, dict)
    return done


_HOSTILE = {
    "../../etc/passwd": "etc/passwd",
    "/etc/shadow": "etc/shadow",
    "evil\u202egpj.exe": "evil_gpj.exe",
    "line\nbreak\x1b[2J": "line_break_[2J",
    "n" * 300: "n" * 200,
    "same": "same",
    "SAME": "SAME (2)",
    "a": "a",
    "a/b": "a (2)/b",
    "A/c": "a (2)/c",
    "manifest.csv": "manifest (2).csv",
    "=cmd|' /C calc'!A0": "=cmd_'/C calc'!A0",
}


@pytest.fixture(scope="module")
def hostile(limited: ServerProcess) -> tuple[Drop, dict[str, bytes]]:
    """Return a drop-off with files of hostile names, and what is to come out."""
    drop = limited.create_drop(name="hostile")
    contents: dict[str, bytes] = {}
    for told, path in _HOSTILE.items():
        contents[path] = os.urandom(1000)
        _send(drop, contents[path], filename="x", relativePath=told, sender="=Ada \u202e")
    contents["named"] = b"named"
    _send(drop, b"named", filename="named", relativePath="null")
    unnamed = os.urandom(200_000)
    contents[upload_id_of(drop.site.upload(unnamed))] = unnamed
    drop.site.create(10, {"Upload-Metadata": metadata(filename="unfinished")})
    return drop, contents


def test_everything_comes_out_below_the_folder(
    limited: ServerProcess, hostile: tuple[Drop, dict[str, bytes]], tmp_path: Path
) -> None:
    """With a manifest of it in both forms; a second run writes nothing, and neither touches what is there."""
    drop, contents = hostile
    folder = tmp_path / "out"
    done = _export(limited, drop, folder)
    assert (done["exported"], done["kept"], done["failed"]) == (len(contents), 0, [])
    assert _files(folder) == contents
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    rows = _manifest(folder)
    assert {row["path"]: row["sha256"] for row in rows.values()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    listed = {row["id"]: row for row in limited.uploads(drop) if row["state"] == "complete"}
    for upload_id, row in rows.items():
        assert tuple(row) == COLUMNS
        assert row["sha256"] == listed[upload_id]["sha256"]
        assert (row["size"], row["sender"]) == (listed[upload_id]["length"], listed[upload_id]["sender"])
    receipt = limited.cli_json("upload", "receipt", max(rows))
    assert {name: rows[max(rows)][name] for name in ("created_at", "completed_at", "receipt")} == {
        name: receipt[name] for name in ("created_at", "completed_at", "receipt")
    }
    table = (folder / "manifest.csv").read_text("utf-8")
    assert {row["id"] for row in csv.DictReader(io.StringIO(table, newline=""))} == {*rows}
    assert "\u202e" not in table
    assert all(not cell.startswith("=") for row in csv.reader(io.StringIO(table)) for cell in row)
    assert (folder / "same").stat().st_mode & 0o777 == 0o600
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name not in _MANIFESTS}
    again = _export(limited, drop, folder)
    assert (again["exported"], again["kept"]) == (0, len(contents))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert _manifest(folder) == rows


def test_audit_knows_each_upload_that_left(limited: ServerProcess, tmp_path: Path) -> None:
    """Once: a run that writes nothing adds nothing."""
    drop = limited.create_drop(name="audited")
    ids = sorted(_send(drop, b"x", filename=name) for name in ("a", "b"))
    for _ in range(2):
        _export(limited, drop, tmp_path / "out")
    with sqlite3.connect(limited.data / "catalog.sqlite3") as catalog:
        rows = [json.loads(row) for (row,) in catalog.execute("SELECT record FROM audit")]
    catalog.close()
    left = [row for row in rows if row.get("drop") == drop.id and row["act"] == "upload.export"]
    assert sorted(row["upload"] for row in left) == ids


def test_file_with_other_content_is_left_and_the_upload_gets_a_number(limited: ServerProcess, tmp_path: Path) -> None:
    """Also when only a part is exported: the manifest keeps the rest."""
    drop = limited.create_drop(name="changed")
    ids = [_send(drop, content, filename="x.txt") for content in (b"one", b"two")]
    (tmp_path / "x.txt").write_bytes(b"mine")
    for _ in range(2):
        _export(limited, drop, tmp_path)
        assert _files(tmp_path) == {"x.txt": b"mine", "x (2).txt": b"two", "x (3).txt": b"one"}
    assert {upload_id: row["path"] for upload_id, row in _manifest(tmp_path).items()} == dict(
        zip(ids, ("x (3).txt", "x (2).txt"), strict=True)
    )
    done = _export(limited, drop, tmp_path, "--since", "2999-01-01T00:00:00Z")
    assert (done["exported"], done["kept"]) == (0, 0)
    assert {*_manifest(tmp_path)} == {*ids}
    assert _export(limited, drop, tmp_path, "--since", "1h")["kept"] == 2


def test_foreign_manifest_and_links_are_left(limited: ServerProcess, tmp_path: Path) -> None:
    """No link is followed: one at a folder's place and one at a file's give a sentence; the others come out."""
    drop = limited.create_drop(name="links")
    for name in ("sub/x", "file", "other"):
        _send(drop, name.encode(), relativePath=name)
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    folder.mkdir()
    (folder / "sub").symlink_to(outside)
    (folder / "file").symlink_to(outside / "file")
    done = limited.cli("drop", "export", drop.id, "--output", str(folder), check=False)
    assert done.returncode == 1
    assert done.stderr.count(b"in the way") == 2
    assert list(outside.iterdir()) == []
    assert (folder / "other").read_bytes() == b"other"
    assert [row["path"] for row in _manifest(folder).values()] == ["other"]
    for name in _MANIFESTS:
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(b"mine")
        refused = limited.cli("drop", "export", drop.id, "--output", str(tmp_path / name), check=False)
        assert (refused.returncode, b"no export wrote" in refused.stderr) == (1, True)
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]


def test_damaged_upload_is_told_and_the_others_come_out(limited: ServerProcess, tmp_path: Path) -> None:
    """Nothing of it is left; in an archive neither."""
    drop = limited.create_drop(name="damaged")
    bad, good = _send(drop, b"x" * 5000, filename="bad"), _send(drop, b"good", filename="good")
    data = limited.data / "store" / "uploads" / bad[:2] / bad / "data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = limited.cli("drop", "export", drop.id, "--output", str(tmp_path / "out"), "--json", check=False)
    failed = json.loads(done.stdout)["failed"]
    assert (done.returncode, [item["id"] for item in failed]) == (1, [bad])
    assert "does not verify" in failed[0]["why"]
    assert _files(tmp_path / "out") == {"good": b"good"}
    assert {*_manifest(tmp_path / "out")} == {good}
    packed = limited.cli("drop", "export", drop.id, "--tar", "-", check=False)
    assert (packed.returncode, f"{bad}: not exported: ".encode() in packed.stderr) == (1, True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        assert {*archive.getnames()} == {"good", *_MANIFESTS}
    data.write_bytes(whole)  # other tests check the whole store
    assert _export(limited, drop, tmp_path / "out")["exported"] == 1


def test_archive_opens_with_every_tar(
    limited: ServerProcess, hostile: tuple[Drop, dict[str, bytes]], tmp_path: Path
) -> None:
    """On stdout and as a file: Python's and GNU's."""
    drop, contents = hostile
    packed = limited.cli("drop", "export", drop.id, "--tar", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert {*members} == {*contents, *_MANIFESTS}
        for name, content in contents.items():
            file = archive.extractfile(members[name])
            assert file is not None
            assert file.read() == content
            assert members[name].mode == 0o600
    limited.cli("drop", "export", drop.id, "--tar", str(tmp_path / "all.tar"))
    (tmp_path / "out").mkdir()
    subprocess.run(
        [require_program("tar"), "-xf", tmp_path / "all.tar", "-C", tmp_path / "out"],
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert _files(tmp_path / "out") == contents
    # The archive and the folder agree, so that one can be brought up to date by the other.
    assert _export(limited, drop, tmp_path / "out")["kept"] == len(contents)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_export_goes_on(limited: ServerProcess, tmp_path: Path, number: signal.Signals) -> None:
    """Every file that has its name is whole, and the next run writes only the others."""
    drop = limited.create_drop(name="killed")
    contents = {f"d/{index}": os.urandom(200_000) for index in range(12)}
    for name, content in contents.items():
        _send(drop, content, relativePath=name)
    contents["big"] = os.urandom(30_000_000)
    _send(drop, contents["big"], filename="big")
    command = [*program(), "--config", str(limited.config), "drop", "export", drop.id, "--output", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        paths = [tmp_path / name for name in contents]
        while not any(map(Path.exists, paths)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        try:
            status = process.wait(20)
        finally:
            process.kill()
    assert status in {128 + number, -number}, "it was done before the signal came"
    there = _files(tmp_path)
    assert there
    assert all(contents.get(name) == content for name, content in there.items())
    done = _export(limited, drop, tmp_path)
    assert (done["kept"], done["exported"]) == (len(there), len(contents) - len(there))
    assert _files(tmp_path) == contents


def test_full_disk_is_one_sentence_and_the_next_run_goes_on(limited: ServerProcess, tmp_path: Path) -> None:
    """On a real small file system in a namespace of its own."""
    drop = limited.create_drop(name="full")
    # The small ones come first, so some are whole before the workers' large ones fill it.
    for index, size in enumerate([10] * 8 + [300_000] * 8):
        _send(drop, os.urandom(size), filename=str(index))
    command = " ".join([*program(), "--config", str(limited.config), "drop", "export", drop.id, "--output", "out"])
    script = (
        f"mount -t tmpfs -o size=1m none {tmp_path} && cd {tmp_path}; {command}; echo $?; find . -type f; "
        f"mount -o remount,size=8m {tmp_path}; {command} && find . -type f | wc -l"
    )
    unshare = [require_program("unshare"), "--mount", "--map-root-user"] if os.getuid() else ["unshare", "--mount"]
    done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[0] == "1", done.stderr
    assert done.stderr.count("No space left on device") == 1
    assert "are there whole" in done.stderr
    assert "manifest" not in "".join(lines[:-1])
    assert lines[-1] == "18"
    kept = len(lines) - 2
    assert kept
    assert f"{kept} were there already" in done.stderr


@pytest.mark.parametrize("mode", ["--managed", "--sealed"])
def test_sealed_comes_out_with_the_identity(limited: ServerProcess, tmp_path: Path, mode: str) -> None:
    """What the server sealed, and what the browser sealed; without the identity only what can be read, as age files."""
    drop = limited.create_drop(mode, name="sealed")
    recipient = limited.cli_json("keys", "show")["recipients"][0]
    identity = ("--identity", str(limited.data / "root-identity.txt"))
    plain = os.urandom(2_000_000)
    blob = _sealed(recipient, plain)
    _send(drop, b"hello", relativePath="d/hello.txt")
    _send(drop, blob, **{"relativePath": "d/scan.zip", "sealed-by": "age"})
    done = limited.cli("drop", "export", drop.id, "--output", str(tmp_path / "closed"), check=False)
    if mode == "--sealed":
        assert (done.returncode, done.stderr.count(b"it is sealed; give --identity FILE")) == (1, 2)
        assert _files(tmp_path / "closed") == {}
    else:
        assert _files(tmp_path / "closed") == {"d/hello.txt": b"hello", "d/scan.zip.age": blob}
    for _ in range(2):
        _export(limited, drop, tmp_path / "opened", *identity)
        assert _files(tmp_path / "opened") == {"d/hello.txt": b"hello", "d/scan.zip": plain}
    (row,) = [row for row in _manifest(tmp_path / "opened").values() if row["path"] == "d/scan.zip"]
    assert (row["size"], row["sha256"]) == (len(plain), hashlib.sha256(plain).hexdigest())
    packed = limited.cli("drop", "export", drop.id, "--tar", "-", *identity).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        file = archive.extractfile("d/scan.zip")
        assert file is not None
        assert file.read() == plain


def _sealed(recipient: str, plain: bytes) -> bytes:
    return encrypt(plain, Recipient.parse(recipient))


def test_wrong_use_is_a_sentence(limited: ServerProcess, tmp_path: Path) -> None:
    """Neither place or both, no such drop-off, a file for a folder, a time that is none."""
    drop = limited.drop.id
    (tmp_path / "file").write_bytes(b"")
    for said, arguments in (
        ("either --output DIR or --tar PATH", (drop,)),
        ("either --output DIR or --tar PATH", (drop, "--output", "x", "--tar", "-")),
        ("there is no such drop-off", ("0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11", "--output", str(tmp_path / "x"))),
        ("as a folder", (drop, "--output", str(tmp_path / "file"))),
        ("--since is not a time", (drop, "--output", str(tmp_path / "x"), "--since", "monday")),
        ("both want stdout", (drop, "--tar", "-", "--json")),
    ):
        done = limited.cli("drop", "export", *arguments, check=False)
        assert (done.returncode, said in done.stderr.decode()) == (1, True), done.stderr
    assert not (tmp_path / "x").exists()


def test_upload_list_is_filtered_by_state_and_time(limited: ServerProcess) -> None:
    """States may be several; the time is that of completion, or of creation before it."""
    drop = limited.create_drop(name="filtered")
    done = _send(drop, b"done", filename="done")
    begun = upload_id_of(drop.site.create(10))

    def listed(*options: str) -> list[str]:
        return [row["id"] for row in limited.cli_json("upload", "list", "--drop", drop.id, *options)]

    assert listed("--state", "complete") == [done]
    assert listed("--state", "open") == [begun]
    assert {*listed("--state", "open", "--state", "complete", "--since", "1h")} == {begun, done}
    assert listed("--since", "2999-01-01T00:00:00Z") == []
    refused = limited.cli("upload", "list", "--state", "whole", check=False)
    assert refused.returncode == 2


def test_upload_list_comes_in_pages(limited: ServerProcess) -> None:
    """Each upload once and in order, also where some of a page are left out, and whatever is said of the last one."""
    drop = limited.create_drop(name="pages")
    sent = [_send(drop, b"page", filename=str(index)) for index in range(5)]
    begun = upload_id_of(drop.site.create(10))

    def page(*options: str) -> list[str]:
        return [row["id"] for row in limited.cli_json("upload", "list", "--drop", drop.id, "--limit", "2", *options)]

    assert [page(), page("--after", sent[1]), page("--after", sent[3])] == [sent[:2], sent[2:4], [sent[4], begun]]
    assert page("--after", begun) == []
    assert [page("--since", "1h"), page("--since", "2999-01-01T00:00:00Z")] == [sent[:2], []]
    refused = limited.cli("upload", "list", "--limit", "2", "--after", "0" * 32, check=False)
    assert (refused.returncode, b"no such upload" in refused.stderr) == (1, True)


@pytest.mark.parametrize("with_secrets", [True, False], ids=["all-keys", "root-identity"])
def test_copy_is_read_where_no_server_is(limited: ServerProcess, tmp_path: Path, with_secrets: bool) -> None:
    """Lists with names, one upload, receipts and whole drop-offs, each by its id, with no configuration or catalog."""
    ours, sealed = limited.create_drop(name="copied"), limited.create_drop("--sealed", name="copied sealed")
    content = os.urandom(20_000)
    one, begun = _send(ours, content, relativePath="d/one"), upload_id_of(ours.site.create(10))
    other = _send(sealed, b"secret", filename="other.txt")
    copy = tmp_path / "copy"
    for name in ("store", "keys", *(["secrets"] if with_secrets else [])):
        shutil.copytree(limited.data / name, copy / name, ignore=shutil.ignore_patterns("servers"))
    place = ("--store", str(copy), *(() if with_secrets else ("--key", limited.cli_json("keys", "show")["key"])))
    identity = ("--identity", str(limited.data / "root-identity.txt"))

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = run_warm(*arguments, folder=tmp_path)
        assert not check or done.returncode == 0, done.stderr
        return done

    for drop, expected in ((ours, {one: "d/one", begun: None}), (sealed, {other: "other.txt"})):
        listed = json.loads(run("upload", "list", "--drop", drop.id, *place, *identity, "--json").stdout)
        assert {row["id"]: row["relative_path"] or row["filename"] for row in listed} == expected
        there = limited.cli_json("upload", "list", "--drop", drop.id, *identity)
        assert [(row["id"], row["state"], row["sha256"]) for row in listed] == [
            (row["id"], row["state"], row["sha256"]) for row in there
        ]
        run("drop", "export", drop.id, *place, *identity, "--output", str(tmp_path / drop.id))
    assert _files(tmp_path / ours.id) == {"d/one": content}
    assert _files(tmp_path / sealed.id) == {"other.txt": b"secret"}
    assert f"(of {sealed.id})".encode() in run("upload", "list", *place).stdout
    shown = json.loads(run("upload", "show", other, *place, *identity, "--json").stdout)
    assert (shown["filename"], shown["drop_id"], shown["state"]) == ("other.txt", sealed.id, "complete")
    receipt = run("upload", "receipt", other, *place, *identity).stdout
    assert receipt == limited.cli("upload", "receipt", other, *identity).stdout
    for said, arguments in (
        ("no upload in this copy", ("drop", "export", limited.drop.id[:-4] + "0000", *place, "--tar", "x")),
        ("give --identity FILE", ("upload", "export", one, *place, "--output", "x")),
        ("it has no store/uploads", ("upload", "list", "--store", str(tmp_path))),
        ("has no history", ("upload", "show", one, *place, "--history")),
        ("name it with --store", ("upload", "list", "--key", "x")),
    ):
        refused = run(*arguments, check=False)
        assert (refused.returncode, said in refused.stderr.decode()) == (1, True), refused.stderr
    assert not list(copy.glob("*.sqlite3"))
    _spoil(copy, one)
    told = run("upload", "list", *place)
    assert (one.encode() in told.stdout, b"1 uploads cannot be read" in told.stderr) == (False, True)


def _spoil(copy: Path, upload_id: str) -> None:
    log = copy / "store" / "uploads" / upload_id[:2] / upload_id / "log"
    raw = bytearray(log.read_bytes())
    raw[40] ^= 1
    log.write_bytes(raw)
