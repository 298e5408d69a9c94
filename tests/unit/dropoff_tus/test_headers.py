"""Tests of the header grammar."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dropoff_tus import headers
from dropoff_tus.errors import (
    DropoffError,
    HeadersTooLargeError,
    InvalidChecksumError,
    InvalidDeferLengthError,
    InvalidDigestError,
    InvalidMetadataError,
    InvalidOffsetError,
    InvalidUploadLengthError,
    MalformedRequestError,
)
from dropoff_tus.model import Metadata

CODE = "ABCD-EFGH-JKMN-PQRS"


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# ---- numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("5", 5),
        ("007", 7),
        ("0" * 5000 + "1", 1),
        (str(2**63 - 1), 2**63 - 1),
        (" 5\t", 5),
    ],
    ids=["zero", "five", "leading-zeros", "many-zeros", "largest", "blanks-around"],
)
def test_upload_length_of_ascii_digits_is_read(text: str, value: int) -> None:
    """Any text of `^[0-9]+$` up to 2^63-1 is a length."""
    assert headers.upload_length([("upload-length", text)]) == value


@pytest.mark.parametrize(
    "text",
    ["", "+5", "-1", "1_000", "٣", "５", "1e3", "0x10", "5.0", "5 5", "1,2", "5\n", str(2**63), "9" * 5000],
    ids=range(14),
)
def test_upload_length_of_anything_else_is_refused(text: str) -> None:
    """Texts that only `int()` would forgive are no length."""
    with pytest.raises(InvalidUploadLengthError):
        headers.upload_length([("Upload-Length", text)])


def test_upload_length_absent_is_none() -> None:
    """Absence is not zero."""
    assert headers.upload_length([("Upload-Offset", "5")]) is None


@pytest.mark.parametrize("pairs", [[], [("Upload-Offset", "+1")], [("Upload-Offset", "1")] * 2])
def test_upload_offset_absent_malformed_or_twice_is_refused(pairs: list[tuple[str, str]]) -> None:
    """A PATCH says once and clearly where its bytes go."""
    with pytest.raises(InvalidOffsetError):
        headers.upload_offset(pairs)


def test_header_sent_twice_is_refused_also_with_equal_values() -> None:
    """Which of two values counts is not guessed."""
    with pytest.raises(InvalidUploadLengthError):
        headers.upload_length([("Upload-Length", "5"), ("UPLOAD-LENGTH", "5")])
    with pytest.raises(MalformedRequestError):
        headers.get([("A", "1"), ("a", "2")], "A")


@pytest.mark.parametrize("value", ["", "0", "2", "01", "true", "1 1"])
def test_defer_length_other_than_1_is_refused(value: str) -> None:
    """Upload-Defer-Length has one value."""
    with pytest.raises(InvalidDeferLengthError):
        headers.defers_length([("Upload-Defer-Length", value)])


def test_defer_length_1_defers_and_absence_does_not() -> None:
    """Only the header defers the length."""
    assert headers.defers_length([("Upload-Defer-Length", "1")])
    assert not headers.defers_length([])


# ---- metadata --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", ()),
        ("  ", ()),
        ("a MQ==", (("a", b"1"),)),
        ("b Mg==,a MQ==", (("b", b"2"), ("a", b"1"))),
        (" a MQ== ,\tb Mg== ", (("a", b"1"), ("b", b"2"))),
        ("a,b ,c MQ==", (("a", b""), ("b", b""), ("c", b"1"))),
        ("a   MQ==", (("a", b"1"),)),
        (f"name {_b64(bytes(range(256)))}", (("name", bytes(range(256))),)),
        ("A MQ==,a Mg==", (("A", b"1"), ("a", b"2"))),
    ],
    ids=["empty", "blank", "one", "order", "blanks", "no-value", "wide", "binary", "case"],
)
def test_metadata_well_formed_is_read_in_order(text: str, pairs: tuple[tuple[str, bytes], ...]) -> None:
    """Pairs come out decoded, as they were sent."""
    assert headers.metadata_pairs(text) == pairs


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a MQ==,",
        ",a MQ==",
        "a MQ==,,b Mg==",
        "a MQ",
        "a MQ=",
        "a M!==",
        "a MQ== Mg==",
        "a MQ==MQ==",
        "a MQ==,a Mg==",
        "ä MQ==",
        "a\x7f MQ==",
        "a\tMQ==",
        "a M\tQ==",
        "a _-8=",
        "a ÿ",
    ],
    ids=range(16),
)
def test_metadata_malformed_is_refused(text: str) -> None:
    """A malformed value is not guessed at, padding included."""
    with pytest.raises(InvalidMetadataError):
        headers.metadata_pairs(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a MQ==,note !c2VjcmV0!", "key note has a value"),
        ("a MQ==,file name c2VjcmV0", "key file has a value"),
        ("a MQ==,note c2VjcmV0,note c2VjcmV0", "key note is there twice"),
        ("a MQ==,na\xefve c2VjcmV0", "key number 2 is not printable"),
        ("a\x1b[2J c2VjcmV0", "key number 1 is not printable"),
        ("<b> c2VjcmV0,<b> c2VjcmV0", "key number 2 is there twice"),
        ("k" * 9000 + " !c2VjcmV0!", "key number 1 has a value"),
        ("a MQ==, ,b MQ==", "key number 2 is empty"),
    ],
)
def test_metadata_refused_names_the_key_and_never_the_value(text: str, told: str) -> None:
    """A key that is a plain word by itself, any other by its place; the value may be private."""
    with pytest.raises(InvalidMetadataError) as caught:
        headers.metadata_pairs(text)
    message = caught.value.message
    assert told in message
    assert "c2VjcmV0" not in message
    assert message.isprintable()
    assert len(message) < 200


def test_code_is_not_looked_for_in_metadata_that_is_refused_anyway() -> None:
    """So nobody without a code can keep the server busy with commas."""
    for text in ("," * 200 + "code eQ==", "a " + "A" * headers.MAX_METADATA_BYTES + ",code eQ=="):
        assert headers.presented_code([("Upload-Metadata", text)]) is None
    assert headers.presented_code([("Upload-Metadata", "," * 127 + "code eQ==")]) == "y"


def test_metadata_above_16_kib_is_too_large() -> None:
    """The limit is on the header as sent."""
    text = "abc " + "A" * (headers.MAX_METADATA_BYTES - 4)
    assert len(headers.metadata([("Upload-Metadata", text)], None).pairs) == 1
    with pytest.raises(HeadersTooLargeError):
        headers.metadata([("Upload-Metadata", text + "AAAA")], None)


@pytest.mark.parametrize("key", ["code", "CODE", "Code"])
def test_metadata_key_code_is_removed_in_any_case(key: str) -> None:
    """The code never becomes metadata, also if it was a wrong one."""
    read = headers.metadata([("Upload-Metadata", f"a MQ==,{key} {_b64(b'wrong')},b Mg==")], CODE)
    assert read.pairs == (("a", b"1"), ("b", b"2"))


@pytest.mark.parametrize("typed", [CODE, CODE.lower(), CODE.replace("-", ""), CODE.replace("-", " ")])
def test_metadata_value_equal_to_the_code_is_removed(typed: str) -> None:
    """A code hides under any key, however it was typed."""
    text = f"note {_b64(typed.encode())},a MQ=="
    assert headers.metadata([("Upload-Metadata", text)], CODE).pairs == (("a", b"1"),)


def test_metadata_value_equal_to_the_key_code_is_removed_too() -> None:
    """A client that sends its code twice in the metadata and another in the header loses both."""
    text = f"code {_b64(CODE.encode())},note {_b64(CODE.encode())},a MQ=="
    assert headers.metadata([("Upload-Metadata", text)], "OTHER").pairs == (("a", b"1"),)


@pytest.mark.parametrize("presented", ["", "-", None])
def test_metadata_empty_values_stay_with_an_empty_code(presented: str | None) -> None:
    """An empty code is no secret, so it does not empty the metadata."""
    assert headers.metadata([("Upload-Metadata", "a,b MQ==")], presented).pairs == (("a", b""), ("b", b"1"))


# ---- the code --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ([], None),
        ([("dropoff-code", " x ")], "x"),
        ([("Dropoff-Code", "x\u2013y".encode().decode("latin-1"))], "x\u2013y"),
        ([("Dropoff-Code", "x\xa0y")], "x\xa0y"),
        ([("Dropoff-Code", "x"), ("Dropoff-Code", "y")], "x"),
        ([("Dropoff-Code", "x"), ("Upload-Metadata", "code eQ==")], "x"),
        ([("Upload-Metadata", "a MQ==,CODE eQ==")], "y"),
        ([("Upload-Metadata", "a !!!,,code eQ==")], "y"),
        ([("Upload-Metadata", "code !!!")], None),
        ([("Upload-Metadata", "code")], ""),
        ([("Upload-Metadata", "code ÿ")], None),
        ([("Upload-Metadata", "code eOKAk3k=")], "x\u2013y"),
        ([("Upload-Metadata", "code eP95")], "x\xffy"),
    ],
    ids=[
        "none",
        "header",
        "utf-8",
        "latin-1",
        "twice",
        "header-wins",
        "metadata",
        "malformed-else",
        "malformed",
        "empty",
        "latin",
        "metadata-utf-8",
        "metadata-latin-1",
    ],
)
def test_presented_code_is_found_or_none(pairs: list[tuple[str, str]], code: str | None) -> None:
    """The code is looked for before the request is known to be well-formed, and never fails."""
    assert headers.presented_code(pairs) == code


# ---- digests and checksums -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("sha256", 32), ("sha512", 64), ("md5", 16), ("SHA256", 32)])
def test_digests_in_hex_or_base64_are_read(name: str, size: int) -> None:
    """Clients write digests in either form, in any case of letters."""
    value = bytes(range(200, 200 + 32)) * 2
    for text in (value[:size].hex(), value[:size].hex().upper(), _b64(value[:size]), f" {value[:size].hex()} "):
        (found,) = headers.digests(Metadata((("filename", b"x"), (name, text.encode()))))
        assert (found.algorithm, found.digest) == (name.lower(), value[:size])


@pytest.mark.parametrize(
    "content",
    [b"", b"zz", b"00" * 31, b"00" * 33, b"g" * 64, b"00 " * 21 + b"0", b"\xff" * 64, _b64(bytes(31)).encode()],
    ids=range(8),
)
def test_digest_that_is_none_is_refused(content: bytes) -> None:
    """A digest that could never match is refused before a byte is sent."""
    with pytest.raises(InvalidDigestError) as caught:
        headers.digests(Metadata((("sha256", content),)))
    assert content.decode("latin-1") == "" or content.decode("latin-1") not in caught.value.message


def test_digests_of_other_keys_are_left_alone() -> None:
    """`sha1` and the like are metadata as any other."""
    assert headers.digests(Metadata((("sha1", b"x"), ("checksum", b"y")))) == ()


@pytest.mark.parametrize(
    ("algorithm", "size"), [("md5", 16), ("sha1", 20), ("sha256", 32), ("sha512", 64), ("crc32", 4)]
)
def test_upload_checksum_of_each_algorithm_is_read(algorithm: str, size: int) -> None:
    """Each algorithm has its digest size."""
    found = headers.upload_checksum([("Upload-Checksum", f"{algorithm} {_b64(bytes(size))}")])
    assert found is not None
    assert (found.algorithm, found.digest) == (algorithm, bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha1",
        "sha1 ",
        f"SHA1 {_b64(bytes(20))}",
        "sha1 !!!!",
        f"sha1 {_b64(bytes(19))}",
        f"sha3 {_b64(bytes(20))}",
        f"sha1 {_b64(bytes(20))} more",
        "sha1 ÿ",
    ],
    ids=range(9),
)
def test_upload_checksum_malformed_is_refused(text: str) -> None:
    """A checksum that cannot be checked is not ignored."""
    with pytest.raises(InvalidChecksumError):
        headers.upload_checksum([("Upload-Checksum", text)])


def test_upload_checksum_absent_is_none() -> None:
    """Most requests have none."""
    assert headers.upload_checksum([]) is None


# ---- dates, secrets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC), "Sun, 06 Nov 1994 08:49:37 GMT"),
        (datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "Wed, 31 Dec 2025 23:30:00 GMT"),
    ],
    ids=["rfc", "other-zone"],
)
def test_http_date_is_an_imf_fixdate(moment: datetime, text: str) -> None:
    """RFC 9110's own example, and a time that is not given in UTC."""
    assert headers.http_date(moment) == text


def test_no_refusal_quotes_what_was_sent() -> None:
    """Error bodies and logs show messages, so these must not hold a client's secrets."""
    secret = "s3cr3t!"  # also no base64
    attempts = (
        lambda: headers.metadata_pairs(f"a {secret}"),
        lambda: headers.metadata_pairs(f"{secret} MQ==,{secret} MQ=="),
        lambda: headers.upload_checksum([("Upload-Checksum", f"{secret} {secret}")]),
        lambda: headers.upload_length([("Upload-Length", secret)]),
        lambda: headers.digests(Metadata((("md5", secret.encode()),))),
        lambda: headers.defers_length([("Upload-Defer-Length", secret)]),
    )
    for attempt in attempts:
        with pytest.raises(DropoffError) as caught:
            attempt()
        assert secret not in f"{caught.value} {caught.value!r} {caught.value.__context__!r}"
