"""Tests of how the bytes of text files are read."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropoff_tus.text import decode_text

_LINES = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1)


@given(_LINES, st.sampled_from([b"", codecs.BOM_UTF8]))
def test_utf8_is_read_with_and_without_a_mark(text: str, mark: bytes) -> None:
    """Editors that put a byte order mark in front change nothing."""
    assert decode_text(mark + text.encode()) == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["key\n", "пароль\r\n", "密码 1"])
def test_utf16_is_named_and_nothing_of_the_text_is_shown(text: str, encoding: str) -> None:
    """A file of an editor or a shell that writes UTF-16 is called so, whether it has a mark or not."""
    with pytest.raises(ValueError, match=r"^is UTF-16, or no text at all; save it as UTF-8$"):
        decode_text(text.encode(encoding))


@pytest.mark.parametrize("raw", ["pässwörd".encode("latin-1"), "ключ".encode("cp1251"), b"\xed\xa0\x80", b"\xc3"])
def test_other_encodings_are_refused_rather_than_replaced(raw: bytes) -> None:
    """A text of another encoding would else become the same known one as any other."""
    with pytest.raises(ValueError, match=r"^is not UTF-8 text; save it as UTF-8$") as refused:
        decode_text(raw)
    assert refused.value.__cause__ is None
