r"""The textual header of an age file: stanzas and MAC. No keys are tried here.

    header     = v1-line 1*stanza end
    v1-line    = %s"age-encryption.org/v1" LF
    stanza     = arg-line *full-line final-line
    arg-line   = "-> " argument *(SP argument) LF        argument = 1*VCHAR
    full-line  = 64base64char LF
    final-line = *63base64char LF
    end        = "--- " 43base64char LF

The grammar is strict, and so is the base64 (canonical, unpadded): exactly one text stands for one header, so a parsed
header serialises to the bytes that were read.

Source: C2SP age.md, "Header".
"""

import base64
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from storage.age import kdf
from storage.age.errors import HeaderError, HeaderMacError

Buffer = bytes | bytearray | memoryview

_INTRO: Final = b"age-encryption.org/v1"
_END_MARK: Final = b"---"
_COLUMNS: Final = 64
_MAC_CHARS: Final = 43
# The end line after its mark: a space, the MAC and the line feed. The MAC covers everything before.
_AFTER_MARK_BYTES: Final = 1 + _MAC_CHARS + 1
_ARG_LINE: Final = re.compile(rb"-> ([\x21-\x7e]+(?: [\x21-\x7e]+)*)")
_ARG_TEXT: Final = re.compile(r"->(?: [\x21-\x7e]+)+")

# The limits of the reference implementation. Without them a hostile file could keep a reader busy at will.
MAX_HEADER_BYTES: Final = 2 << 20
MAX_STANZAS: Final = 1024


@dataclass(frozen=True, slots=True)
class Stanza:
    """One wrapping of the file key.

    Attributes:
        kind: the first argument, such as `X25519`.
        args: the other arguments.
        body: the decoded body.
    """

    kind: str
    args: tuple[str, ...]
    body: bytes

    def serialize(self) -> bytes:
        """Write the stanza out, with the line feed at its end.

        Raises:
            HeaderError: an argument is empty or not visible ASCII.
        """
        argument_line = " ".join(("->", self.kind, *self.args))
        # A space within an argument would be one argument more.
        if _ARG_TEXT.fullmatch(argument_line) is None or argument_line.count(" ") != len(self.args) + 1:
            raise HeaderError("a stanza argument is empty or not visible ASCII")
        body = encode_base64(self.body)
        # One past the end, because a body that fills its last line is followed by an empty one.
        lines = [body[start : start + _COLUMNS] for start in range(0, len(body) + 1, _COLUMNS)]
        return "\n".join((argument_line, *lines, "")).encode("ascii")


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    Attributes:
        length: its size in bytes; the 16-byte nonce of the payload comes next.
        stanzas: at least one.
        mac: 32 bytes, not yet verified.
    """

    length: int
    stanzas: tuple[Stanza, ...]
    mac: bytes


def encode_base64(data: bytes) -> str:
    """Encode as canonical base64 without padding."""
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: bytes | str) -> bytes:
    """Decode canonical base64 without padding.

    Raises:
        HeaderError: any other character, padding, or bits left over that are not zero.
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    try:
        data = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except ValueError:
        data = None
    # Encoding again is the shortest complete test for "canonical".
    if data is None or base64.b64encode(data).rstrip(b"=") != raw:
        raise HeaderError("base64 that is not canonical")
    return data


class _Lines:
    """Hands out the lines of a header and knows where the last one ended."""

    __slots__ = ("_data", "end")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.end = 0

    def take(self) -> bytes:
        """Return the next line without its line feed."""
        stop = self._data.find(b"\n", self.end)
        if stop < 0:
            raise HeaderError("the header is cut short or too long")
        line = self._data[self.end : stop]
        self.end = stop + 1
        return line


def parse_header(data: Buffer, *, max_stanzas: int = MAX_STANZAS) -> Header:
    """Parse the header at the start of `data`; the rest is ignored.

    Args:
        data: an age file, or at least the whole of its header.
        max_stanzas: the number of stanzas to accept.

    Returns:
        The header; its MAC still has to be verified, see `verify_mac`.

    Raises:
        HeaderError: the grammar is broken, the header is cut short, or a limit is exceeded.
    """
    lines = _Lines(bytes(memoryview(data)[:MAX_HEADER_BYTES]))
    if lines.take() != _INTRO:
        raise HeaderError("this is not an age v1 file")
    stanzas: list[Stanza] = []
    while not (line := lines.take()).startswith(_END_MARK):
        if len(stanzas) == max_stanzas:
            raise HeaderError(f"more than {max_stanzas} stanzas")
        stanzas.append(_parse_stanza(line, lines))
    if not stanzas:
        raise HeaderError("a header without a stanza")
    if len(line) != len(_END_MARK) + 1 + _MAC_CHARS or line[len(_END_MARK)] != ord(" "):
        raise HeaderError("a malformed MAC line")
    return Header(lines.end, tuple(stanzas), decode_base64(line[-_MAC_CHARS:]))


def _parse_stanza(arg_line: bytes, lines: _Lines) -> Stanza:
    """Parse one stanza, whose body is taken from `lines`."""
    match = _ARG_LINE.fullmatch(arg_line)
    if match is None:
        raise HeaderError("a malformed stanza line")
    kind, *args = match[1].decode("ascii").split(" ")
    body: list[bytes] = []
    while len(line := lines.take()) == _COLUMNS:
        body.append(line)
    if len(line) > _COLUMNS:
        raise HeaderError("a stanza body line that is too long")
    body.append(line)
    return Stanza(kind, tuple(args), decode_base64(b"".join(body)))


def serialize_header(stanzas: Iterable[Stanza], file_key: bytes) -> bytes:
    """Write a header for a file key.

    Args:
        stanzas: at least one, each of which wraps the file key.
        file_key: 16 bytes; it keys the MAC.

    Returns:
        The header, from the version line to the line feed after the MAC.

    Raises:
        HeaderError: there is no stanza, or one cannot be written.
    """
    body = b"".join(stanza.serialize() for stanza in stanzas)
    if not body:
        raise HeaderError("a header without a stanza")
    covered = _INTRO + b"\n" + body + _END_MARK
    return covered + b" " + encode_base64(_mac(covered, file_key)).encode("ascii") + b"\n"


def verify_mac(data: Buffer, header: Header, file_key: bytes) -> None:
    """Verify the MAC over the bytes as they were read.

    Args:
        data: the bytes that `header` was parsed from.
        header: the parsed header.
        file_key: 16 bytes, unwrapped from one of its stanzas.

    Raises:
        HeaderMacError: the header was changed after it was made; nothing in the file can be trusted.
    """
    covered = bytes(memoryview(data)[: header.length - _AFTER_MARK_BYTES])
    if not hmac.compare_digest(_mac(covered, file_key), header.mac):
        raise HeaderMacError("the header does not match its MAC")


def _mac(covered: bytes, file_key: bytes) -> bytes:
    """Return the header MAC, 32 bytes."""
    return hmac.digest(kdf.derive(file_key, salt=b"", info=b"header"), covered, "sha256")
