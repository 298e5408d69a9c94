"""Nothing that was sent in confidence is found on the disk or in a log: contents, names, codes, tokens.

Uploads go in by every path, then come requests that are wrong in ways that make servers quote them. Then
every file of the server, and all it said, is searched for each secret in each form (see `needles`), and for
the digests of the contents.
"""

import base64
import contextlib
import hashlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import needles
from tests.support.api_client import EVERY_SCOPE, Api
from tests.support.server_process import ServerProcess, token_of
from tests.support.tus_raw import (
    OCTETS,
    TUS,
    Headers,
    RawConnection,
    Response,
    TusSite,
    chunked,
    metadata,
    request_bytes,
)

_CONTENT = f"content marker {random.getrandbits(128):032x} and more of it ".encode()
_NAME = f"name-marker-{random.getrandbits(64):016x}-Prüfung.txt"
_NOTE = f"note-marker-{random.getrandbits(64):016x}"
_WRONG_CODE = "WR0N-GC0D-EMRK-7Q2Z"
_WRONG_TOKEN = f"dropoff_{random.getrandbits(256):064x}"
_LOW_ENTROPY = b"diagnosis: positive"


class Confidences:
    """The sent bytes, and the answers."""

    def __init__(self, server: ServerProcess) -> None:
        """Begin with what belongs to the drop-off."""
        self.server = server
        self.site: TusSite = server.drop.site
        self.tokens: set[str] = set()
        scopes = [part for scope in EVERY_SCOPE for part in ("--scope", scope)]
        self.api_token: str = server.cli_json("token", "create", "--name", "leak", *scopes)["token"]
        self.contents: set[bytes] = {_CONTENT}
        self.answers: list[bytes] = []

    @property
    def code(self) -> str:
        """Return the code of the drop-off."""
        return self.site.code or ""

    @property
    def places(self) -> list[Path]:
        """Return where to search: the data folder with catalog and keys, and all that `serve` wrote."""
        return [self.server.data, *self.server.folder.glob("serve.*")]

    def secrets(self) -> set[bytes]:
        """Return every form of every secret."""
        texts = {
            _NAME,
            _NOTE,
            _WRONG_CODE,
            _WRONG_CODE.replace("-", ""),
            self.code,
            self.code.replace("-", ""),
            self.api_token,
            self.api_token.removeprefix("dropoff_"),
            _WRONG_TOKEN,
        }
        found = {needle for text in texts | self.tokens for needle in needles.of_text(text)}
        found |= {needle for token in self.tokens for needle in needles.of_bytes(bytes.fromhex(token))}
        found |= needles.of_bytes(bytes.fromhex(self.api_token.removeprefix("dropoff_")))
        found |= needles.of_bytes(_CONTENT) | needles.of_bytes(_CONTENT[15:40])
        found |= {needle for content in self.contents for needle in needles.digests_of(content)}
        found |= {needle for text in texts | self.tokens for needle in needles.digests_of(text.encode())}
        return found

    def keep(self, answer: Response) -> Response:
        """Remember what an answer says, and the token if it is a creation's."""
        self.answers.append(answer.body)
        if location := answer.header("Location"):
            self.tokens.add(token_of(location))
        return answer

    def create(self, headers: Headers, body: bytes = b"") -> str:
        """Create an upload whose metadata are secrets."""
        given = {"Upload-Metadata": metadata(filename=_NAME, note=_NOTE), **headers}
        answer = self.keep(self.site.post(given, body))
        assert answer.status == 201, answer
        return answer.needed("Location")

    def raw(self, data: bytes, *, monitoring: bool = False) -> None:
        """Send bytes as they are, to either listener, and remember whatever comes back."""
        port = self.server.port + (1 if monitoring else 0)
        with RawConnection("127.0.0.1", port, timeout_seconds=5) as connection, contextlib.suppress(OSError):
            connection.send(data)
            self.keep(connection.read_response())


def _upload_by_every_path(told: Confidences) -> None:
    site, length = told.site, {"Upload-Length": str(len(_CONTENT))}
    url = told.create({**length})
    told.keep(site.patch(url, 0, _CONTENT))
    told.create({**length, "Content-Type": OCTETS}, _CONTENT)
    told.create({**length, "Dropoff-Code": None, "Upload-Metadata": metadata(filename=_NAME, code=told.code)})
    digest = hashlib.sha256(_CONTENT).hexdigest()
    url = told.create({**length, "Upload-Metadata": metadata(filename=_NAME, note=_NOTE, sha256=digest)})
    told.keep(site.patch(url, 0, chunked(_CONTENT), {"Transfer-Encoding": "chunked"}))
    url = told.create({**length, "Upload-Metadata": metadata(filename=_NAME, sha256=digest)})
    assert told.keep(site.patch(url, 0, _CONTENT[::-1])).status == 422
    url = told.create(length)
    checksum = {"Upload-Checksum": "sha1 " + base64.b64encode(bytes(20)).decode()}
    assert told.keep(site.patch(url, 0, _CONTENT, checksum)).status == 460
    told.keep(site.patch(url, 0, _CONTENT[:20]))
    told.keep(site.delete(url))
    parts = [told.create({**length, "Upload-Concat": "partial"}) for _ in range(2)]
    for part in parts:
        told.keep(site.patch(part, 0, _CONTENT))
    told.create({"Upload-Concat": "final;" + " ".join(parts)})
    told.contents |= {_CONTENT * 2, _CONTENT[::-1], _CONTENT[:20]}
    # Guessable content must not be confirmed: small pieces, each committed for itself.
    url = told.create({"Upload-Length": str(len(_LOW_ENTROPY))})
    for offset in range(len(_LOW_ENTROPY)):
        piece = _LOW_ENTROPY[offset : offset + 1]
        assert told.keep(site.patch(url, offset, piece)).status == 204
        told.contents |= {piece, _LOW_ENTROPY[: offset + 1]}
    assert told.server.export(url) == _LOW_ENTROPY


def _ask_wrongly(told: Confidences) -> None:
    site, code, token = told.site, told.code, next(iter(told.tokens))
    url = site.upload_url + token
    host = {"Host": "localhost"}
    for path in ("/extra", "?token=" + token, "/receipt/x", "#x", "%00", "/../x", "%0d%0aX: y"):
        for method in ("HEAD", "PATCH", "GET", "POST", "DELETE", "BREW"):
            told.keep(site.request(method, url + path, {"Tus-Resumable": TUS, "Referer": url}))
    for target in (
        f"/files/{token}",
        f"/{token}",
        f"/d/{token}",
        f"/d/{site.code}",
        f"/api/v1/{token}",
        f"*{code}",
    ):
        told.raw(request_bytes("GET", target, {**host, "Dropoff-Code": code}))
    told.keep(site.patch(url, 0, b"", {"Upload-Offset": code, "Upload-Checksum": code, "Content-Type": token}))
    told.keep(site.post({"Upload-Length": code, "Upload-Metadata": f"code {code}"}))
    told.keep(site.post({"Upload-Length": "5", "Upload-Concat": f"final;{url} {code}"}))
    told.keep(site.post({"Upload-Length": "5", "Upload-Metadata": metadata(code=code) + ",filename !!!"}))
    told.keep(site.post({"Upload-Length": "5", "Dropoff-Code": _WRONG_CODE}))
    told.keep(site.post({"Upload-Length": "5", "Dropoff-Code": None, "Upload-Metadata": metadata(code=_WRONG_CODE)}))
    for filler in (18_000, 40_000, 300_000):
        told.keep(site.post({"Upload-Length": "5", "Upload-Metadata": "a " * 4 + "A" * filler}))
        told.keep(site.post({"Upload-Length": "5", "X-Long": code + "A" * filler}))
    for line in (
        f"Dropoff-Code {code}",
        f"Dropoff-Code\x00: {code}",
        f"Dropoff Code: {code}",
        f": {code}",
        f"Dropoff-Code: {code}\x01\x00",
        f"Content-Length: {code}",
        f"Content-Length: 5\r\nContent-Length: {token}",
        f"Transfer-Encoding: {code}",
        f" {code}",
    ):
        told.raw(f"POST /files/{token} HTTP/1.1\r\nHost: x\r\nDropoff-Code: {code}\r\n{line}\r\n\r\n".encode())
    for first in (
        f"{code} / HTTP/1.1",
        f"GET /{token}",
        f"GET /{token} HTTP/9.9",
        f"{token}",
        f"GET {code} {token}",
    ):
        told.raw(f"{first}\r\nDropoff-Code: {code}\r\n\r\n".encode())
    bad_chunk = {**site.patch_headers(0), "Transfer-Encoding": "chunked", **host}
    told.raw(request_bytes("PATCH", f"/files/{token}", bad_chunk, f"{code}\r\nhello".encode()))
    told.raw(b"\x16\x03\x01" + code.encode() + b"\r\n\r\n")


def _ask_wrongly_elsewhere(told: Confidences) -> None:
    """Put secrets into headers that servers and proxies like to log, into a body's framing, and to monitoring."""
    site, code, token = told.site, told.code, next(iter(told.tokens))
    url, host = site.upload_url + token, {"Host": "localhost"}
    logged = ("X-Request-ID", "Forwarded", "X-Forwarded-For", "Origin", "Range", "Authorization", "Cookie", "Upgrade")
    for name, secret in itertools.product(logged, (code, token, _NAME)):
        told.keep(site.request("HEAD", url, {"Tus-Resumable": TUS, name: secret}))
    chunks = {**site.patch_headers(0), "Transfer-Encoding": "chunked", **host}
    for body in (f"5;{code}\r\nhello\r\n", f"5\r\nhello{token}\r\n", f"{token}\r\n"):
        told.raw(request_bytes("PATCH", f"/files/{token}", chunks, body.encode()))
    for path in (f"/healthz?{token}", f"/{code}", f"/metrics/{token}", f"/readyz#{code}"):
        told.raw(request_bytes("GET", path, {**host, "X-Long": code}), monitoring=True)
    told.raw(f"{code} {token}\r\n{code}\r\n\r\n".encode(), monitoring=True)
    told.raw(f"GET / HTTP/1.1\r\nDropoff Code: {code}\r\n\r\n".encode(), monitoring=True)


def _operate(told: Confidences) -> None:
    """Use the API rightly, and put its token wherever it does not belong."""
    api, secret, host = Api(told.server, told.api_token), told.api_token, {"Host": "localhost"}
    answers = [api("GET", "/drops"), api("GET", "/uploads"), Api(told.server, _WRONG_TOKEN)("GET", "/drops")]
    upload = next(row["id"] for row in answers[1].json["uploads"] if row["state"] == "complete")
    answers += [api("GET", f"/uploads/{upload}/{what}") for what in ("content", "receipt")]
    assert [answer.status for answer in answers] == [200, 200, 401, 200, 200]
    told.answers += [answer.body for answer in (answers[0], answers[2])]
    for body in ({"name": 1, secret: secret}, {"name": "x", "id": secret}, {"name": "x", "recipients": [secret]}):
        told.answers.append(api("POST", "/drops", body).body)
    told.answers.append(api("POST", "/drops", f"{{{secret}".encode()).body)
    for path in (f"/uploads?cursor={secret}", f"/uploads/{secret}", f"/drops/{secret}/close", f"/{secret}"):
        told.answers.append(api("GET", path).body)
    for name in ("Authorization", "Dropoff-Code", "X-Request-ID", "Cookie", "Range"):
        told.raw(request_bytes("GET", "/api/v1/drops", {**host, name: secret}))
    told.raw(f"GET /api/v1/drops HTTP/1.1\r\nAuthorization Bearer {secret}\r\n\r\n".encode())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confidences]:
    """Tell a server secrets, with the most talkative log, by all right and wrong ways."""
    with ServerProcess(tmp_path_factory.mktemp("leak"), environment={"LOG__LEVEL": "debug"}) as server:
        confidences = Confidences(server)
        _upload_by_every_path(confidences)
        _ask_wrongly(confidences)
        _ask_wrongly_elsewhere(confidences)
        _operate(confidences)
        server.logged()
        yield confidences


def test_needles_find_a_secret_in_any_form(tmp_path: Path) -> None:
    """The search finds what it looks for: raw, encoded, in a file's name, at any place in base64."""
    secret = "Prüfung-0123456789"
    forms = {
        "raw": secret.encode(),
        "json": b'{"name": "Pr\\u00fcfung-0123456789"}',
        "percent": b"Pr%C3%BCfung-0123456789",
        "hex": secret.encode().hex().encode(),
        **{f"base64-{n}": base64.b64encode(b"x" * n + secret.encode() + b"tail") for n in range(4)},
        "digest": base64.b64encode(b"z" + hashlib.sha256(secret.encode()).digest() + b"y"),
    }
    for name, form in forms.items():
        (tmp_path / name).write_bytes(b"before " + form + b" after")
    (tmp_path / f"named {secret}").touch()
    wanted = needles.of_text(secret) | needles.digests_of(secret.encode())
    found = needles.find(wanted, [tmp_path])
    for name in (*forms, "named"):
        assert any(f"/{name}" in line for line in found), name


def test_leak_search_sees_the_store_the_catalog_and_the_log(told: Confidences) -> None:
    """Allowed values are found: the drop-off's id in the catalog, an upload's in the store and the log."""
    upload = told.server.uploads(told.server.drop)[0]["id"].encode()
    drop = told.server.drop.id.encode()
    assert any("/uploads/" in line for line in needles.find([upload], told.places))
    assert any("serve." in line for line in needles.find([upload], told.places))
    assert needles.find([drop], [told.server.data])


def test_leak_of_any_secret_while_running_is_not_found(told: Confidences) -> None:
    """While the server runs, store, keys, catalog (with its journal) and log hold no secret in any form."""
    assert needles.find(told.secrets(), told.places) == []


def test_leak_of_any_secret_in_the_audit_is_not_found(told: Confidences, tmp_path: Path) -> None:
    """Neither its rows nor an export of them hold a secret, and what may be there is."""
    told.server.cli("audit", "export", "--output", str(tmp_path / "audit"))
    assert needles.find([told.server.drop.id.encode()], [tmp_path])
    assert needles.find(told.secrets(), [tmp_path]) == []


def test_leak_of_any_secret_after_stop_and_kill_is_not_found(told: Confidences) -> None:
    """Neither a stop nor a kill leaves more behind than running did."""
    told.server.stop()
    assert needles.find(told.secrets(), told.places) == []
    told.server.start()
    url = told.create({"Upload-Length": str(2 * len(_CONTENT))})
    told.keep(told.site.patch(url, 0, _CONTENT))
    told.server.kill9()
    assert needles.find(told.secrets(), told.places) == []
    told.server.start()


def test_leak_of_code_or_token_in_an_error_is_not_found(told: Confidences) -> None:
    """No refusal repeats what it was sent, and none shows a traceback."""
    said = b"\n".join(told.answers).decode("latin-1")
    for secret in (
        told.code,
        told.code.replace("-", ""),
        _WRONG_CODE,
        _NOTE,
        told.api_token,
        _WRONG_TOKEN,
        *told.tokens,
    ):
        assert secret.lower() not in said.lower()
    assert "Traceback" not in said
    assert "Traceback" not in told.server.logged()
