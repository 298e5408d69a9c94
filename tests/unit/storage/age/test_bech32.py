"""Bech32: the vectors of BIP-173 and of age, and what a strict reader refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.age import KeyTextError, bech32

_VALID = [
    "A12UEL5L",
    "a12uel5l",
    "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
    "an84characterslonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1569pvx",
    "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
    "11qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqc8247j",
    "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
]
_INVALID = {
    "wrong checksum": "split1checkupstagehandshakeupstreamerranterredcaperred2y9e2w",
    "space in the prefix": "s lit1checkupstagehandshakeupstreamerranterredcaperredp8hs2p",
    "foreign character": "split1cheo2y9e2w",
    "too short": "split1a2y9w",
    "empty prefix": "1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
    "delete in the prefix": "spl\x7ft1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
    "no separator": "pzry9x0s0muk",
    "empty prefix, no data": "1pzry9x0s0muk",
    "foreign character at the start": "x1b4n0q5v",
    "short checksum": "li1dgmt3",
    "not ASCII": "de1lg7wt\xff",
    "checksum over the upper-case prefix": "A1G7SGD8",
    "only a checksum, empty prefix": "10a06t8",
    "empty prefix, short": "1qzzfhee",
    "mixed case": "A12uEL5L",
    "mixed case in the data": "split1Checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
    "Kelvin sign, which lower-cases to k": "split1chec\u212aupstagehandshakeupstreamerranterredcaperred2y9e3w",
    "data part shorter than the checksum": "AQM1KZCML",
    "nothing": "",
    "only the separator": "1",
    "trailing line feed": "a12uel5l\n",
    "leading space": " a12uel5l",
}


def _reference(prefix: str, values: list[int]) -> str:
    """Add the checksum to five-bit values by the code in BIP-173, so that padding can be malformed on purpose."""

    def polymod(numbers: list[int]) -> int:
        state = 1
        for number in numbers:
            top = state >> 25
            state = (state & 0x1FFFFFF) << 5 ^ number
            for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
                state ^= generator if top >> bit & 1 else 0
        return state

    expanded = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    state = polymod(expanded + values + [0] * 6) ^ 1
    checksum = [state >> 5 * (5 - place) & 31 for place in range(6)]
    return prefix + "1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[value] for value in values + checksum)


@pytest.mark.parametrize("text", _VALID)
def test_decode_valid_text_encodes_to_itself(text: str) -> None:
    """Texts that the standard accepts are read and written back, in their own case."""
    assert bech32.encode(*bech32.decode(text)) == text


@pytest.mark.parametrize("text", _INVALID.values(), ids=_INVALID.keys())
def test_decode_invalid_text_raises(text: str) -> None:
    """Texts that the standard refuses are refused."""
    with pytest.raises(KeyTextError):
        bech32.decode(text)


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ([0, 0], True),
        ([31, 28], True),
        ([31, 29], False),  # one of the two spare bits is set
        ([0], False),  # a whole spare character
        ([0] * 3, False),
        ([0] * 6, False),
        ([0] * 8, True),
        ([], True),
    ],
)
def test_decode_padding_is_accepted_only_if_canonical(values: list[int], valid: bool) -> None:
    """Spare bits are fewer than five, and zero."""
    text = _reference("age", values)
    if valid:
        assert bech32.encode(*bech32.decode(text)) == text
    else:
        with pytest.raises(KeyTextError, match="padding"):
            bech32.decode(text)


@pytest.mark.parametrize("prefix", ["", "Age", "a ge", "äge"])
def test_encode_unusable_prefix_raises(prefix: str) -> None:
    """A prefix that could not be read back is not written."""
    with pytest.raises(KeyTextError):
        bech32.encode(prefix, b"data")


@given(prefix=st.sampled_from(["age", "age1pq", "AGE-SECRET-KEY-PQ-", "x"]), data=st.binary(max_size=1300))
def test_encode_any_bytes_decodes_to_them_and_agrees_with_the_standard(prefix: str, data: bytes) -> None:
    """The table-driven code and the standard's own bit-by-bit code write the same text, of any length."""
    text = bech32.encode(prefix, data)
    assert bech32.decode(text) == (prefix, data)
    bits = "".join(f"{byte:08b}" for byte in data)
    values = [int(bits[start : start + 5].ljust(5, "0"), 2) for start in range(0, len(bits), 5)]
    assert _reference(prefix.lower(), values) == text.lower()


@given(
    data=st.binary(min_size=1, max_size=40), place=st.integers(min_value=0), char=st.sampled_from("qpzry9x8gf2tvdw0")
)
def test_decode_one_changed_character_raises(data: bytes, place: int, char: str) -> None:
    """The checksum finds every single wrong character."""
    text = bech32.encode("age", data)
    at = 4 + place % (len(text) - 4)
    changed = text[:at] + char + text[at + 1 :]
    if changed == text:
        assert bech32.decode(changed) == ("age", data)
    else:
        with pytest.raises(KeyTextError):
            bech32.decode(changed)


@given(st.text(max_size=60))
def test_decode_any_text_raises_only_key_text_errors(text: str) -> None:
    """Any pasted text is written back the same, or is a `KeyTextError`."""
    try:
        prefix, data = bech32.decode(text)
    except KeyTextError:
        return
    assert bech32.encode(prefix, data) == text
