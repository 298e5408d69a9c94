"""curl, as a person would type it: each request by hand, also bodies of unknown length from a pipe."""

import base64
import random
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.received import assert_received
from tests.support.programs import require_program
from tests.support.server_process import Drop, ServerProcess

_TUS = ("-H", "Tus-Resumable: 1.0.0")
_OCTETS = ("-H", "Content-Type: application/offset+octet-stream")


class Answer:
    """The last response that curl received."""

    def __init__(self, output: str) -> None:
        """Split curl's `--include` output; interim responses come first."""
        head = next(part for part in reversed(output.split("\r\n\r\n")) if part.startswith("HTTP/1.1 "))
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }


class Curl:
    """Runs curl in a folder."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder for the files to send."""
        self._curl = require_program("curl")
        self.folder = folder

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> Answer:
        """Run one request and return its answer."""
        done = subprocess.run(
            [self._curl, "--silent", "--show-error", "--include", "--max-time", "30", *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            check=True,
        )
        return Answer(done.stdout.decode())


@pytest.fixture
def curl(tmp_path: Path) -> Curl:
    """Return curl with a folder of its own."""
    return Curl(tmp_path)


def _code(drop: Drop) -> tuple[str, str]:
    return "-H", f"Dropoff-Code: {drop.code}"


def _named(filename: str) -> tuple[str, str]:
    return "-H", f"Upload-Metadata: filename {base64.b64encode(filename.encode()).decode()}"


def _create(curl: Curl, drop: Drop, filename: str, *extra: str) -> str:
    created = curl("-X", "POST", *_TUS, *_code(drop), *_named(filename), *extra, drop.upload_url)
    assert created.status == 201
    return created.headers["location"]


def test_curl_create_ask_send_arrives_whole(server: ServerProcess, drop: Drop, curl: Curl) -> None:
    """POST, PATCH of the first half, HEAD, PATCH of the rest."""
    content = random.randbytes(300_000)
    (curl.folder / "first").write_bytes(content[:100_000])
    (curl.folder / "rest").write_bytes(content[100_000:])
    url = _create(curl, drop, "curl.bin", "-H", f"Upload-Length: {len(content)}")
    first = curl("-X", "PATCH", *_TUS, *_OCTETS, "-H", "Upload-Offset: 0", "--data-binary", "@first", url)
    assert (first.status, first.headers["upload-offset"]) == (204, "100000")
    asked = curl("--head", *_TUS, url)
    assert (asked.status, asked.headers["upload-offset"]) == (200, "100000")
    assert asked.headers["upload-length"] == "300000"
    rest = curl("-X", "PATCH", *_TUS, *_OCTETS, "-H", "Upload-Offset: 100000", "--data-binary", "@rest", url)
    assert (rest.status, rest.headers["upload-offset"]) == (204, "300000")
    assert_received(server, drop, url, content, filename="curl.bin")


def test_curl_creation_with_upload_arrives_whole(server: ServerProcess, drop: Drop, curl: Curl) -> None:
    """One POST that brings the file with it; curl asks with `Expect: 100-continue` first."""
    content = random.randbytes(2_000_000)
    (curl.folder / "file").write_bytes(content)
    created = curl(
        *("-X", "POST", *_TUS, *_OCTETS, *_code(drop), *_named("one.bin")),
        *("-H", f"Upload-Length: {len(content)}", "-H", "Expect: 100-continue"),
        *("--data-binary", "@file", drop.upload_url),
    )
    assert (created.status, created.headers["upload-offset"]) == (201, "2000000")
    assert re.fullmatch(r"[0-9a-f]{32}", created.headers["dropoff-upload-id"])
    row = assert_received(server, drop, created.headers["location"], content, filename="one.bin")
    assert row["id"] == created.headers["dropoff-upload-id"]


@pytest.mark.parametrize("length", [10, 3_000_000])
def test_curl_chunked_patch_without_content_length_arrives_whole(
    server: ServerProcess, drop: Drop, curl: Curl, length: int
) -> None:
    """A body from a pipe has no Content-Length; it ends the upload where the declared length is reached."""
    content = random.randbytes(length)
    url = _create(curl, drop, "pipe.bin", "-H", f"Upload-Length: {length}")
    sent = curl(
        *("-X", "PATCH", *_TUS, *_OCTETS, "-H", "Upload-Offset: 0", "-H", "Transfer-Encoding: chunked"),
        *("-T", "-", url),
        stdin=content,
    )
    assert (sent.status, sent.headers["upload-offset"]) == (204, str(length))
    assert_received(server, drop, url, content, filename="pipe.bin")


def test_curl_chunked_patch_of_deferred_length_is_declared_afterwards(
    server: ServerProcess, drop: Drop, curl: Curl
) -> None:
    """A pipe of unknown length goes into a deferred upload, whose length an empty PATCH then declares."""
    content = random.randbytes(1_500_000)
    url = _create(curl, drop, "deferred.bin", "-H", "Upload-Defer-Length: 1")
    sent = curl(
        *("-X", "PATCH", *_TUS, *_OCTETS, "-H", "Upload-Offset: 0", "-H", "Transfer-Encoding: chunked"),
        *("-T", "-", url),
        stdin=content,
    )
    assert (sent.status, sent.headers["upload-offset"]) == (204, "1500000")
    asked = curl("--head", *_TUS, url)
    assert asked.headers["upload-defer-length"] == "1"
    ended = curl(
        *("-X", "PATCH", *_TUS, *_OCTETS, "-H", "Upload-Offset: 1500000", "-H", "Upload-Length: 1500000"),
        *("--data-binary", "", url),
    )
    assert ended.status == 204
    assert_received(server, drop, url, content, filename="deferred.bin")


def test_curl_chunked_creation_with_upload_arrives_whole(server: ServerProcess, drop: Drop, curl: Curl) -> None:
    """A creation may bring a chunked body too."""
    content = random.randbytes(1_200_000)
    created = curl(
        *("-X", "POST", *_TUS, *_OCTETS, *_code(drop), *_named("chunked.bin")),
        *("-H", f"Upload-Length: {len(content)}", "-H", "Transfer-Encoding: chunked"),
        *("-T", "-", drop.upload_url),
        stdin=content,
    )
    assert (created.status, created.headers["upload-offset"]) == (201, "1200000")
    assert_received(server, drop, created.headers["location"], content, filename="chunked.bin")


def test_curl_compressed_file_is_stored_as_sent(server: ServerProcess, drop: Drop, curl: Curl) -> None:
    """Content-Encoding is not decoded: offsets count the bytes on the wire."""
    content = base64.b64decode("H4sIAAAAAAACA8tIzcnJVyjPL8pJUUgsBgCk3oHlEAAAAA==")
    (curl.folder / "file.gz").write_bytes(content)
    url = _create(curl, drop, "file.gz", "-H", f"Upload-Length: {len(content)}")
    sent = curl(
        *("-X", "PATCH", *_TUS, *_OCTETS, "-H", "Upload-Offset: 0", "-H", "Content-Encoding: gzip"),
        *("--data-binary", "@file.gz", url),
    )
    assert (sent.status, sent.headers["upload-offset"]) == (204, str(len(content)))
    assert_received(server, drop, url, content, filename="file.gz")


def test_curl_without_code_is_refused(drop: Drop, curl: Curl) -> None:
    """A POST without the code is answered 403."""
    assert curl("-X", "POST", *_TUS, "-H", "Upload-Length: 1", drop.upload_url).status == 403
