"""Files that are sealed before they are sent, at the real server: which it accepts, returns, and what opens them."""

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.answers import assert_refused
from tests.support.programs import CURRENT_AGE, require_program
from tests.support.server_process import Drop, ServerProcess, run_warm
from tests.support.tus_raw import OCTETS, ConnectionCutError, Response, metadata

_PLAIN = os.urandom(200_000)


@dataclass(frozen=True, slots=True)
class Sealer:
    """A server whose roots are of one kind, and the age that seals to them."""

    server: ServerProcess
    age: Path
    recipient: str
    identity: Path

    def seal(self, plain: bytes) -> bytes:
        """Return an age file, as the browser would send it."""
        done = subprocess.run([self.age, "-r", self.recipient], input=plain, capture_output=True, check=True)
        return done.stdout

    def export(self, url: str, *options: str) -> bytes:
        """Return what `upload export` writes."""
        target = self.server.folder / "exported"
        self.server.cli("upload", "export", url, "--output", str(target), "--force", *options)
        return target.read_bytes()


@pytest.fixture(scope="module", params=["x25519", "hybrid"])
def sealer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealer]:
    """Run a server with roots of each kind; Debian's age knows one of them."""
    folder = tmp_path_factory.mktemp(f"sealed-{request.param}")
    with ServerProcess(folder, init_options=("--key-type", request.param)) as server:
        recipient = server.cli_json("keys", "show")["recipients"][0]
        age = require_program("age" if request.param == "x25519" else CURRENT_AGE)
        yield Sealer(server, age, recipient, server.data / "root-identity.txt")


def _send(drop: Drop, content: bytes, **told: str | bytes) -> Response:
    url = drop.site.create(len(content), {"Upload-Metadata": metadata(**{"filename": "scan.zip", **told})})
    return drop.site.patch(url, 0, content)


def _sent(drop: Drop, content: bytes, **told: str) -> str:
    url = drop.site.create(
        len(content), {"Upload-Metadata": metadata(**{"filename": "scan.zip", "sealed-by": "age", **told})}
    )
    assert drop.site.patch(url, 0, content).status == 204
    return url


@pytest.mark.parametrize("mode", ["--managed", "--sealed"])
def test_sealed_file_comes_out_as_it_was_sent_and_opened_with_the_identity(sealer: Sealer, mode: str) -> None:
    """The bytes that the browser made, for `age` itself; or what was in them; and both are told from another."""
    server, drop = sealer.server, sealer.server.create_drop(mode)
    blob = sealer.seal(_PLAIN)
    url = _sent(drop, blob, relativePath="a/scan.zip")
    identity = ("--identity", str(sealer.identity))
    assert sealer.export(url, *identity) == _PLAIN
    kept = sealer.export(url, *identity, "--keep-sealed")
    assert kept == blob
    if mode == "--managed":
        assert sealer.export(url) == blob
        assert sealer.export(url, "--range", "0-20") == blob[:21]
    (server.folder / "kept.age").write_bytes(kept)
    opened = subprocess.run(
        [sealer.age, "-d", "-i", sealer.identity, server.folder / "kept.age"], capture_output=True, check=True
    )
    assert opened.stdout == _PLAIN
    shown = server.cli_json("upload", "show", url, *identity)
    assert (shown["sealed_by"], shown["filename"], shown["relative_path"]) == ("age", "scan.zip", "a/scan.zip")
    assert (shown["length"], shown["sha256"]) == (len(blob), hashlib.sha256(blob).hexdigest())
    receipt = json.loads(drop.site.request("GET", f"{url}/receipt", {}).body.rpartition(b" ")[0])
    assert (receipt["sealed_by"], receipt["relative_path"], receipt["length"]) == ("age", "a/scan.zip", len(blob))
    refused = server.cli(*("upload", "export", url, "--output", "x", *identity, "--range", "0-5"), check=False)
    assert b"--keep-sealed" in refused.stderr


@pytest.mark.parametrize("mode", ["--managed", "--sealed"])
def test_sender_and_message_are_for_whoever_may_read_the_upload(sealer: Sealer, mode: str) -> None:
    """Before it is complete the server, then whoever can open it; escaped, as all that strangers write."""
    server, drop = sealer.server, sealer.server.create_drop(mode)
    told = metadata(filename="x", sender="Ada \u202e", message="two\nlines\x1b[2J")
    begun, done = (drop.site.create(5, {"Upload-Metadata": told}) for _ in range(2))
    assert drop.site.patch(done, 0, b"hello").status == 204
    for url, options in ((begun, ()), (done, ("--identity", str(sealer.identity)))):
        shown = server.cli_json("upload", "show", url, *options)
        assert (shown["sender"], shown["message"]) == ("Ada \u202e", "two\nlines\x1b[2J")
        said = server.cli("upload", "show", url, *options).stdout.decode()
        assert said.isascii()
        assert "\x1b" not in said
        assert "message: two\\nlines" in said
    shown = server.cli_json("upload", "show", done)
    assert (shown["message"] is None) == (mode == "--sealed")


@pytest.mark.parametrize("mode", ["--managed", "--sealed"])
def test_drop_off_that_wants_sealing_takes_nothing_else(sealer: Sealer, mode: str) -> None:
    """Refused at its creation; the page learns the recipients, the roots or the drop-off's own."""
    server = sealer.server
    drop = server.create_drop(mode, "--seal-in-browser", "--receiver", "the Cohort Team")
    for told in ({}, {"sealed-by": "gpg"}, {"sealed-by": ""}):
        answer = drop.site.post({"Upload-Length": "5", "Upload-Metadata": metadata(filename="x", **told)})
        assert_refused(answer, 422, "ERR_NOT_SEALED")
        assert b"nothing was written" in answer.body
    assert server.uploads(drop) == []
    url = _sent(drop, sealer.seal(_PLAIN))
    assert sealer.export(url, "--identity", str(sealer.identity)) == _PLAIN
    info = json.loads(drop.site.request("GET", f"/d/{drop.id}/info", dict(drop.headers)).body)
    assert (info["sealing"], info["recipients"]) == (True, [sealer.recipient])
    assert info["recipient"] == "the Cohort Team"
    shown = server.cli_json("drop", "show", drop.id)
    assert (shown["seal_in_browser"], shown["receiver"]) == (True, "the Cohort Team")
    server.cli("drop", "edit", drop.id, "--no-seal-in-browser")
    assert drop.site.upload(b"hello")
    info = json.loads(drop.site.request("GET", f"/d/{drop.id}/info", dict(drop.headers)).body)
    assert (info["sealing"], info["recipients"]) == (False, [])


def test_length_limits_are_of_what_is_sent(sealer: Sealer) -> None:
    """The age file is longer than what is in it."""
    blob = sealer.seal(b"x" * 1000)
    drop = sealer.server.create_drop("--seal-in-browser", "--max-upload-bytes", str(len(blob) - 1))
    told = metadata(**{"filename": "x", "sealed-by": "age"})
    answer = drop.site.post({"Upload-Length": str(len(blob)), "Upload-Metadata": told})
    assert_refused(answer, 413, "ERR_MAX_SIZE_EXCEEDED")


def test_recipients_of_two_kinds_are_refused(sealer: Sealer, tmp_path: Path) -> None:
    """No age file is for both, and hybrid keys would protect nothing in one."""
    recipients = [
        json.loads(
            run_warm(
                *("keys", "generate", "--output", f"{kind}.txt", "--key-type", kind, "--json"), folder=tmp_path
            ).stdout
        )["recipient"]
        for kind in ("x25519", "hybrid")
    ]
    options = [part for recipient in recipients for part in ("--recipient", recipient)]
    done = sealer.server.cli("drop", "create", "--name", "x", "--seal-in-browser", *options, check=False)
    assert done.returncode == 1
    assert b"--recipient cannot be used: all recipients must be of one type" in done.stderr
    drop = sealer.server.create_drop("--seal-in-browser", *options[:2])
    info = json.loads(drop.site.request("GET", f"/d/{drop.id}/info", dict(drop.headers)).body)
    assert info["recipients"] == recipients[:1]


def test_list_tells_what_the_browser_sealed(sealer: Sealer) -> None:
    """In a column for people, and by name for programs."""
    drop = sealer.server.create_drop()
    sealed, plain = _sent(drop, sealer.seal(b"x")), drop.site.upload(b"y")
    assert sealer.server.row(sealed, drop)["sealed_by"] == "age"
    assert sealer.server.row(plain, drop)["sealed_by"] is None
    listed = sealer.server.cli("upload", "list", "--drop", drop.id).stdout.decode().splitlines()
    assert ["sealed in the browser" in line for line in listed] == [True, False]


@pytest.mark.parametrize("sizes", [(0,), (1,), (65535,), (65536,), (65537,), (200_000,)])
def test_sealed_file_of_every_size_completes_and_opens(sealer: Sealer, sizes: tuple[int]) -> None:
    """In one request with its creation too."""
    drop, plain = sealer.server.create_drop(), _PLAIN[: sizes[0]]
    blob = sealer.seal(plain)
    told = metadata(**{"filename": "x", "sealed-by": "age"})
    answer = drop.site.post({"Upload-Length": str(len(blob)), "Content-Type": OCTETS, "Upload-Metadata": told}, blob)
    assert answer.status == 201, answer
    assert sealer.export(answer.needed("Location"), "--identity", str(sealer.identity)) == plain


@pytest.mark.parametrize("mode", ["--managed", "--sealed"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello", _PLAIN, b"age-encryption.org/v1\n", b"age-encryption.org/v1\n-> X25519 AAAA\nAAAA\n--- x\n"],
    ids=["empty", "short", "long", "intro", "header"],
)
def test_content_that_is_not_sealed_as_it_says_is_rejected_and_gone(sealer: Sealer, mode: str, content: bytes) -> None:
    """At its last byte, with a sentence; and nothing of it is left to be read."""
    drop = sealer.server.create_drop(mode)
    told = metadata(**{"filename": "x", "sealed-by": "age"})
    if content:
        url = drop.site.create(len(content), {"Upload-Metadata": told})
        answer = drop.site.patch(url, 0, content)
        assert drop.site.head(url).status == 410
    else:
        answer = drop.site.post({"Upload-Length": "0", "Upload-Metadata": told})
    assert_refused(answer, 422, "ERR_NOT_SEALED")
    assert b"nothing of it is kept" in answer.body
    (row,) = sealer.server.uploads(drop)
    assert row["state"] == "rejected"


def test_age_file_whose_length_no_payload_has_is_rejected(sealer: Sealer) -> None:
    """Cut within its last tag, say."""
    blob = sealer.seal(b"")
    answer = _send(sealer.server.create_drop(), blob[:-1], **{"sealed-by": "age"})
    assert_refused(answer, 422, "ERR_NOT_SEALED")


def test_age_file_that_was_changed_does_not_open_and_leaves_nothing(sealer: Sealer, tmp_path: Path) -> None:
    """Nobody without the key can see it before; the bytes as they came are still there."""
    blob = bytearray(sealer.seal(_PLAIN))
    blob[-5] ^= 1
    url = _sent(sealer.server.create_drop(), bytes(blob))
    target = tmp_path / "x"
    command = ("upload", "export", url, "--output", str(target), "--identity", str(sealer.identity))
    done = sealer.server.cli(*command, check=False)
    assert done.returncode == 1
    assert b"does not open" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert sealer.export(url, "--identity", str(sealer.identity), "--keep-sealed") == bytes(blob)


def test_sealed_file_to_somebody_else_is_told(sealer: Sealer, tmp_path: Path) -> None:
    """The key of the upload need not be that of its content."""
    made = run_warm("keys", "generate", "--output", "other.txt", "--key-type", "x25519", "--json", folder=tmp_path)
    age = require_program("age")
    other = json.loads(made.stdout)["recipient"]
    blob = subprocess.run([age, "-r", other], input=b"hello", capture_output=True, check=True).stdout
    url = _sent(sealer.server.create_drop(), blob)
    command = ("upload", "export", url, "--output", str(tmp_path / "x"), "--identity", str(sealer.identity))
    done = sealer.server.cli(*command, check=False)
    assert b"no identity in the file opens the content that the browser sealed" in done.stderr
    assert not (tmp_path / "x").exists()


def test_sealed_concatenation_is_looked_at_as_a_whole(sealer: Sealer) -> None:
    """Its parts say nothing of it."""
    drop = sealer.server.create_drop()
    for content, status in ((sealer.seal(_PLAIN), 201), (_PLAIN, 422)):
        parts = [
            drop.site.create(100_000 if n == 0 else len(content) - 100_000, {"Upload-Concat": "partial"})
            for n in (0, 1)
        ]
        drop.site.patch(parts[0], 0, content[:100_000])
        drop.site.patch(parts[1], 0, content[100_000:])
        told = metadata(**{"filename": "x", "sealed-by": "age"})
        answer = drop.site.post({"Upload-Concat": "final;" + " ".join(parts), "Upload-Metadata": told})
        assert answer.status == status, answer
        if status == 201:
            url = answer.needed("Location")
            assert sealer.export(url, "--identity", str(sealer.identity)) == _PLAIN


def test_sealed_upload_is_looked_at_after_a_kill_too(tmp_path: Path) -> None:
    """The next start looks at a whole upload when it finishes it."""
    age = require_program("age")
    with ServerProcess(tmp_path, init_options=("--key-type", "x25519")) as server:
        drop, recipient = server.drop, server.cli_json("keys", "show")["recipients"][0]
        blob = subprocess.run([age, "-r", recipient], input=b"hello", capture_output=True, check=True).stdout
        told = metadata(**{"filename": "x", "sealed-by": "age"})
        for content, state in ((b"hello", "rejected"), (blob, "complete")):
            url = drop.site.create(len(content), {"Upload-Metadata": told})
            server.stop()
            server.start(failpoint="after-log-sync:1")
            with pytest.raises(ConnectionCutError):
                drop.site.patch(url, 0, content)
            server.kill9()
            server.start()
            deadline = time.monotonic() + 20
            while (row := server.row(url, drop))["state"] != state:
                assert time.monotonic() < deadline, row
                time.sleep(0.1)


@pytest.mark.parametrize(
    ("path", "shown"), [("a/b.txt", "a/b.txt"), ("../../etc/passwd\x1b[2J", None), ("\u202ea", None)]
)
def test_relative_path_is_kept_as_it_came_and_shown_escaped(sealer: Sealer, path: str, shown: str | None) -> None:
    """For any text: programs get it as JSON, people as text that steers no terminal."""
    drop = sealer.server.create_drop()
    headers = {"Upload-Metadata": metadata(filename="b.txt", relativePath=path)}
    begun, done = drop.site.create(5, headers), drop.site.upload(b"hello", headers)
    for url in (begun, done):
        assert sealer.server.row(url, drop)["relative_path"] == path
        assert sealer.server.cli_json("upload", "show", url)["relative_path"] == path
    listed = sealer.server.cli("upload", "list", "--drop", drop.id).stdout.decode()
    if shown is not None:
        assert listed.count(shown) == 2
    else:
        assert path not in listed
        assert listed.isascii()
    assert base64.b64encode(path.encode()).decode() in drop.site.head(begun).needed("Upload-Metadata")
