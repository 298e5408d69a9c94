"""Receipts end to end: the last answer names one, the URL gives it, and it says what was sent."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import Drop, ServerProcess, run_warm, upload_id_of
from tests.support.tus_raw import OCTETS, TUS, ConnectionCutError, Response, TusSite, metadata

CONTENT = b"some content " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def drops(server: ServerProcess) -> dict[str, Drop]:
    """Return drop-offs of both modes and both key types, the other type by a recipient of the drop-off's own."""
    made = run_warm("keys", "generate", "--output", "own.txt", "--key-type", "x25519", "--json", folder=server.folder)
    own = ("--recipient", json.loads(made.stdout)["recipient"])
    return {
        "managed-hybrid": server.create_drop(),
        "sealed-hybrid": server.create_drop("--sealed"),
        "managed-x25519": server.create_drop(*own),
        "sealed-x25519": server.create_drop("--sealed", *own),
    }


KINDS = ["managed-hybrid", "sealed-hybrid", "managed-x25519", "sealed-x25519"]


def _get(site: TusSite, url: str) -> Response:
    return site.request("GET", f"{url}/receipt", {})


def _payload(answer: Response) -> dict[str, Any]:
    assert answer.status == 200
    assert answer.header("Cache-Control") == "no-store"
    assert answer.header("Tus-Resumable") == TUS
    assert answer.header("X-Content-Type-Options") == "nosniff"
    text, _, signature = answer.body.rpartition(b" ")
    assert len(base64.b64decode(signature.strip() + b"==")) == 64
    payload: dict[str, Any] = json.loads(text)
    return payload


@pytest.mark.parametrize("kind", KINDS)
def test_receipt_of_an_upload_is_named_by_its_last_answer(
    server: ServerProcess, drops: dict[str, Drop], kind: str
) -> None:
    """No earlier one; and the operator's copy says the same, to whoever may read it."""
    drop = drops[kind]
    site = drop.site
    url = site.create(len(CONTENT), {"Upload-Metadata": metadata(filename="päth/a name.txt")})
    first = site.patch(url, 0, CONTENT[:5000])
    assert first.header("Dropoff-Receipt") is None
    assert _get(site, url).status == 404
    last = site.patch(url, 5000, CONTENT[5000:])
    assert last.needed("Dropoff-Receipt") == f"{url}/receipt"
    payload = _payload(_get(site, url))
    assert payload["sha256"] == SHA256
    assert payload["path"] == "päth/a name.txt"
    assert (payload["drop"], payload["upload"], payload["length"]) == (drop.id, upload_id_of(url), len(CONTENT))
    assert site.patch(url, len(CONTENT)).needed("Dropoff-Receipt") == f"{url}/receipt"
    name = "own.txt" if kind.endswith("x25519") else "data/root-identity.txt"
    told = server.cli("upload", "receipt", url, "--identity", str(server.folder / name), "--json", check=False)
    told = (
        told if not told.returncode else server.cli("upload", "receipt", url, "--identity", str(server.folder / name))
    )
    assert payload["receipt"].encode() in told.stdout
    unread = server.cli("upload", "receipt", url, check=False)
    assert bool(unread.returncode) == kind.startswith("sealed")


def test_receipt_of_a_drop_off_with_its_own_recipients_is_not_for_the_roots(
    server: ServerProcess, drops: dict[str, Drop]
) -> None:
    """The configured root identity does not open it."""
    site = drops["sealed-x25519"].site
    url = site.upload(CONTENT)
    root = str(server.data / "root-identity.txt")
    assert server.cli("upload", "receipt", url, "--identity", root, check=False).returncode != 0


@pytest.mark.parametrize("kind", KINDS[:2])
def test_receipt_of_creation_with_upload_is_named_by_its_answer(drops: dict[str, Drop], kind: str) -> None:
    """One request is the first and the last; of an empty file too."""
    site = drops[kind].site
    for content in (CONTENT, b""):
        headers = {"Upload-Length": str(len(content))} | ({"Content-Type": OCTETS} if content else {})
        answer = site.post(headers, content)
        assert answer.status == 201
        url = answer.needed("Location")
        assert answer.needed("Dropoff-Receipt") == f"{url}/receipt"
        assert _payload(_get(site, url))["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_receipt_of_a_concatenation_is_named_by_its_answer(drops: dict[str, Drop], kind: str) -> None:
    """Parts have none; the same parts again get the same; many at once are one."""
    site = drops[kind].site
    parts = []
    for piece in (CONTENT[:5000], CONTENT[5000:]):
        part = site.create(len(piece), {"Upload-Concat": "partial"})
        assert site.patch(part, 0, piece).header("Dropoff-Receipt") is None
        assert _get(site, part).status == 404
        parts.append(part)
    concat: dict[str, str | None] = {"Upload-Concat": f"final;{' '.join(parts)}", "Upload-Metadata": metadata(name="n")}
    answers = _at_once(site, concat, 8)
    assert {answer.status for answer in answers} == {201}
    assert len({answer.needed("Location") for answer in answers}) == 1
    assert len({answer.needed("Dropoff-Receipt") for answer in answers}) == 1
    url = answers[0].needed("Location")
    payload = _payload(_get(site, url))
    assert (payload["sha256"], payload["path"], payload["length"]) == (SHA256, "n", len(CONTENT))


def _at_once(site: TusSite, headers: dict[str, str | None], count: int) -> list[Response]:
    """Send the same creation on many connections before reading any answer."""
    connections = [site.connect() for _ in range(count)]
    try:
        for connection in connections:
            connection.send(site.message("POST", site.upload_url, site.post_headers(headers)))
        return [connection.read_response() for connection in connections]
    finally:
        for connection in connections:
            connection.close()


def test_receipt_is_for_the_whole_url_alone(drops: dict[str, Drop]) -> None:
    """Another token, another drop-off, and every other method are refused."""
    site, other = drops["managed-hybrid"].site, drops["sealed-hybrid"].site
    url = site.upload(CONTENT)
    assert _get(site, url[:-1] + ("0" if url[-1] != "0" else "1")).status == 404
    assert _get(site, other.upload_url + url.rpartition("/")[2]).status == 404
    for method in ("HEAD", "PATCH", "POST", "DELETE"):
        answer = site.request(method, f"{url}/receipt", {"Tus-Resumable": TUS})
        assert answer.status == 405
        assert answer.needed("Allow") == "GET"


def test_receipt_of_an_ended_upload_is_gone(server: ServerProcess, drops: dict[str, Drop]) -> None:
    """Nobody gets the receipt of a shredded upload."""
    site = drops["managed-hybrid"].site
    url = site.upload(CONTENT)
    server.cli("upload", "delete", url, "--yes")
    answer = _get(site, url)
    assert (answer.status, answer.error_code) == (410, "ERR_UPLOAD_GONE")


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that a test may kill."""
    with ServerProcess(tmp_path_factory.mktemp("killed")) as running:
        yield running


def test_receipt_after_a_kill_in_the_middle_has_both_copies(own_server: ServerProcess) -> None:
    """The process that finishes never saw the token until then; without a client's last word it has none at all."""
    site = own_server.create_drop("--sealed").site
    url = site.create(len(CONTENT))
    site.patch(url, 0, CONTENT[:5000])
    own_server.kill9()
    own_server.start(failpoint="before-receipt:1")
    with pytest.raises(ConnectionCutError):
        site.patch(url, 5000, CONTENT[5000:])
    own_server.kill9()
    own_server.start()
    deadline = time.monotonic() + 10
    while site.head(url).status == 423:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert _payload(_get(site, url))["sha256"] == SHA256


def test_receipts_of_many_uploads_in_one_file_verify(server: ServerProcess, tmp_path: Path) -> None:
    """As the upload page saves them: one that does not verify fails all, and a file is what one of them is of."""
    drop = server.create_drop()
    contents = [f"content {number}".encode() for number in range(3)]
    urls = [
        drop.site.upload(content, {"Upload-Metadata": metadata(filename=f"{n}.txt", relativePath=f"a/{n}.txt")})
        for n, content in enumerate(contents)
    ]
    lines = [_get(drop.site, url).body.decode() for url in urls]
    (tmp_path / "receipts.txt").write_text("\n" + "\r\n".join(lines) + "\n")
    (tmp_path / "file").write_bytes(contents[1])
    (tmp_path / "other").write_bytes(b"content 7")
    key = server.cli_json("keys", "show")["key"]
    verify = ("verify-receipt", "receipts.txt", "--key", key)
    told = json.loads(run_warm(*verify, "--json", folder=tmp_path).stdout)
    assert [receipt["upload"] for receipt in told["receipts"]] == [upload_id_of(url) for url in urls]
    assert (told["receipt"], told["file"]) == (None, None)
    told = json.loads(run_warm(*verify, "file", "--json", folder=tmp_path).stdout)
    assert (told["receipt"]["path"], told["receipt"]["relative_path"]) == ("1.txt", "a/1.txt")
    assert told["file"]["length"] == len(contents[1])
    said = run_warm(*verify, folder=tmp_path)
    assert [line.split()[-1] for line in said.stdout.decode().splitlines()] == ["a/0.txt", "a/1.txt", "a/2.txt"]
    assert b"all 3 signatures are the server's" in said.stderr
    done = run_warm(*verify, "other", folder=tmp_path)
    assert done.returncode == 1
    assert b"none of the 3 receipts" in done.stderr
    forged = [*lines[:2], lines[2].replace("a/2.txt", "a/9.txt")]
    (tmp_path / "receipts.txt").write_text("".join(forged))
    done = run_warm(*verify, folder=tmp_path)
    assert done.returncode == 1
    assert b"receipt 3 of 3 was not signed by this key" in done.stderr
    assert done.stdout == b""
