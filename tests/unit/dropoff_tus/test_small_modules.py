"""Tests of ids, checksums, model and errors."""

import hashlib
import zlib

import pytest

from dropoff_tus import errors, ids
from dropoff_tus.checksum import CHECKSUM_SIZES, DIGEST_SIZES, ExpectedChecksum, ExpectedDigest, running_hash
from dropoff_tus.model import Metadata


def _kinds() -> list[type[errors.DropoffError]]:
    found = [errors.DropoffError]
    for kind in found:
        found += kind.__subclasses__()
    return found


# ---- ids -------------------------------------------------------------------------------------------------------


def test_upload_id_is_the_documented_hash_of_the_token() -> None:
    """The id is the first half of a domain-separated SHA-256, in hex."""
    token = "0123456789abcdef" * 2
    expected = hashlib.sha256(b"dropoff-tus/upload-id/v1\n" + token.encode()).hexdigest()[:32]
    assert ids.upload_id(token) == expected


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 31 + "\n", "٠" * 32])
def test_token_of_another_form_is_none(text: str) -> None:
    """Only 32 lower-case hex digits are a token or an id."""
    assert ids.UploadToken.parse(text) is None
    assert not ids.is_upload_id(text)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a", True),
        ("3F0C5F4A-8D1C-4C44-9A37-0F5F3F0C5F4A", False),
        ("3f0c5f4a8d1c4c449a370f5f3f0c5f4a", False),
        ("3f0c5f4a-8d1c-1c44-9a37-0f5f3f0c5f4a", False),
        ("3f0c5f4a-8d1c-4c44-ca37-0f5f3f0c5f4a", False),
        ("3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a\n", False),
    ],
    ids=["canonical", "upper", "bare", "version", "variant", "line-feed"],
)
def test_drop_id_is_a_canonical_uuid4(text: str, is_one: bool) -> None:
    """One way to write an id, so that paths and rows agree."""
    assert ids.is_drop_id(text) is is_one


def test_code_is_16_characters_in_fours_of_all_bits() -> None:
    """Every one of the 80 bits counts, and no look-alike letter is used."""
    assert ids.format_code(bytes(10)) == "0000-0000-0000-0000"
    assert ids.format_code(b"\xff" * 10) == "ZZZZ-ZZZZ-ZZZZ-ZZZZ"
    assert ids.format_code((1).to_bytes(10, "big")) == "0000-0000-0000-0001"
    assert len({ids.format_code((1 << bit).to_bytes(10, "big")) for bit in range(80)}) == 80
    with pytest.raises(ValueError, match="10 random bytes"):
        ids.format_code(bytes(9))


@pytest.mark.parametrize(
    "typed",
    [
        "abcd-efgh-1jk0-mnpq",
        "ABCDEFGHIJKOMNPQ",
        " abcd efgh\tljko-mnpq ",
        "ABCD-EFGH-1JK0-MNPQ\r\n",
        '"ABCD_EFGH_1JK0_MNPQ".',
        "abcd\u2013efgh\u20111jk0\u00admnpq",
        "\ufeffABCD\u00a0EFGH\u200b 1JK0\u2003MNPQ",
        "\uff21\uff22\uff23\uff24\uff0dEFGH\uff0d1JK\uff10MNPQ",
    ],
)
def test_code_as_people_type_it_is_normalised(typed: str) -> None:
    """Case, separators of any kind and look-alikes make no difference."""
    assert ids.normalise_code(typed) == "ABCDEFGH1JK0MNPQ"


@pytest.mark.parametrize("typed", ["", "-- --", "\u2013\ud800", "\x00", "\ufdfa" * 5000])
def test_code_that_is_none_is_normalised_to_none(typed: str) -> None:
    """No text fails, and one that is no code becomes none."""
    assert "ABCDEFGH1JK0MNPQ" not in ids.normalise_code(typed)


# ---- checksums -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*CHECKSUM_SIZES, *DIGEST_SIZES}))
def test_running_hash_in_pieces_equals_the_whole(name: str) -> None:
    """Bytes may come in any pieces, and the digest has the promised size."""
    running = running_hash(name)
    for piece in (b"hel", bytearray(b"lo"), memoryview(b" world")):
        running.update(piece)
    if name == "crc32":
        expected = zlib.crc32(b"hello world").to_bytes(4, "big")
    else:
        expected = hashlib.new(name, b"hello world", usedforsecurity=False).digest()
    assert running.digest() == expected
    assert len(expected) == {**CHECKSUM_SIZES, **DIGEST_SIZES}[name]


@pytest.mark.parametrize("name", ["sha3_256", "SHA1", "", "blake2b"])
def test_running_hash_of_unknown_name_is_refused(name: str) -> None:
    """The library knows more than the protocol names."""
    with pytest.raises(KeyError):
        running_hash(name)


@pytest.mark.parametrize("kind", [ExpectedChecksum, ExpectedDigest])
def test_expected_value_matches_only_itself_and_hides_in_repr(
    kind: type[ExpectedChecksum] | type[ExpectedDigest],
) -> None:
    """A digest gives a guessable file away, so no repr shows it."""
    digest = hashlib.sha256(b"x").digest()
    expected = kind("sha256", digest)
    assert expected.matches(digest)
    assert not expected.matches(bytes(32))
    assert "digest" not in repr(expected).replace(kind.__name__, "")


# ---- model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "filename", "filetype"),
    [
        ((), None, None),
        ((("name", b"n"), ("type", b"t")), "n", "t"),
        ((("name", b"n"), ("filename", b"f"), ("filetype", b"x/y"), ("type", b"t")), "f", "x/y"),
        ((("Filename", b"f"),), None, None),
        ((("filename", b"\xff"),), "\ufffd", None),
        ((("filename", b""), ("name", b"n")), "", None),
    ],
    ids=["none", "uppy-names", "preferred", "case", "bad-utf8", "empty"],
)
def test_metadata_names_file_and_type(
    pairs: tuple[tuple[str, bytes], ...], filename: str | None, filetype: str | None
) -> None:
    """Clients disagree on the keys; both pairs of names are known."""
    metadata = Metadata(pairs)
    assert (metadata.filename, metadata.filetype) == (filename, filetype)


def test_metadata_repr_shows_no_value() -> None:
    """Names of files are private."""
    assert repr(Metadata((("filename", b"salaries.xlsx"),))) == "Metadata(<1 pairs>)"


# ---- errors ----------------------------------------------------------------------------------------------------


def test_error_codes_are_stable_words_and_statuses_are_errors() -> None:
    """Clients compare codes, so their form is fixed."""
    for kind in _kinds():
        assert kind.code.startswith("ERR_")
        assert kind.code.replace("_", "").isalpha() or kind.code == "ERR_KEY_MISSING"
        assert kind.code == kind.code.upper()
        assert 400 <= kind.status_hint <= 599


def test_error_retry_after_is_the_default_or_the_given_one() -> None:
    """A raiser that knows better says so."""
    assert errors.StorageFullError("full").retry_after_seconds == 60
    assert errors.StorageFullError("full", retry_after_seconds=5).retry_after_seconds == 5
    assert errors.QuotaError("no").retry_after_seconds is None
