"""tus-js-client, with every option that changes what goes over the wire.

Each test also asserts that the option did change the wire, so that it cannot pass by falling back.
"""

import json
import random
import subprocess
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import pytest

from tests.e2e.cutting_link import CuttingLink
from tests.e2e.received import assert_received
from tests.support.programs import missing_allowed, require_program
from tests.support.server_process import Drop, ServerProcess

_CLIENTS = Path(__file__).parent / "clients"


class Sent(TypedDict):
    """One request as the client sent it, and how it was answered."""

    method: str
    url: str
    headers: dict[str, str]
    status: int | None
    location: str | None


class Outcome(TypedDict):
    """The output of `upload.mjs`."""

    outcome: str
    url: str | None
    error: NotRequired[str]
    status: NotRequired[int | None]
    requests: list[Sent]
    previousUploads: int


@pytest.fixture(scope="module")
def node() -> Path:
    """Find Node and the installed client."""
    if not (_CLIENTS / "node_modules" / "tus-js-client").is_dir():
        message = f"tus-js-client is not installed: run npm ci in {_CLIENTS}"
        if missing_allowed():
            pytest.skip(message)
        pytest.fail(message, pytrace=False)
    return require_program("node")


class TusJs:
    """Runs upload jobs for one file."""

    def __init__(self, node: Path, drop: Drop, folder: Path) -> None:
        """Keep where things are; `content` is random for each test."""
        self._node = node
        self.drop = drop
        self.folder = folder
        self.file = folder / "source.bin"
        self.content = b""

    def write(self, length_bytes: int) -> bytes:
        """Write a file of random bytes to upload."""
        self.content = random.randbytes(length_bytes)
        self.file.write_bytes(self.content)
        return self.content

    def run(self, *, options: dict[str, Any] | None = None, **job: Any) -> Outcome:  # noqa: ANN401 - it is JSON
        """Run one job to its end, with the code in the header unless the job has headers of its own."""
        full = {
            "endpoint": self.drop.upload_url,
            "file": str(self.file),
            "headers": self.drop.headers,
            "options": options or {},
            **job,
        }
        done = subprocess.run(
            [self._node, _CLIENTS / "upload.mjs"],
            input=json.dumps(full).encode(),
            capture_output=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return cast("Outcome", json.loads(done.stdout))


@pytest.fixture
def tus_js(node: Path, drop: Drop, tmp_path: Path) -> TusJs:
    """Return the client with a folder of its own."""
    return TusJs(node, drop, tmp_path)


def _methods(outcome: Outcome) -> list[str]:
    return [request["method"] for request in outcome["requests"]]


def _header(request: Sent, name: str) -> str | None:
    return request["headers"].get(name.lower())


def test_tus_js_plain_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """A file sent with default options, in one PATCH, is what the operator exports."""
    content = tus_js.write(3_000_001)
    outcome = tus_js.run(metadata={"filename": "plain.bin", "filetype": "application/octet-stream"})
    assert outcome["outcome"] == "success", outcome
    assert _methods(outcome) == ["POST", "PATCH"]
    assert_received(server, tus_js.drop, outcome["url"], content, filename="plain.bin")


def test_tus_js_chunk_size_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """A file cut into chunks at no block's border is put together again."""
    content = tus_js.write(1_000_000)
    outcome = tus_js.run(metadata={"filename": "chunks.bin"}, options={"chunkSize": 300_001})
    assert outcome["outcome"] == "success", outcome
    assert _methods(outcome) == ["POST", *["PATCH"] * 4]
    assert_received(server, tus_js.drop, outcome["url"], content, filename="chunks.bin")


def test_tus_js_override_patch_method_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """A client behind a proxy that knows no PATCH sends POST with X-HTTP-Method-Override."""
    content = tus_js.write(200_000)
    outcome = tus_js.run(
        metadata={"filename": "override.bin"}, options={"overridePatchMethod": True, "chunkSize": 150_000}
    )
    assert outcome["outcome"] == "success", outcome
    assert _methods(outcome) == ["POST", "POST", "POST"]
    assert [_header(request, "X-HTTP-Method-Override") for request in outcome["requests"]] == [
        None,
        "PATCH",
        "PATCH",
    ]
    assert_received(server, tus_js.drop, outcome["url"], content, filename="override.bin")


def test_tus_js_data_during_creation_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """A file that comes whole with its creation needs no PATCH."""
    content = tus_js.write(500_000)
    outcome = tus_js.run(metadata={"filename": "creation.bin"}, options={"uploadDataDuringCreation": True})
    assert outcome["outcome"] == "success", outcome
    assert _methods(outcome) == ["POST"]
    assert_received(server, tus_js.drop, outcome["url"], content, filename="creation.bin")


def test_tus_js_data_during_creation_in_chunks_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """The first chunk comes with the creation, the others in PATCHes."""
    content = tus_js.write(500_000)
    outcome = tus_js.run(
        metadata={"filename": "creation-chunks.bin"},
        options={"uploadDataDuringCreation": True, "chunkSize": 200_000},
    )
    assert outcome["outcome"] == "success", outcome
    assert _methods(outcome) == ["POST", "PATCH", "PATCH"]
    assert_received(server, tus_js.drop, outcome["url"], content, filename="creation-chunks.bin")


# tus-js-client 4.3 in Node never finishes a stream that ends at a chunk's border or is empty, and cannot send
# an empty file with its creation. The raw client sends what a browser sends there: test_details.


def test_tus_js_deferred_length_from_stream_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """A stream of unknown length declares it with its last chunk."""
    content = tus_js.write(450_001)
    outcome = tus_js.run(
        stream=True,
        metadata={"filename": "stream.bin"},
        options={"uploadLengthDeferred": True, "chunkSize": 100_000},
    )
    assert outcome["outcome"] == "success", outcome
    assert _header(outcome["requests"][0], "Upload-Defer-Length") == "1"
    declared = [_header(request, "Upload-Length") for request in outcome["requests"]]
    assert declared == [*[None] * (len(declared) - 1), "450001"]
    assert len(declared) > 4
    assert_received(server, tus_js.drop, outcome["url"], content, filename="stream.bin")


def test_tus_js_deferred_length_from_file_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """A file whose length is held back declares it in its only PATCH."""
    content = tus_js.write(450_001)
    outcome = tus_js.run(metadata={"filename": "held-back.bin"}, options={"uploadLengthDeferred": True})
    assert outcome["outcome"] == "success", outcome
    assert [_header(request, "Upload-Length") for request in outcome["requests"]] == [None, "450001"]
    assert_received(server, tus_js.drop, outcome["url"], content, filename="held-back.bin")


def test_tus_js_parallel_uploads_arrive_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """Three parts sent side by side, with the code in the header, become one upload."""
    content = tus_js.write(1_000_000)
    outcome = tus_js.run(metadata={"filename": "parallel.bin"}, options={"parallelUploads": 3})
    assert outcome["outcome"] == "success", outcome
    concat = [_header(request, "Upload-Concat") or "" for request in outcome["requests"]]
    # tus-js-client repeats the header on the parts' PATCHes.
    assert concat.count("partial") == 6
    assert concat[-1].startswith("final;")
    assert_received(server, tus_js.drop, outcome["url"], content, filename="parallel.bin")


def test_tus_js_parallel_uploads_with_code_in_metadata_arrive_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """Where the code is metadata, `metadataForPartialUploads` brings it to the parts."""
    content = tus_js.write(300_000)
    code = {"code": tus_js.drop.code}
    outcome = tus_js.run(
        headers={},
        metadata={"filename": "parallel-code.bin", **code},
        options={"parallelUploads": 2, "metadataForPartialUploads": code},
    )
    assert outcome["outcome"] == "success", outcome
    assert all(_header(request, "Dropoff-Code") is None for request in outcome["requests"])
    assert_received(server, tus_js.drop, outcome["url"], content, filename="parallel-code.bin")


def test_tus_js_parallel_uploads_with_chunks_and_data_during_creation_arrive_whole(
    server: ServerProcess, tus_js: TusJs
) -> None:
    """Parts may themselves be chunked and begin with their creation."""
    content = tus_js.write(700_000)
    outcome = tus_js.run(
        metadata={"filename": "parallel-chunks.bin"},
        options={"parallelUploads": 2, "chunkSize": 150_000, "uploadDataDuringCreation": True},
    )
    assert outcome["outcome"] == "success", outcome
    assert _methods(outcome).count("POST") == 3
    assert _methods(outcome).count("PATCH") == 4
    assert_received(server, tus_js.drop, outcome["url"], content, filename="parallel-chunks.bin")


def test_tus_js_parallel_uploads_without_code_are_refused(tus_js: TusJs) -> None:
    """Parts that carry no code are refused, whatever the final would say."""
    tus_js.write(300_000)
    outcome = tus_js.run(
        headers={},
        metadata={"filename": "no-code.bin", "code": tus_js.drop.code},
        options={"parallelUploads": 2},
    )
    assert outcome["outcome"] == "error"
    assert outcome.get("status") == 403


def test_tus_js_request_id_arrives_whole(server: ServerProcess, tus_js: TusJs) -> None:
    """A client that numbers its requests with X-Request-ID is served."""
    content = tus_js.write(10_000)
    outcome = tus_js.run(metadata={"filename": "request-id.bin"}, options={"addRequestId": True})
    assert outcome["outcome"] == "success", outcome
    assert all(_header(request, "X-Request-ID") for request in outcome["requests"])
    assert_received(server, tus_js.drop, outcome["url"], content, filename="request-id.bin")


def test_tus_js_empty_file_is_complete_at_once(server: ServerProcess, tus_js: TusJs) -> None:
    """An empty file is complete with its creation."""
    tus_js.write(0)
    outcome = tus_js.run(metadata={"filename": "empty.bin"})
    assert outcome["outcome"] == "success", outcome
    assert _methods(outcome) == ["POST"]
    assert_received(server, tus_js.drop, outcome["url"], b"", filename="empty.bin")


@pytest.mark.parametrize(
    "filename",
    ["Prüfung – 試験 🧪.pdf", "", "line\r\nbreak.txt", "../../etc/passwd", " spaces at both ends "],
    ids=["unicode", "empty", "line-break", "path", "spaces"],
)
def test_tus_js_metadata_value_comes_back_as_it_was(server: ServerProcess, tus_js: TusJs, filename: str) -> None:
    """Any text is a file name, also an empty one, and is shown as it was given."""
    content = tus_js.write(100)
    outcome = tus_js.run(metadata={"filename": filename, "note": ""})
    assert outcome["outcome"] == "success", outcome
    assert_received(server, tus_js.drop, outcome["url"], content, filename=filename)


def test_tus_js_code_in_metadata_is_accepted(server: ServerProcess, tus_js: TusJs) -> None:
    """Existing pages send the code as a metadata key of any case."""
    content = tus_js.write(10_000)
    outcome = tus_js.run(headers={}, metadata={"Code": tus_js.drop.code, "filename": "code.bin"})
    assert outcome["outcome"] == "success", outcome
    assert_received(server, tus_js.drop, outcome["url"], content, filename="code.bin")


def test_tus_js_resume_from_url_storage_goes_on_at_offset(server: ServerProcess, tus_js: TusJs) -> None:
    """A new run finds the stored upload URL and goes on where the server stands."""
    content = tus_js.write(2_000_000)
    storage: dict[str, Any] = {"urlStorage": str(tus_js.folder / "urls.json")}
    metadata = {"filename": "resumed.bin"}
    first = tus_js.run(metadata=metadata, options={"chunkSize": 500_000}, abortAfterBytes=1_000_000, **storage)
    assert first["outcome"] == "aborted", first
    second = tus_js.run(metadata=metadata, resume=True, **storage)
    assert second["outcome"] == "success", second
    assert second["previousUploads"] == 1
    assert _methods(second) == ["HEAD", "PATCH"]
    assert second["url"] == first["url"]
    assert int(_header(second["requests"][1], "Upload-Offset") or 0) >= 1_000_000
    assert_received(server, tus_js.drop, second["url"], content, filename="resumed.bin")


def test_tus_js_link_cut_inside_a_request_retries_by_itself(server: ServerProcess, tus_js: TusJs) -> None:
    """After a cut inside a PATCH the client asks where it stands and goes on from what had arrived."""
    content = tus_js.write(6_000_000)
    with CuttingLink(server.port, cut_after_bytes=3_000_000) as link:
        outcome = tus_js.run(
            endpoint=link.through(tus_js.drop.upload_url),
            metadata={"filename": "cut.bin"},
            options={"retryDelays": [0, 500, 500, 500]},
        )
    assert outcome["outcome"] == "success", outcome
    assert link.cuts == 1
    assert _methods(outcome)[:3] == ["POST", "PATCH", "HEAD"]
    assert _methods(outcome)[-1] == "PATCH"
    assert 0 < int(_header(outcome["requests"][-1], "Upload-Offset") or 0) < 3_100_000
    assert_received(server, tus_js.drop, outcome["url"], content, filename="cut.bin")


def test_tus_js_resume_of_parallel_uploads_goes_on_with_parts(server: ServerProcess, tus_js: TusJs) -> None:
    """The parts of an interrupted parallel upload go on, each at its own offset."""
    content = tus_js.write(2_000_000)
    job: dict[str, Any] = {
        "metadata": {"filename": "parts.bin"},
        "urlStorage": str(tus_js.folder / "urls.json"),
        "options": {"parallelUploads": 2, "chunkSize": 250_000},
    }
    first = tus_js.run(abortAfterBytes=1_000_000, **job)
    assert first["outcome"] == "aborted", first
    second = tus_js.run(resume=True, **job)
    assert second["outcome"] == "success", second
    assert _methods(second).count("HEAD") == 2
    assert _methods(second).count("POST") == 1
    assert_received(server, tus_js.drop, second["url"], content, filename="parts.bin")


def test_tus_js_resume_of_finished_upload_succeeds_without_data(server: ServerProcess, tus_js: TusJs) -> None:
    """A client that missed the last answer learns from HEAD that all is there."""
    content = tus_js.write(100_000)
    first = tus_js.run(metadata={"filename": "twice.bin"})
    assert first["outcome"] == "success", first
    second = tus_js.run(metadata={"filename": "twice.bin"}, uploadUrl=first["url"])
    assert second["outcome"] == "success", second
    assert _methods(second) == ["HEAD"]
    assert_received(server, tus_js.drop, first["url"], content, filename="twice.bin")


def test_tus_js_terminate_ends_the_upload(tus_js: TusJs) -> None:
    """`abort(true)` deletes the upload, and the server remembers that it is gone."""
    tus_js.write(2_000_000)
    outcome = tus_js.run(
        metadata={"filename": "gone.bin"},
        options={"chunkSize": 500_000},
        abortAfterBytes=1_000_000,
        terminate=True,
    )
    assert outcome["outcome"] == "aborted", outcome
    assert _methods(outcome)[-1] == "DELETE"
    assert outcome["requests"][-1]["status"] == 204
    url = next(request["location"] for request in outcome["requests"] if request["location"])
    assert tus_js.drop.site.head(url).status == 410
