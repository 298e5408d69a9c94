"""Tests of raw headers to messages, and of replies to raw headers."""

import base64
import contextlib
from datetime import UTC, datetime

import pytest

from dropoff_tus import errors, wire
from dropoff_tus.ids import UploadToken
from dropoff_tus.messages import Appended, BodyInfo, Capabilities, Create, Created, Status, Terminated
from dropoff_tus.model import Metadata, Role

DROP = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"
OCTETS = ("Content-Type", "application/offset+octet-stream")
CONCAT = ("Upload-Concat", f"final;/files/{DROP}/{'1' * 32}")
MOMENT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SHA256 = ("Upload-Checksum", "sha256 " + base64.b64encode(bytes(32)).decode())


def _create(*headers: tuple[str, str], presented: str | None = None) -> Create:
    return wire.parse_create(headers, drop_id=DROP, presented=presented)


# ---- method, version, sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["PATCH", "patch", "Delete", "HEAD"])
def test_method_override_on_upload_is_resolved(value: str) -> None:
    """Clients behind old proxies say what they mean in a header, in any case."""
    assert wire.effective_method("POST", [("x-http-method-override", value)], on_upload=True) == value.upper()


@pytest.mark.parametrize(("value", "on_upload"), [("PUT", True), ("", True), ("POST", True), ("PATCH", False)])
def test_method_override_of_any_other_is_refused(value: str, on_upload: bool) -> None:
    """Only what an upload knows may be meant, and only there."""
    with pytest.raises(errors.MethodNotAllowedError):
        wire.effective_method("POST", [("X-HTTP-Method-Override", value)], on_upload=on_upload)


def test_method_override_counts_on_post_alone() -> None:
    """A HEAD does not become a DELETE."""
    assert wire.effective_method("HEAD", [("X-HTTP-Method-Override", "DELETE")], on_upload=True) == "HEAD"


@pytest.mark.parametrize(
    ("method", "on_upload", "allow"),
    [
        ("POST", True, {"OPTIONS", "HEAD", "PATCH", "DELETE"}),
        ("GET", True, {"OPTIONS", "HEAD", "PATCH", "DELETE"}),
        ("patch", True, {"OPTIONS", "HEAD", "PATCH", "DELETE"}),
        ("PATCH", False, {"OPTIONS", "POST"}),
        ("HEAD", False, {"OPTIONS", "POST"}),
    ],
    ids=["post", "get", "lower", "patch", "head"],
)
def test_method_unknown_to_the_resource_names_those_it_knows(method: str, on_upload: bool, allow: set[str]) -> None:
    """405 carries Allow."""
    with pytest.raises(errors.MethodNotAllowedError) as caught:
        wire.effective_method(method, [], on_upload=on_upload)
    status, headers, _ = wire.render_error(caught.value, head=False)
    assert status == 405
    assert set(dict(headers)["Allow"].split(", ")) == allow


@pytest.mark.parametrize("headers", [[], [("Tus-Resumable", "0.2.2")], [("Tus-Resumable", "1.0.0")] * 2])
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_version_missing_wrong_or_twice_is_412_with_the_version(method: str, headers: list[tuple[str, str]]) -> None:
    """The client learns which version is spoken here."""
    with pytest.raises(errors.UnsupportedVersionError) as caught:
        wire.check_version(method, headers)
    status, answered, _ = wire.render_error(caught.value, head=False)
    assert (status, dict(answered)["Tus-Version"]) == (412, "1.0.0")


@pytest.mark.parametrize("method", ["HEAD", "GET", "OPTIONS"])
def test_version_is_not_asked_of_reading_methods(method: str) -> None:
    """HEAD without a version is answered."""
    wire.check_version(method, [])


def test_sizes_below_the_limits_pass_and_above_are_431() -> None:
    """Upload-Concat may be longer, since it names many URLs."""
    wire.check_sizes([("Upload-Metadata", "x" * 16384), ("Upload-Concat", "x" * 30720)])
    for name, size in (("Upload-Metadata", 16385), ("X-Any", 16385), ("upload-concat", 30721)):
        with pytest.raises(errors.HeadersTooLargeError):
            wire.check_sizes([(name, "x" * size)])


def test_sizes_of_refused_headers_name_them() -> None:
    """Which of them is too long, printable and short, whatever its name is."""
    for name, told in (("X-Any", " X-Any "), ("X" * 9000, "X" * 64 + "... "), ("\xe4\x1b", r" ä\x1b ")):
        with pytest.raises(errors.HeadersTooLargeError) as caught:
            wire.check_sizes([(name, "x" * 16385)])
        assert told in caught.value.message
        assert len(caught.value.message) < 200
        assert caught.value.message.isprintable()


def test_sizes_of_very_many_pairs_of_metadata_are_refused() -> None:
    """Their number is bounded as their length is, before any of them is looked at."""
    for text, taken in (("a," * 127 + "a", True), ("a," * 128 + "a", False), ("," * 16000, False)):
        with contextlib.nullcontext() if taken else pytest.raises(errors.InvalidMetadataError, match="more than 128"):
            wire.check_sizes([("Upload-Metadata", text)])


# ---- bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([("Content-Length", "0")], 0),
        ([("Content-Length", "5")], 5),
        ([("Transfer-Encoding", "chunked")], None),
        ([("Transfer-Encoding", "Chunked")], None),
    ],
    ids=["none", "zero", "five", "chunked", "case"],
)
def test_body_info_tells_the_length(headers: list[tuple[str, str]], length: int | None) -> None:
    """Zero is known, chunked is not."""
    assert wire.body_info(headers) == BodyInfo(length)


@pytest.mark.parametrize(
    "headers",
    [
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "identity")],
        [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "5")],
        [("Content-Length", "+5")],
        [("Content-Length", "5"), ("Content-Length", "5")],
        [("Content-Length", "5, 5")],
    ],
    ids=["coded", "identity", "chunked-twice", "both", "sign", "twice", "list"],
)
def test_body_info_of_ambiguous_framing_is_refused(headers: list[tuple[str, str]]) -> None:
    """Where a body ends must not be a matter of opinion between us and a proxy."""
    with pytest.raises(errors.MalformedRequestError):
        wire.body_info(headers)


# ---- creation --------------------------------------------------------------------------------------------------


def test_create_with_length_has_no_body() -> None:
    """The plainest creation."""
    request = _create(("Upload-Length", "5"), ("Upload-Metadata", "a MQ=="))
    assert request == Create(Role.REGULAR, 5, Metadata((("a", b"1"),)))


def test_create_deferred_has_no_length() -> None:
    """Not yet known is not zero."""
    assert _create(("Upload-Defer-Length", "1")).length is None


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([], errors.InvalidUploadLengthError),
        ([("Upload-Length", "5"), ("Upload-Defer-Length", "1")], errors.LengthAndDeferError),
        ([("Upload-Length", "5"), ("Upload-Defer-Length", "2")], errors.InvalidDeferLengthError),
        ([("Upload-Length", "x")], errors.InvalidUploadLengthError),
        ([("Upload-Length", "5"), ("Upload-Metadata", "a !")], errors.InvalidMetadataError),
        ([("Upload-Length", "5"), ("Upload-Metadata", "md5 MQ==")], errors.InvalidDigestError),
        ([("Upload-Length", "5"), ("Upload-Checksum", "x")], errors.InvalidChecksumError),
        ([("Upload-Length", "5"), ("Upload-Concat", "x")], errors.InvalidConcatError),
        ([("Upload-Concat", "partial"), ("Upload-Concat", "partial")], errors.InvalidConcatError),
        ([("Upload-Length", "5"), ("Content-Length", "5")], errors.InvalidContentTypeError),
        (
            [("Upload-Length", "5"), ("Content-Length", "5"), ("Content-Type", "text/plain")],
            errors.InvalidContentTypeError,
        ),
        (
            [("Upload-Length", "5"), ("Transfer-Encoding", "chunked"), ("Content-Type", "text/plain")],
            errors.InvalidContentTypeError,
        ),
    ],
    ids=range(12),
)
def test_create_malformed_is_refused_by_its_kind(
    headers: list[tuple[str, str]], error: type[errors.DropoffError]
) -> None:
    """Each header has its own code."""
    with pytest.raises(error):
        _create(*headers)


def test_create_with_data_carries_its_length_and_checksum() -> None:
    """The type marks a creation-with-upload."""
    request = _create(("Upload-Length", "5"), ("Content-Length", "3"), OCTETS, SHA256)
    assert request.body is not None
    assert request.body.length == 3
    assert request.body.checksum is not None
    assert request.body.checksum.digest == bytes(32)
    chunked = _create(("Upload-Length", "5"), ("Transfer-Encoding", "chunked"), OCTETS)
    assert chunked.body == BodyInfo(None)


@pytest.mark.parametrize(
    "headers",
    [
        [OCTETS],
        [OCTETS, ("Content-Length", "0")],
        [("Content-Type", "text/plain")],
    ],
    ids=["type-alone", "zero", "other-type-without-body"],
)
def test_create_without_data_has_no_body(headers: list[tuple[str, str]]) -> None:
    """Additions of clients and proxies without data are no data."""
    assert _create(("Upload-Length", "5"), *headers).body is None


@pytest.mark.parametrize("kind", [(), (("Content-Type", "text/plain"),), (OCTETS, CONCAT), (CONCAT,)])
def test_create_of_unknown_length_has_a_body_once_a_byte_comes(kind: tuple[tuple[str, str], ...]) -> None:
    """Where bytes would be refused, the first of them is waited for, and the end before it is no body."""
    headers = [("Upload-Length", "5"), ("Transfer-Encoding", "chunked"), *kind]
    assert wire.may_be_empty(headers)
    assert wire.parse_create(headers, drop_id=DROP, presented=None, empty=True).body is None
    with pytest.raises((errors.InvalidContentTypeError, errors.ModifyFinalError)):
        wire.parse_create(headers, drop_id=DROP, presented=None)


@pytest.mark.parametrize("framing", [("Content-Length", "0"), ("Content-Length", "5"), ("X-Other", "chunked")])
def test_create_of_known_length_is_decided_without_its_body(framing: tuple[str, str]) -> None:
    """So that a client which asks before it sends (Expect) is answered before it does; so is a chunked one of ours."""
    assert not wire.may_be_empty([framing, CONCAT])
    assert not wire.may_be_empty([("Transfer-Encoding", "chunked"), OCTETS])


def test_create_final_takes_parts_and_ignores_length() -> None:
    """The parts say how long it is, whatever the client says."""
    token = "1" * 32
    request = _create(("Upload-Concat", f"final;/files/{DROP}/{token}"), ("Upload-Length", "x"))
    assert (request.role, request.parts, request.length, request.body) == (
        Role.FINAL,
        (UploadToken(token),),
        None,
        None,
    )


def test_create_final_with_body_is_refused() -> None:
    """A concatenation brings nothing of its own."""
    with pytest.raises(errors.ModifyFinalError):
        _create(("Upload-Concat", f"final;/files/{DROP}/{'1' * 32}"), ("Content-Length", "1"), OCTETS)


def test_create_takes_the_code_out_and_the_digests() -> None:
    """The code is gone and the digest is understood."""
    code = base64.b64encode(b"ABCD-EFGH-JKMN-PQRS").decode()
    digest = base64.b64encode(bytes(16).hex().encode()).decode()
    headers = [("Upload-Length", "5"), ("Upload-Metadata", f"code {code},note {code},md5 {digest}")]
    request = wire.parse_create(headers, drop_id=DROP, presented=wire.presented_code(headers))
    assert [key for key, _ in request.metadata.pairs] == ["md5"]
    assert [(found.algorithm, found.digest) for found in request.digests] == [("md5", bytes(16))]


# ---- PATCH -----------------------------------------------------------------------------------------------------


def test_patch_is_read_with_a_declared_length() -> None:
    """Offset, body and, for a deferred upload, the length."""
    request = wire.parse_patch(
        [("Upload-Offset", "5"), ("Content-Type", "Application/Offset+Octet-Stream; x=y"), ("Upload-Length", "9")]
    )
    assert (request.offset, request.body, request.declared_length) == (5, BodyInfo(0), 9)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([OCTETS], errors.InvalidOffsetError),
        ([("Upload-Offset", "x")], errors.InvalidOffsetError),
        ([("Upload-Offset", "0")], errors.InvalidContentTypeError),
        ([("Upload-Offset", "0"), OCTETS, OCTETS], errors.InvalidContentTypeError),
        ([("Upload-Offset", "0"), OCTETS, ("Upload-Length", "-1")], errors.InvalidUploadLengthError),
        ([("Upload-Offset", "0"), OCTETS, ("Upload-Checksum", "x")], errors.InvalidChecksumError),
    ],
    ids=range(6),
)
def test_patch_malformed_is_refused_by_its_kind(
    headers: list[tuple[str, str]], error: type[errors.DropoffError]
) -> None:
    """Each header has its own code."""
    with pytest.raises(error):
        wire.parse_patch(headers)


# ---- replies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "status", "expected"),
    [
        (
            Created("/files/d/t", "i" * 32, 5, MOMENT, "/r"),
            201,
            {
                "Location": "/files/d/t",
                "Dropoff-Upload-Id": "i" * 32,
                "Upload-Offset": "5",
                "Upload-Expires": "Sun, 01 Mar 2026 12:00:00 GMT",
                "Dropoff-Receipt": "/r",
            },
        ),
        (Created("/l", "i"), 201, {"Location": "/l", "Dropoff-Upload-Id": "i"}),
        (Appended(5), 204, {"Upload-Offset": "5"}),
        (
            Status(3, 5, Metadata((("a", b"1"), ("b", b"")))),
            200,
            {
                "Upload-Offset": "3",
                "Upload-Length": "5",
                "Upload-Metadata": "a MQ==,b",
                "Cache-Control": "no-store",
            },
        ),
        (
            Status(3, None, None, MOMENT, "partial"),
            200,
            {
                "Upload-Offset": "3",
                "Upload-Defer-Length": "1",
                "Upload-Concat": "partial",
                "Upload-Expires": "Sun, 01 Mar 2026 12:00:00 GMT",
                "Cache-Control": "no-store",
            },
        ),
        (Terminated(), 204, {}),
        (
            Capabilities(9),
            204,
            {
                "Tus-Version": "1.0.0",
                "Tus-Max-Size": "9",
                "Tus-Checksum-Algorithm": "md5,sha1,sha256,sha512,crc32",
                "Tus-Extension": "creation,creation-with-upload,creation-defer-length,checksum,expiration,"
                "termination,concatenation",
            },
        ),
    ],
    ids=["created-with-data", "created", "appended", "status", "deferred", "terminated", "capabilities"],
)
def test_render_gives_status_and_exactly_these_headers(
    reply: wire.Reply, status: int, expected: dict[str, str]
) -> None:
    """Nothing is missing, and nothing is said that the reply does not hold."""
    expected = {"Tus-Resumable": "1.0.0", "X-Content-Type-Options": "nosniff", **expected}
    answered = wire.render(reply)
    assert (answered[0], dict(answered[1])) == (status, expected)
    assert len(answered[1]) == len(expected)


def test_render_capabilities_without_limit_has_no_max_size() -> None:
    """0 means none, and must not be shown as a limit of no bytes."""
    assert "Tus-Max-Size" not in dict(wire.render(Capabilities())[1])


def test_render_error_has_code_and_message_as_body() -> None:
    """The body is for people and scripts."""
    status, headers, body = wire.render_error(errors.StorageFullError("the disk is full"), head=False)
    assert (status, body) == (507, b"ERR_STORAGE_FULL: the disk is full\n")
    assert dict(headers)["Retry-After"] == "60"
    assert dict(headers)["Tus-Resumable"] == "1.0.0"
    assert dict(headers)["X-Content-Type-Options"] == "nosniff"


def _kinds() -> list[type[errors.DropoffError]]:
    found: list[type[errors.DropoffError]] = [errors.DropoffError]
    for kind in found:
        found += kind.__subclasses__()
    # The API's refusals answer no HEAD of an upload.
    others = (errors.UnauthorizedError, errors.ScopeMissingError, errors.InvalidFieldError)
    # Nor do those that the server adds, wherever they have been imported before.
    ours = [kind for kind in found if kind.__module__ == errors.__name__]
    return [kind for kind in ours if not issubclass(kind, (errors.MethodNotAllowedError, *others))]


@pytest.mark.parametrize("kind", _kinds())
def test_render_error_of_head_is_404_410_or_423_without_body(kind: type[errors.DropoffError]) -> None:
    """tus-js-client starts again from zero on anything else."""
    status, headers, body = wire.render_error(kind("x"), head=True)
    assert body == b""
    assert status == (kind.status_hint if kind.status_hint in {404, 410} else 423)
    assert (int(dict(headers).get("Retry-After", "0")) >= 1) is (status == 423)
