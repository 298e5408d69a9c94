"""The table of status codes, row by row, over a bare socket. Each test is named after its row.

Here: one request to one upload. test_status_concat has concatenation, test_status_dropoff the refusals of a drop-off,
test_settings the effects of the configuration, test_concurrency the stopping. Rows that no client can bring about (423
while finishing) are for unit tests.
"""

import base64
import fcntl
import hashlib
import random
import time
import zlib

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.e2e.conftest import DROP_LIMIT_BYTES, LIMIT_BYTES
from tests.support.server_process import Drop, ServerProcess, token_of, upload_id_of
from tests.support.tus_raw import OCTETS, TUS, RawConnection, TusSite, chunked, metadata


def _unknown_upload(site: TusSite) -> str:
    return site.upload_url + random.randbytes(16).hex()


# ---- version missing or wrong on POST, PATCH, DELETE ---------------------------------------------


@pytest.mark.parametrize("version", [None, "0.2.2", "1", ""], ids=["missing", "old", "short", "empty"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_version_missing_or_wrong_answers_412(site: TusSite, method: str, version: str | None) -> None:
    """Without `Tus-Resumable: 1.0.0` nothing is read and nothing written."""
    url = site.create(5)
    if method == "POST":
        answer = site.post({"Tus-Resumable": version, "Upload-Length": "5"})
        assert answer.header("Location") is None
    elif method == "PATCH":
        answer = site.patch(url, 0, b"hello", {"Tus-Resumable": version})
    else:
        answer = site.delete(url, {"Tus-Resumable": version})
    assert_refused(answer, 412)
    assert answer.needed("Tus-Version") == TUS
    assert site.head(url).offset == 0


def test_version_missing_on_head_and_options_is_accepted(site: TusSite) -> None:
    """HEAD and OPTIONS need no version, also a wrong one does not matter."""
    url = site.create(5)
    assert_head(site.head(url, {"Tus-Resumable": None}), 200)
    assert_head(site.head(url, {"Tus-Resumable": "9.9.9"}), 200)
    assert site.request("OPTIONS", site.upload_url, {}).status == 204


# ---- Upload-Length, Upload-Defer-Length ----------------------------------------------------------

_NO_LENGTHS = ["", "+5", "-1", "1_000", "٣", "1e3", "0x10", "5.0", "5 5", "1,2", str(2**63), "9" * 100]


@pytest.mark.parametrize("length", _NO_LENGTHS)
def test_upload_length_malformed_answers_400(site: TusSite, length: str) -> None:
    """Only ASCII digits up to 2^63-1 are a length."""
    answer = site.post({"Upload-Length": length})
    assert answer.status == 400
    assert answer.header("Location") is None


def test_upload_length_absent_without_defer_answers_400(site: TusSite) -> None:
    """A creation says how long the upload is, or that it will."""
    assert_refused(site.post(), 400)


def test_upload_length_and_defer_answers_400(site: TusSite) -> None:
    """Both at once contradict each other."""
    assert_refused(site.post({"Upload-Length": "5", "Upload-Defer-Length": "1"}), 400)


def test_upload_length_largest_number_answers_413(site: TusSite) -> None:
    """2^63-1 is a length, only one above the limit."""
    assert_refused(site.post({"Upload-Length": str(2**63 - 1)}), 413, "ERR_MAX_SIZE_EXCEEDED")


@pytest.mark.parametrize("value", ["0", "2", "true", "01", "1 1", ""])
def test_upload_defer_length_other_than_1_answers_400(site: TusSite, value: str) -> None:
    """The only value of Upload-Defer-Length is 1."""
    assert_refused(site.post({"Upload-Defer-Length": value}), 400)


# ---- above the size limit ------------------------------------------------------------------------


def test_size_declared_above_server_limit_answers_413(site: TusSite) -> None:
    """A length above the server's limit is refused at creation; one at the limit is not."""
    assert_refused(site.post({"Upload-Length": str(LIMIT_BYTES + 1)}), 413, "ERR_MAX_SIZE_EXCEEDED")
    assert site.post({"Upload-Length": str(LIMIT_BYTES)}).status == 201


def test_size_declared_above_drop_limit_answers_413(other_site: TusSite) -> None:
    """A length above the drop-off's limit is refused at creation; one at the limit is not."""
    assert_refused(other_site.post({"Upload-Length": str(DROP_LIMIT_BYTES + 1)}), 413, "ERR_MAX_SIZE_EXCEEDED")
    assert other_site.post({"Upload-Length": str(DROP_LIMIT_BYTES)}).status == 201


def test_size_declared_later_above_limit_answers_413(other_site: TusSite) -> None:
    """A deferred length is held against the limit when it is declared."""
    url = other_site.post({"Upload-Defer-Length": "1"}).needed("Location")
    answer = other_site.patch(url, 0, b"hello", {"Upload-Length": str(DROP_LIMIT_BYTES + 1)})
    assert_refused(answer, 413, "ERR_MAX_SIZE_EXCEEDED")
    assert other_site.head(url).header("Upload-Length") is None


@pytest.mark.parametrize("form", ["content-length", "chunked"])
def test_size_reached_above_limit_answers_413(other_site: TusSite, form: str) -> None:
    """A deferred upload that grows past the limit is stopped there."""
    url = other_site.post({"Upload-Defer-Length": "1"}).needed("Location")
    body = bytes(DROP_LIMIT_BYTES + 1)
    if form == "chunked":
        answer = other_site.patch(url, 0, chunked(body), {"Transfer-Encoding": "chunked"})
    else:
        answer = other_site.patch(url, 0, body)
    assert_refused(answer, 413, "ERR_MAX_SIZE_EXCEEDED")
    assert other_site.head(url).offset <= DROP_LIMIT_BYTES


# ---- length 0 ------------------------------------------------------------------------------------


def test_length_0_answers_201_and_is_complete_once(limited: ServerProcess, limited_drop: Drop, site: TusSite) -> None:
    """An upload of no bytes is complete with its creation, and stays one upload when it is patched again."""
    created = site.post({"Upload-Length": "0", "Upload-Metadata": metadata(filename="zero")})
    assert created.status == 201
    assert created.header("Upload-Expires") is None
    url = created.needed("Location")
    assert site.patch(url, 0).status == 204
    answer = assert_head(site.head(url), 200)
    assert (answer.offset, answer.needed("Upload-Length")) == (0, "0")
    assert limited.row(url, limited_drop)["state"] == "complete"
    assert limited.export(url) == b""


# ---- the headers of PATCH ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "application/octet-stream", "text/plain"])
def test_content_type_missing_or_other_answers_415(site: TusSite, value: str | None) -> None:
    """A PATCH carries application/offset+octet-stream and nothing else."""
    url = site.create(5)
    assert_refused(site.patch(url, 0, b"hello", {"Content-Type": value}), 415, "ERR_INVALID_CONTENT_TYPE")
    assert site.head(url).offset == 0


def test_content_type_in_other_case_is_accepted(site: TusSite) -> None:
    """Media types are compared without case."""
    url = site.create(5)
    assert site.patch(url, 0, b"hello", {"Content-Type": "Application/OFFSET+octet-stream"}).status == 204


@pytest.mark.parametrize("offset", [None, "", "+0", "-1", "0x0", "٠", "1e0", str(2**64)])
def test_upload_offset_missing_or_malformed_answers_400(site: TusSite, offset: str | None) -> None:
    """Only ASCII digits are an offset."""
    url = site.create(5)
    assert site.patch(url, 0, b"hello", {"Upload-Offset": offset}).status == 400
    assert site.head(url).offset == 0


@pytest.mark.parametrize("offset", [0, 1, 3, 4])
def test_upload_offset_different_answers_409_and_writes_nothing(
    limited: ServerProcess, site: TusSite, offset: int
) -> None:
    """At any other offset than the durable one nothing is written, and the right one goes on."""
    url = site.create(5)
    assert site.patch(url, 0, b"he").status == 204
    assert_refused(site.patch(url, offset, b"X"), 409, "ERR_MISMATCHED_OFFSET")
    assert site.head(url).offset == 2
    assert site.patch(url, 2, b"llo").status == 204
    assert limited.export(url) == b"hello"


# ---- past the end --------------------------------------------------------------------------------


def test_content_length_past_the_end_answers_413_and_writes_nothing(site: TusSite) -> None:
    """A body known to be too long is refused before its first byte."""
    url = site.create(5)
    assert_refused(site.patch(url, 0, b"hello!"), 413)
    assert site.head(url).offset == 0


def test_chunked_past_the_end_keeps_the_length_and_answers_413(limited: ServerProcess, site: TusSite) -> None:
    """Bytes up to the length are kept, the answer comes at once, and the connection ends."""
    url = site.create(5)
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Transfer-Encoding": "chunked"})
        connection.send(site.message("PATCH", url, headers, chunked(b"hel", b"lo!!", end=False)))
        assert_refused(connection.read_response(), 413)
        assert connection.is_closed_within(5)
    assert site.head(url).offset == 5
    assert limited.export(url) == b"hello"


# ---- PATCH on a complete upload, on a final ------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"more"])
def test_patch_on_complete_upload_at_its_end_answers_204(limited: ServerProcess, site: TusSite, body: bytes) -> None:
    """A client that missed the last answer repeats, and what it sends past the end is ignored."""
    url = site.upload(b"hello")
    answer = site.patch(url, 5, body)
    assert (answer.status, answer.offset) == (204, 5)
    assert limited.export(url) == b"hello"


def test_patch_on_complete_upload_elsewhere_answers_409(site: TusSite) -> None:
    """Only the end is the offset of a complete upload."""
    assert_refused(site.patch(site.upload(b"hello"), 0, b"hello"), 409, "ERR_MISMATCHED_OFFSET")


@pytest.mark.parametrize("offset", [0, 5, 99])
def test_patch_on_final_answers_403_at_any_offset(site: TusSite, offset: int) -> None:
    """A concatenation takes no bytes, whatever the offset."""
    part = site.upload(b"hello", {"Upload-Concat": "partial"})
    final = site.post({"Upload-Concat": f"final;{part}"}).needed("Location")
    assert_refused(site.patch(final, offset, b""), 403, "ERR_MODIFY_FINAL")


# ---- unknown, elsewhere, gone --------------------------------------------------------------------


@pytest.mark.parametrize("token", ["0" * 32, "ABCDEF" * 5 + "00", "x", "0" * 31, "0" * 33, "%2e%2e", "a/b"])
def test_unknown_upload_answers_404(site: TusSite, token: str) -> None:
    """A text that is no token, or nobody's, is not found by any method."""
    url = site.upload_url + token
    assert_head(site.head(url), 404)
    assert_refused(site.patch(url, 0, b""), 404)
    assert_refused(site.delete(url), 404)


def test_upload_of_another_drop_off_answers_404(site: TusSite, other_site: TusSite) -> None:
    """A token counts only below its own drop-off."""
    url = site.create(5)
    elsewhere = other_site.upload_url + token_of(url)
    assert_head(site.head(elsewhere), 404)
    assert_refused(site.patch(elsewhere, 0, b"hello"), 404)
    assert_refused(site.delete(elsewhere), 404)
    assert site.head(url).offset == 0


def test_terminated_upload_answers_410(site: TusSite) -> None:
    """After DELETE the server remembers that the upload is gone."""
    url = site.create(5)
    assert site.patch(url, 0, b"hel").status == 204
    assert site.delete(url).status == 204
    assert_head(site.head(url), 410)
    assert_refused(site.patch(url, 3, b"lo"), 410)
    assert_refused(site.delete(url), 410)


def test_ended_upload_answers_410(limited: ServerProcess) -> None:
    """`drop close --now` ends what is open, within a few seconds, and says so to the client."""
    drop = limited.create_drop(name="to close")
    url = drop.site.create(5)
    limited.cli("drop", "close", drop.id, "--now")
    deadline = time.monotonic() + 8
    while (answer := drop.site.head(url)).status != 410 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert_head(answer, 410)
    assert_refused(drop.site.patch(url, 0, b"hello"), 410)


def test_delete_of_finished_upload_answers_403(limited: ServerProcess, site: TusSite) -> None:
    """A finished upload cannot be taken back, unless the operator allows it."""
    url = site.upload(b"hello")
    assert_refused(site.delete(url), 403)
    assert limited.export(url) == b"hello"


# ---- Upload-Checksum -----------------------------------------------------------------------------

_HELLO = b"hello"
_CHECKSUMS = {
    **{name: hashlib.new(name, _HELLO).digest() for name in ("md5", "sha1", "sha256", "sha512")},
    "crc32": zlib.crc32(_HELLO).to_bytes(4, "big"),
}


def _checksum(algorithm: str, digest: bytes) -> dict[str, str]:
    return {"Upload-Checksum": f"{algorithm} {base64.b64encode(digest).decode()}"}


@pytest.mark.parametrize("algorithm", list(_CHECKSUMS))
def test_upload_checksum_right_answers_204(site: TusSite, algorithm: str) -> None:
    """Every algorithm that OPTIONS names is taken."""
    assert algorithm in site.request("OPTIONS", site.upload_url, {}).needed("Tus-Checksum-Algorithm").split(",")
    url = site.create(5)
    assert site.patch(url, 0, _HELLO, _checksum(algorithm, _CHECKSUMS[algorithm])).status == 204
    assert site.head(url).offset == 5


@pytest.mark.parametrize("algorithm", list(_CHECKSUMS))
def test_upload_checksum_mismatch_answers_460_and_the_bytes_are_gone(
    limited: ServerProcess, site: TusSite, algorithm: str
) -> None:
    """A body that does not match leaves nothing, and what came before it stays."""
    url = site.create(10)
    assert site.patch(url, 0, _HELLO).status == 204
    assert_refused(site.patch(url, 5, b"jello", _checksum(algorithm, _CHECKSUMS[algorithm])), 460)
    assert site.head(url).offset == 5
    assert site.patch(url, 5, _HELLO, _checksum(algorithm, _CHECKSUMS[algorithm])).status == 204
    assert limited.export(url) == _HELLO * 2


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha1",
        "sha1 ",
        "sha1 !!!!",
        "sha3-256 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        f"sha1 {base64.b64encode(b'short').decode()}",
        f"md5 {base64.b64encode(bytes(20)).decode()}",
        f"sha1 {base64.b64encode(bytes(20)).decode()} more",
    ],
    ids=["empty", "no-value", "space", "not-base64", "unknown", "too-short", "too-long", "third-word"],
)
def test_upload_checksum_malformed_answers_400(site: TusSite, value: str) -> None:
    """A checksum that cannot be checked is refused, not ignored."""
    url = site.create(5)
    assert_refused(site.patch(url, 0, _HELLO, {"Upload-Checksum": value}), 400)
    assert site.head(url).offset == 0


def test_upload_checksum_of_cut_body_keeps_nothing(site: TusSite) -> None:
    """Bytes that were never checked do not count, also if the client went away in the middle."""
    url = site.create(5)
    headers = site.patch_headers(0, {**_checksum("sha1", _CHECKSUMS["sha1"]), "Content-Length": "5"})
    with site.connect() as connection:
        connection.send(site.message("PATCH", url, headers, b"hel"))
        connection.half_close()
        connection.is_closed_within(5)
    assert site.head(url).offset == 0
    assert site.patch(url, 0, _HELLO, _checksum("sha1", _CHECKSUMS["sha1"])).status == 204


def test_upload_checksum_mismatch_on_creation_answers_460(site: TusSite) -> None:
    """A creation that brings data is checked like a PATCH."""
    headers = {"Upload-Length": "5", "Content-Type": OCTETS}
    wrong = site.post({**headers, **_checksum("sha256", _CHECKSUMS["sha256"])}, b"jello")
    assert_refused(wrong, 460)
    right = site.post({**headers, **_checksum("sha256", _CHECKSUMS["sha256"])}, _HELLO)
    assert (right.status, right.offset) == (201, 5)


# ---- lease ---------------------------------------------------------------------------------------


def test_lease_not_obtained_answers_423(limited: ServerProcess, site: TusSite) -> None:
    """While another process holds the upload's log, a PATCH has to come back; HEAD answers."""
    url = site.create(5)
    assert site.patch(url, 0, b"he").status == 204
    (log,) = limited.data.glob(f"**/uploads/*/{upload_id_of(url)}/log")
    with log.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = assert_refused(site.patch(url, 2, b"llo"), 423)
        assert int(answer.needed("Retry-After")) >= 1
        assert site.head(url).offset == 2
    assert site.patch(url, 2, b"llo").status == 204


# ---- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "GET", "PATCH", "DELETE", "PROPFIND"])
def test_wrong_method_on_drop_off_answers_405_with_allow(site: TusSite, method: str) -> None:
    """The drop-off knows POST and OPTIONS."""
    answer = assert_refused(site.request(method, site.upload_url, {"Tus-Resumable": TUS}), 405)
    assert {"POST", "OPTIONS"} <= {name.strip() for name in answer.needed("Allow").split(",")}


@pytest.mark.parametrize("method", ["PUT", "GET", "POST", "PROPFIND"])
def test_wrong_method_on_upload_answers_405_with_allow(site: TusSite, method: str) -> None:
    """An upload knows HEAD, PATCH, DELETE and OPTIONS."""
    answer = assert_refused(site.request(method, site.create(5), {"Tus-Resumable": TUS}), 405)
    assert {"HEAD", "PATCH", "DELETE"} <= {name.strip() for name in answer.needed("Allow").split(",")}


# ---- the order of checks, Expect -----------------------------------------------------------------


def test_order_of_checks_on_post(site: TusSite) -> None:
    """Version comes before code, and code before everything else."""
    bad = {"Upload-Length": "x", "Dropoff-Code": "wrong"}
    assert_refused(site.post({**bad, "Tus-Resumable": None}), 412)
    assert_refused(site.post(bad), 403)
    assert_refused(site.post({**bad, "Dropoff-Code": site.code}), 400)


def test_order_of_checks_on_patch(site: TusSite) -> None:
    """Version, then the headers, then whether the upload is there, then its offset."""
    unknown = _unknown_upload(site)
    assert_refused(site.patch(unknown, 0, b"x", {"Tus-Resumable": None, "Upload-Offset": "x"}), 412)
    assert_refused(site.patch(unknown, 0, b"x", {"Upload-Offset": "x"}), 400)
    assert_refused(site.patch(unknown, 0, b"x", {"Content-Type": "x"}), 415)
    assert_refused(site.patch(unknown, 0, b"x"), 404)
    # Too long and elsewhere: the client goes on from the offset that HEAD tells.
    assert_refused(site.patch(site.create(1), 1, b"xx"), 409)


def _expect(connection: RawConnection, site: TusSite, url: str, offset: int, length: int) -> None:
    headers = site.patch_headers(offset, {"Content-Length": str(length), "Expect": "100-continue"})
    connection.send(site.message("PATCH", url, headers))


_KNOWN_TO_THE_PARSER = [
    *("ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR"),
    *("MKCOL", "MOVE", "NOTIFY", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH"),
    *("SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE"),
]


@pytest.mark.parametrize("method", _KNOWN_TO_THE_PARSER)
def test_method_of_other_protocols_answers_405_with_allow(site: TusSite, method: str) -> None:
    """Any method that the parser lets through gets the list of known ones."""
    for url in (site.upload_url, site.upload_url + "0" * 32):
        assert "OPTIONS" in assert_refused(site.request(method, url, {}), 405).needed("Allow")


@pytest.mark.parametrize("method", ["BREW", "patch", "Get", "X", "PATCHX", "DESCRIBE", "P@TCH", "PRI"])
def test_method_unknown_to_the_parser_answers_the_fixed_400(site: TusSite, method: str) -> None:
    """A method that the parser does not know ends before any route: one text that quotes nothing, and the end."""
    with site.connect() as connection:
        connection.send(site.message(method, site.upload_url, {"Tus-Resumable": TUS}))
        answer = assert_refused(connection.read_response(), 400, "ERR_MALFORMED_REQUEST")
        assert answer.body == b"ERR_MALFORMED_REQUEST: this is not HTTP we accept\n"
        assert connection.is_closed_within(2)


@pytest.mark.parametrize(("offset", "length", "status"), [(3, 2, 409), (0, 6, 413)])
def test_expect_100_continue_of_hopeless_request_gets_its_refusal_at_once(
    site: TusSite, offset: int, length: int, status: int
) -> None:
    """A client that asks first gets no go-ahead for a body that will be refused."""
    url = site.create(5)
    with site.connect(timeout_seconds=5) as connection:
        _expect(connection, site, url, offset, length)
        answer = assert_refused(connection.read_response(), status)
    assert answer.interim == ()


def test_expect_100_continue_of_good_request_is_told_to_go_on(site: TusSite) -> None:
    """A client that asks first gets 100, sends, and gets its 204."""
    url = site.create(5)
    with site.connect(timeout_seconds=5) as connection:
        _expect(connection, site, url, 0, 5)
        connection.send(b"hello")
        answer = connection.read_response()
    assert (answer.interim, answer.status) == ((100,), 204)
