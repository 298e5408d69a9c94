"""Guessable content is not confirmed: no digest of a segment, a file or a metadata value is in the clear anywhere.

A plain digest of low-entropy content gives the content back. It goes in byte by byte, each byte a commit of its own and
with a checksum that the client sends along; then store, keys, catalog and everything that the server said are searched.
"""

import base64
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.e2e import needles
from tests.support.server_process import Drop, ServerProcess
from tests.support.tus_raw import metadata

_CONTENT = b"+, 47 y"
_VALUES = {"filename": "result.txt", "note": "negative", "ward": "7"}
# A machine under load is given time for the requests of the fixture.
pytestmark = pytest.mark.timeout(240)
_FIXED_LENGTH = sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake"))


class _Guessable:
    """Everything that somebody could guess and would want to see confirmed."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        pieces = {_CONTENT[at : at + 1] for at in range(len(_CONTENT))}
        prefixes = {_CONTENT[:stop] for stop in range(1, len(_CONTENT) + 1)}
        self.values = pieces | prefixes | {value.encode() for value in _VALUES.values()}

    @property
    def places(self) -> list[Path]:
        """Return the data folder with catalog and keys, and all that `serve` wrote."""
        return [self.server.data, *self.server.folder.glob("serve.*")]


def _digests(value: bytes) -> set[bytes]:
    """Return all plain digests of a value: every algorithm of Python's, and BLAKE3."""
    return {hashlib.new(name, value).digest() for name in _FIXED_LENGTH} | {blake3(value).digest()}


def _forms(value: bytes) -> set[bytes]:
    return {form for digest in _digests(value) for form in needles.of_bytes(digest)}


def _checksum_forms(value: bytes) -> set[bytes]:
    """Return CRC-32 and Adler-32 as text. Their four raw bytes are in any random megabyte by chance."""
    found: set[bytes] = set()
    for number in (zlib.crc32(value), zlib.adler32(value)):
        for raw in (number.to_bytes(4, "big"), number.to_bytes(4, "little")):
            found |= {b'"' + raw.hex().encode() + b'"', base64.b64encode(raw), b":" + raw.hex().encode() + b","}
        found |= {b":" + str(number).encode() + b",", b'"' + str(number).encode() + b'"'}
    return found


def _upload(drop: Drop, *, partial: bool = False) -> str:
    """Send the content byte by byte, with a checksum for each and a digest of the whole."""
    site = drop.site
    given = metadata(**_VALUES, sha256=hashlib.sha256(_CONTENT).hexdigest())
    headers = {"Upload-Length": str(len(_CONTENT)), "Upload-Metadata": given}
    if partial:
        headers["Upload-Concat"] = "partial"
    url = site.post(headers).needed("Location")
    for at in range(len(_CONTENT)):
        piece = _CONTENT[at : at + 1]
        checksum = base64.b64encode(hashlib.sha1(piece, usedforsecurity=False).digest()).decode()
        assert site.patch(url, at, piece, {"Upload-Checksum": f"sha1 {checksum}"}).status == 204
        if at == len(_CONTENT) // 2:
            assert site.patch(url, at + 1, b"~", {"Upload-Checksum": f"sha1 {checksum}"}).status == 460
    return url


@pytest.fixture(scope="module")
def guessable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Guessable]:
    """Upload the content to a managed and a sealed drop-off, as a part and whole, with the most talkative log."""
    with ServerProcess(tmp_path_factory.mktemp("digests"), environment={"LOG__LEVEL": "debug"}) as server:
        url = _upload(server.drop)
        _upload(server.create_drop("--sealed", name="sealed"))
        part = _upload(server.drop, partial=True)
        assert server.drop.site.post({"Upload-Concat": f"final;{part}"}).status == 201
        half = server.drop.site.post({"Upload-Length": "100"}).needed("Location")
        server.drop.site.patch(half, 0, _CONTENT)
        assert server.export(url) == _CONTENT
        server.logged()
        yield _Guessable(server)


def test_digest_search_finds_what_is_planted(tmp_path: Path) -> None:
    """The search finds any of the digests, raw, in hexadecimal and inside base64, and a checksum written as text."""
    forms = _forms(b"x")
    for number, digest in enumerate(sorted(_digests(b"x"))):
        for name, planted in {
            "raw": digest,
            "hex": digest.hex().encode(),
            "base64": base64.b64encode(b"ab" + digest + b"c"),
        }.items():
            path = tmp_path / f"{name}-{number}"
            path.write_bytes(b"before" + planted + b"after")
            assert needles.find(forms, [path]), (name, digest)
    path = tmp_path / "crc"
    path.write_text(f'{{"crc":{zlib.crc32(b"x")},"o":1}}')
    assert needles.find(_checksum_forms(b"x"), [path])


def test_digest_of_anything_guessable_is_found_nowhere(guessable: _Guessable) -> None:
    """Not of a byte, a prefix, the whole or a metadata value; in no algorithm and no encoding."""
    wanted = {form for value in guessable.values for form in _forms(value) | _checksum_forms(value)}
    assert needles.find(wanted, guessable.places) == []


def test_digest_search_looked_at_logs_and_stores(guessable: _Guessable) -> None:
    """The places hold as many commits as there were bytes, and the server's own words."""
    logs = sorted(guessable.server.data.rglob("log"), key=lambda path: path.stat().st_size)
    assert logs[-1].read_bytes().count(b"\n") >= len(_CONTENT)
    assert any(path.stat().st_size > 1000 for path in guessable.server.folder.glob("serve.*"))
