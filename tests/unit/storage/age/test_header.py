"""The header: its grammar, its limits and its MAC."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage import age
from storage.age import header as age_header
from storage.age.header import Stanza, decode_base64, encode_base64, parse_header, serialize_header, verify_mac

_KEY = b"sixteen byte key"
_STANZAS = (Stanza("X25519", ("abc",), bytes(32)), Stanza("other", (), bytes(48)), Stanza("empty", ("x", "y"), b""))
_HEADER = serialize_header(_STANZAS, _KEY)

_visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
_stanzas = st.builds(Stanza, _visible, st.lists(_visible, max_size=3).map(tuple), st.binary(max_size=200))


def test_serialize_header_body_of_whole_lines_ends_with_an_empty_line() -> None:
    """A body that fills 64 columns is followed by an empty line, as the grammar wants."""
    assert Stanza("k", (), bytes(48)).serialize() == b"-> k\n" + b"A" * 64 + b"\n\n"
    assert Stanza("k", ("a",), bytes(32)).serialize() == b"-> k a\n" + b"A" * 43 + b"\n"
    assert Stanza("k", (), b"").serialize() == b"-> k\n\n"


@given(st.lists(_stanzas, min_size=1, max_size=4), st.binary(max_size=80))
def test_parse_header_written_header_gives_back_the_stanzas(stanzas: list[Stanza], rest: bytes) -> None:
    """Writing and parsing are inverse, and what follows the header is left alone."""
    written = serialize_header(stanzas, _KEY)
    header = parse_header(written + rest)
    assert header.stanzas == tuple(stanzas)
    assert header.length == len(written)
    verify_mac(written + rest, header, _KEY)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_parse_header_any_buffer_is_accepted(kind: type[bytes | bytearray | memoryview]) -> None:
    """A header is parsed and verified wherever its bytes lie."""
    data = kind(_HEADER)
    verify_mac(data, parse_header(data), _KEY)


@pytest.mark.parametrize("size", range(len(_HEADER)))
def test_parse_header_cut_at_any_byte_raises(size: int) -> None:
    """No part of a header is a header."""
    with pytest.raises(age.HeaderError):
        parse_header(_HEADER[:size])


def test_header_any_flipped_bit_is_found() -> None:
    """Each bit is covered: by the grammar, or else by the MAC."""
    for place in range(len(_HEADER)):
        for bit in range(8):
            changed = bytearray(_HEADER)
            changed[place] ^= 1 << bit
            with pytest.raises((age.HeaderError, age.HeaderMacError)):
                verify_mac(changed, parse_header(changed), _KEY)


def test_verify_mac_other_file_key_raises() -> None:
    """The MAC is keyed with the file key."""
    with pytest.raises(age.HeaderMacError):
        verify_mac(_HEADER, parse_header(_HEADER), b"another file key")


@pytest.mark.parametrize(
    "text",
    [
        b"age-encryption.org/v2\n" + _HEADER.split(b"\n", 1)[1],
        b"age-encryption.org/v1\r\n" + _HEADER.split(b"\n", 1)[1],
        b"\n" + _HEADER,
        b"age-encryption.org/v1\n--- " + b"A" * 43 + b"\n",
        _HEADER.replace(b"-> X25519", b"->  X25519"),
        _HEADER.replace(b"-> X25519", b"->\tX25519"),
        _HEADER.replace(b"-> X25519 ", b"-> X25519  "),
        _HEADER.replace(b"abc\n", b"abc \n"),
        _HEADER.replace(b"abc\n", b"ab\xc3\xa4\n"),
        _HEADER.replace(b"abc\n", b"ab\0\n"),
        _HEADER.replace(b"--- ", b"---"),
        _HEADER.replace(b"--- ", b"---  "),
        _HEADER.replace(b"--- ", b"----"),
        _HEADER[:-1] + b" \n",
        _HEADER[:-1] + b"=\n",
        _HEADER[:-1] + b"\r\n",
        _HEADER.replace(b"A" * 43, b"A" * 42),
        _HEADER.replace(b"A" * 43 + b"\n", b"A" * 42 + b"B\n"),
        _HEADER.replace(b"A" * 43 + b"\n", b"A" * 43 + b"=\n"),
        _HEADER.replace(b"A" * 43 + b"\n", b"A" * 20 + b" " + b"A" * 22 + b"\n"),
        _HEADER.replace(b"A" * 64 + b"\n\n", b"A" * 64 + b"\n"),
        _HEADER.replace(b"A" * 64 + b"\n", b"A" * 68 + b"\n"),
        _HEADER.replace(b"A" * 43 + b"\n", b"A" * 43 + b"\nAA\n"),
        b"",
    ],
)
def test_parse_header_outside_the_grammar_raises(text: bytes) -> None:
    """Nothing but the one spelling is accepted; each of these differs from it in one place."""
    assert text != _HEADER
    with pytest.raises(age.HeaderError):
        parse_header(text)


def test_parse_header_stanza_limit_counts_stanzas() -> None:
    """As many stanzas as allowed pass, one more does not."""
    header = serialize_header([Stanza("k", (), b"")] * 33, _KEY)
    assert len(parse_header(header, max_stanzas=33).stanzas) == 33
    with pytest.raises(age.HeaderError, match="32"):
        parse_header(header, max_stanzas=32)
    with pytest.raises(age.HeaderError, match="1024"):
        parse_header(serialize_header([Stanza("k", (), b"")] * 1025, _KEY))


def test_parse_header_endless_header_is_refused_at_two_mebibytes() -> None:
    """A reader does not look for the end of a header for ever."""
    body = age_header.MAX_HEADER_BYTES
    with pytest.raises(age.HeaderError):
        parse_header(serialize_header([Stanza("k", (), bytes(body))], _KEY))
    with pytest.raises(age.HeaderError):
        parse_header(b"age-encryption.org/v1\n-> " + b"x" * body)


@pytest.mark.parametrize(
    "stanza", [Stanza("", (), b""), Stanza("a b", (), b""), Stanza("k", ("\n",), b""), Stanza("é", (), b"")]
)
def test_serialize_header_unwritable_argument_raises(stanza: Stanza) -> None:
    """An argument cannot smuggle a line into the header."""
    with pytest.raises(age.HeaderError):
        serialize_header([stanza], _KEY)


def test_serialize_header_without_stanza_raises() -> None:
    """A header that nobody could open is not written."""
    with pytest.raises(age.HeaderError):
        serialize_header([], _KEY)


@given(st.binary(max_size=100))
def test_base64_any_bytes_round_trip(data: bytes) -> None:
    """Encoding and decoding are inverse."""
    assert decode_base64(encode_base64(data)) == data


@pytest.mark.parametrize("text", ["A", "AA==", "AB", "AAB", "A-_A", "AA A", "AAA\n", "\nAAA", "ÄAAA", "A" * 5])
def test_decode_base64_not_canonical_raises(text: str) -> None:
    """One text for each value: no padding, no other alphabet, no white space, no stray bits."""
    with pytest.raises(age.HeaderError):
        decode_base64(text)


_pieces = st.sampled_from(
    [
        b"age-encryption.org/v1\n",
        b"-> ",
        b"X25519",
        b"mlkem768x25519",
        b" ",
        b"\n",
        b"--- ",
        b"A" * 43,
        b"A" * 64,
        b"=",
        b"\r",
    ]
)


@given(st.lists(_pieces | st.binary(max_size=4), max_size=16).map(b"".join))
@example(_HEADER)
def test_parse_header_any_input_raises_only_header_errors(data: bytes) -> None:
    """Hostile input is a header that is written back the same, or a `HeaderError`."""
    identity = age.Identity(age.KeyType.X25519, bytes(32))
    try:
        header = parse_header(data)
    except age.HeaderError:
        return
    written = b"".join(stanza.serialize() for stanza in header.stanzas)
    assert (
        data[: header.length]
        == b"age-encryption.org/v1\n" + written + b"--- " + encode_base64(header.mac).encode() + b"\n"
    )
    with pytest.raises(age.AgeError):
        age.decrypt(data, [identity])
