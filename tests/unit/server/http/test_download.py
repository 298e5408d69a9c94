"""The name under which a download is saved, whatever an uploader calls a file."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.download import disposition

_FORM = re.compile(r"attachment; filename=\"([ -~]+)\"; filename\*=UTF-8''([A-Za-z0-9._~%-]+)")


def _names(name: str | None) -> tuple[str, str]:
    found = _FORM.fullmatch(disposition(name, "0a1b"))
    assert found is not None
    return found[1], unquote(found[2])


@pytest.mark.parametrize(
    ("name", "plain", "whole"),
    [
        ("scan.zip", "scan.zip", "scan.zip"),
        ("my scan (2).zip", "my scan (2).zip", "my scan (2).zip"),
        ('a"b;c.zip', "a_b_c.zip", 'a"b;c.zip'),
        ("..\\x", "x", "x"),
        ("../../etc/passwd", "passwd", "passwd"),
        ("C:\\temp\\a.txt", "a.txt", "a.txt"),
        (".bashrc", "bashrc", ".bashrc"),
        ("a%2fb.txt", "a_2fb.txt", "a%2fb.txt"),
        ("a\r\nX: y", "a__X_ y", "a\r\nX: y"),
        ("gro\xdf.txt", "gro_.txt", "gro\xdf.txt"),
        ("\u540d.tar.gz", "0a1b.tar.gz", "\u540d.tar.gz"),
        ("\U0001f600" * 300, "0a1b", "\U0001f600" * 255),
        ("-x.zip", "-x.zip", "-x.zip"),
        *((nothing, "0a1b", "0a1b") for nothing in (None, "", ".", "..", ". .", "a/", "/", "\\", "a/..")),
    ],
)
def test_disposition_of_a_name(name: str | None, plain: str, whole: str) -> None:
    """A quoted name for all programs, and the whole one for those that read it; neither leads elsewhere."""
    assert _names(name) == (plain, whole)


@given(st.text())
def test_disposition_is_one_header_without_a_path(name: str) -> None:
    """For any name."""
    plain, whole = _names(name)
    assert not {*plain} & {*'/\\:*?"<>|%;'}
    assert plain.strip(" .") == plain
    assert not {*whole} & {*"/\\"}
    assert whole.strip(" .")
