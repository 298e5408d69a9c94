"""The check before an upload is exact: no crowd and no form of request gets round a drop-off's limits."""

from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from tests.support.server_process import ServerProcess, upload_id_of
from tests.support.tus_raw import OCTETS, Response, TusSite, chunked

CROWD = 200
ROOM = 100


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that lets one address in many times at once."""
    settings = {"LIMITS__CONNECTIONS_PER_ADDRESS": str(2 * CROWD)}
    with ServerProcess(tmp_path_factory.mktemp("crowded"), environment=settings) as running:
        yield running


def crowd(site: TusSite, headers: Mapping[str, str | None], body: bytes = b"") -> list[Response]:
    """Send the same creation on many connections before reading any answer."""
    connections = [site.connect() for _ in range(CROWD)]
    try:
        message = site.message("POST", site.upload_url, site.post_headers(headers), body)
        for connection in connections:
            connection.send(message)
        return [connection.read_response() for connection in connections]
    finally:
        for connection in connections:
            connection.close()


def test_quota_of_uploads_lets_exactly_so_many_of_a_crowd_in(crowded: ServerProcess) -> None:
    """Two hundred at once against a hundred."""
    drop = crowded.create_drop("--max-uploads", str(ROOM))
    answers = crowd(drop.site, {"Upload-Length": "10"})
    assert Counter(answer.status for answer in answers) == {201: ROOM, 403: CROWD - ROOM}
    assert {answer.error_code for answer in answers if answer.status == 403} == {"ERR_DROPOFF_FULL"}
    assert crowded.cli_json("drop", "show", drop.id)["uploads"] == ROOM


def test_quota_of_bytes_lets_exactly_so_many_of_a_crowd_in(crowded: ServerProcess) -> None:
    """Whole uploads in one request each: complete bytes count like reserved ones."""
    content = b"0123456789"
    drop = crowded.create_drop("--max-total-bytes", str(len(content) * ROOM))
    headers: dict[str, str | None] = {"Upload-Length": str(len(content)), "Content-Type": OCTETS}
    answers = crowd(drop.site, headers, content)
    assert Counter(answer.status for answer in answers) == {201: ROOM, 413: CROWD - ROOM}
    assert {answer.error_code for answer in answers if answer.status == 413} == {"ERR_QUOTA"}
    assert crowded.cli_json("drop", "show", drop.id)["bytes"] == len(content) * ROOM


@pytest.fixture
def site(crowded: ServerProcess) -> TusSite:
    """Return a drop-off of ten bytes, of which six are taken."""
    site = crowded.create_drop("--max-total-bytes", "10", "--max-upload-bytes", "8").site
    site.upload(b"012345")
    return site


def test_quota_holds_for_a_declared_length(site: TusSite) -> None:
    """The plain way."""
    assert site.post({"Upload-Length": "5"}).error_code == "ERR_QUOTA"
    assert site.post({"Upload-Length": "4"}).status == 201


@pytest.mark.parametrize("form", ["length", "chunked"])
def test_quota_holds_for_a_deferred_length_that_grows(site: TusSite, form: str) -> None:
    """Byte by byte, or in a body whose size nobody said."""
    url = site.post({"Upload-Defer-Length": "1"}).needed("Location")
    for offset in range(3):
        assert site.patch(url, offset, b"x").status == 204
    if form == "length":
        answer = site.patch(url, 3, b"xx")
    else:
        answer = site.patch(url, 3, chunked(b"xx"), {"Transfer-Encoding": "chunked"})
    assert (answer.status, answer.error_code) == (413, "ERR_QUOTA")
    assert site.head(url).offset in {3, 4}


def test_quota_holds_for_a_deferred_length_with_creation_data(site: TusSite) -> None:
    """The first bytes count before they are taken."""
    answer = site.post({"Upload-Defer-Length": "1", "Content-Type": OCTETS}, b"01234")
    assert (answer.status, answer.error_code) == (413, "ERR_QUOTA")
    assert site.post({"Upload-Length": "4"}).status == 201


def test_quota_holds_for_a_deferred_length_that_is_declared(site: TusSite) -> None:
    """Declaring more than there is room for changes nothing; an upload that fits completes."""
    url = site.post({"Upload-Defer-Length": "1"}).needed("Location")
    assert site.patch(url, 0, b"01").status == 204
    assert site.patch(url, 2, b"", {"Upload-Length": "5"}).error_code == "ERR_QUOTA"
    assert site.head(url).header("Upload-Length") is None
    assert site.patch(url, 2, b"23", {"Upload-Length": "4"}).status == 204


def test_quota_holds_for_parallel_parts(site: TusSite) -> None:
    """Parts reserve like anything else, and what they make needs nothing more."""
    parts = [site.create(2, {"Upload-Concat": "partial"}) for _ in range(2)]
    assert site.post({"Upload-Length": "1", "Upload-Concat": "partial"}).error_code == "ERR_QUOTA"
    for part in parts:
        assert site.patch(part, 0, b"01").status == 204
    assert site.post({"Upload-Length": "1"}).error_code == "ERR_QUOTA"
    assert site.post({"Upload-Concat": f"final;{' '.join(parts)}"}).status == 201
    assert site.post({"Upload-Length": "1"}).error_code == "ERR_QUOTA"


def test_quota_of_one_upload_holds_for_what_parts_make(crowded: ServerProcess) -> None:
    """Parts that are each small enough are no way round it."""
    site = crowded.create_drop("--max-upload-bytes", "3").site
    parts = [site.create(2, {"Upload-Concat": "partial"}) for _ in range(2)]
    for part in parts:
        assert site.patch(part, 0, b"01").status == 204
    answer = site.post({"Upload-Concat": f"final;{' '.join(parts)}"})
    assert (answer.status, answer.error_code) == (413, "ERR_MAX_SIZE_EXCEEDED")


def test_quota_of_uploads_holds_for_what_parts_make(crowded: ServerProcess) -> None:
    """Any number of parts, and one upload of them."""
    site = crowded.create_drop("--max-uploads", "1").site
    parts = [site.create(0, {"Upload-Concat": "partial"}) for _ in range(2)]
    assert site.post({"Upload-Concat": f"final;{parts[0]}"}).status == 201
    assert site.post({"Upload-Concat": f"final;{parts[1]}"}).error_code == "ERR_DROPOFF_FULL"


def test_quota_holds_for_overridden_methods(site: TusSite) -> None:
    """A PATCH that is written as a POST is a PATCH, and creates nothing on a drop-off."""
    url = site.post({"Upload-Defer-Length": "1"}).needed("Location")
    override = {"X-HTTP-Method-Override": "PATCH"}
    answer = site.request("POST", url, site.patch_headers(0, override), b"01234")
    assert (answer.status, answer.error_code) == (413, "ERR_QUOTA")
    assert site.request("POST", site.upload_url, site.post_headers(override | {"Upload-Length": "4"})).status == 405
    assert site.request("POST", url, site.patch_headers(0, override), b"0123").status == 204


def test_quota_is_given_back_by_what_ends(site: TusSite) -> None:
    """And by nothing else."""
    url = site.create(4)
    assert site.post({"Upload-Length": "1"}).error_code == "ERR_QUOTA"
    assert site.delete(url).status == 204
    assert site.post({"Upload-Length": "4"}).status == 201


def test_tiny_pieces_take_no_more_disk_than_their_share(crowded: ServerProcess) -> None:
    """A byte a PATCH: soon 413, which keeps what came; all that is left in one PATCH goes on and ends it."""
    site, content = crowded.drop.site, bytes(range(200))
    url, offset = site.create(len(content)), 0
    while (answer := site.patch(url, offset, content[offset : offset + 1])).status == 204:
        offset += 1
    assert (answer.status, answer.error_code) == (413, "ERR_TOO_MANY_SEGMENTS")
    assert 10 < offset < 150
    assert b"larger pieces" in answer.body
    assert site.head(url).offset == offset
    folder = crowded.data / "store/uploads" / upload_id_of(url)[:2] / upload_id_of(url)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 80_000
    assert site.patch(url, offset, content[offset:]).status == 204
    assert crowded.export(url) == content
