"""Text that people write into files, keys and configuration among it: one way to read its bytes."""

import codecs
import json

_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


canonical = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False).encode
"""Writes JSON in its one form: sorted keys, no spaces, ASCII."""


def decode_text(raw: bytes) -> str:
    """Return UTF-8 text, without the byte order mark that some editors put in front.

    Raises:
        ValueError: It is something else; a predicate to be put behind the file's name, which shows nothing of it.
    """
    # Without a mark UTF-16 shows by the NUL beside each ASCII character; a line's end is one.
    if raw.startswith(_WIDE_MARKS) or b"\0" in raw:
        raise ValueError("is UTF-16, or no text at all; save it as UTF-8")
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text; save it as UTF-8") from None


def entries(text: str) -> list[str]:
    """Return what a file lists, one a line, as `age -R` takes it: without blank lines and those that begin with `#`."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
