"""Bech32 (BIP-173) without its length limit, as age writes keys.

A hybrid recipient is 1,959 characters long, so the slow parts are left to C: `int(text, 32)`, `base64.b32encode` and
`bytes.translate` regroup the bits, and the checksum reads one table entry per pair of characters.

Source: BIP-173, "Bech32"; C2SP age.md, "Conventions used in this document".
"""

import base64
import functools
from typing import Final

from storage.age.errors import KeyTextError

_CHARSET: Final = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_RFC4648: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_INT_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)

_CHECKSUM_CHARS: Final = 6
_FIRST_VISIBLE: Final = "!"
_LAST_VISIBLE: Final = "~"

_TO_VALUES: Final = bytes.maketrans(_CHARSET, bytes(range(32)))
_TO_INT_DIGITS: Final = bytes.maketrans(_CHARSET, _INT_DIGITS)
_FROM_RFC4648: Final = bytes.maketrans(_RFC4648, _CHARSET)


def _reduce(top: int) -> int:
    """Return what the five bits shifted out at the top add to the checksum."""
    total = 0
    for bit, generator in enumerate(_GENERATOR):
        if top >> bit & 1:
            total ^= generator
    return total


def _pair_table() -> tuple[int, ...]:
    """Return the same for ten bits, that is for two characters at once."""
    table = []
    for top in range(1024):
        first = _reduce(top >> 5)
        # After the first step the second character's five bits are on top, changed by that step.
        second = (top & 31) ^ first >> 25
        table.append((first & 0x1FFFFFF) << 5 ^ _reduce(second))
    return tuple(table)


_TWO: Final = _pair_table()


def _polymod(values: bytes) -> int:
    """Return the 30-bit checksum state after `values`, each of them 0 to 31."""
    state = 1
    if len(values) % 2:
        state = 1 << 5 ^ values[0]
        values = values[1:]
    table = _TWO
    for high, low in zip(values[::2], values[1::2], strict=True):
        state = (state & 0xFFFFF) << 10 ^ high << 5 ^ low ^ table[state >> 20]
    return state


def _expand(prefix: str) -> bytes:
    """Return the values by which the checksum covers the lower-case prefix."""
    codes = prefix.encode("ascii")
    return bytes(code >> 5 for code in codes) + b"\0" + bytes(code & 31 for code in codes)


def encode(prefix: str, data: bytes) -> str:
    """Encode bytes below a prefix; an upper-case prefix makes an upper-case text.

    Args:
        prefix: the human-readable part, visible ASCII of one case.
        data: any number of bytes.

    Returns:
        The prefix, `1`, the data and the checksum.

    Raises:
        KeyTextError: the prefix is empty, mixes cases or is not visible ASCII.
    """
    lower, expanded = _checked(prefix)
    body = base64.b32encode(data).rstrip(b"=").translate(_FROM_RFC4648)
    state = _polymod(expanded + body.translate(_TO_VALUES) + bytes(_CHECKSUM_CHARS)) ^ 1
    checksum = bytes(_CHARSET[state >> 5 * (5 - place) & 31] for place in range(_CHECKSUM_CHARS))
    text = f"{lower}1{(body + checksum).decode('ascii')}"
    return text if lower == prefix else text.upper()


@functools.lru_cache(maxsize=16)
def _checked(prefix: str) -> tuple[str, bytes]:
    """Return a prefix to write in lower case, and the values by which the checksum covers it.

    Raises:
        KeyTextError: as `encode`.
    """
    _check_prefix(prefix)
    lower = prefix.lower()
    if lower != prefix and prefix.upper() != prefix:
        raise KeyTextError("bech32: the prefix mixes upper and lower case")
    return lower, _expand(lower)


def decode(text: str) -> tuple[str, bytes]:
    """Decode a text, strictly.

    Args:
        text: the whole text; nothing around it is forgiven.

    Returns:
        The prefix in the case it was written in, and the bytes.

    Raises:
        KeyTextError: the text mixes cases, holds a foreign character, or its checksum or padding is wrong. The message
            does not contain the text.
    """
    if not text.isascii():
        raise KeyTextError("bech32: not ASCII")
    lower = text.lower()
    if lower != text and text.upper() != text:
        raise KeyTextError("bech32: upper and lower case are mixed")
    separator = lower.rfind("1")
    _check_prefix(text[: max(separator, 0)])
    prefix, body = lower[:separator], lower[separator + 1 :].encode("ascii")
    if len(body) < _CHECKSUM_CHARS:
        raise KeyTextError("bech32: too short")
    if body.translate(None, delete=_CHARSET):
        raise KeyTextError("bech32: a character outside the alphabet")
    if _polymod(_expand(prefix) + body.translate(_TO_VALUES)) != 1:
        raise KeyTextError("bech32: wrong checksum")
    return text[:separator], _regroup(body[:-_CHECKSUM_CHARS])


def _check_prefix(prefix: str) -> None:
    """Refuse a prefix that is empty or holds anything but visible ASCII."""
    if not prefix:
        raise KeyTextError("bech32: no prefix")
    if not all(_FIRST_VISIBLE <= char <= _LAST_VISIBLE for char in prefix):
        raise KeyTextError("bech32: the prefix is not visible ASCII")


def _regroup(body: bytes) -> bytes:
    """Turn five-bit characters into bytes, refusing padding that is too long or not zero."""
    size_bytes, spare_bits = divmod(5 * len(body), 8)
    # `int` reads base 32 at C speed; the zero in front lets it read an empty body.
    number = int(b"0" + body.translate(_TO_INT_DIGITS), 32)
    if spare_bits >= 5 or number & (1 << spare_bits) - 1:  # noqa: PLR2004 - five bits are a whole character
        raise KeyTextError("bech32: wrong padding")
    return (number >> spare_bits).to_bytes(size_bytes, "big")
