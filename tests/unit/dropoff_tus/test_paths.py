"""Paths of clients become paths below a folder: never out of it, never two the same."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropoff_tus.paths import MOST_NAME_BYTES, Paths, clean_path, told_path
from dropoff_tus.shown import UNSAFE


@pytest.mark.parametrize(
    ("told", "path"),
    [
        ("scan.zip", "scan.zip"),
        ("a/b/c.txt", "a/b/c.txt"),
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("C:\\Users\\ada\\x.txt", "C_/Users/ada/x.txt"),
        ("a/./b//c", "a/b/c"),
        ("a/.. /b", "a/b"),
        ("...", "ID"),
        ("", "ID"),
        ("///", "ID"),
        (" .. ", "ID"),
        ("\u202egpj.exe", "_gpj.exe"),
        ("a\nb\x1b[2J\u2028c", "a_b_[2J_c"),
        ("a\0b", "a_b"),
        ("nul", "_nul"),
        ("COM1.txt", "_COM1.txt"),
        ("aux .h", "_aux .h"),
        ("console", "console"),
        ("name. . ", "name"),
        (".ssh/authorized_keys", "_ssh/authorized_keys"),
        ("-rf", "_rf"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("日本/データ.csv", "日本/データ.csv"),
        ("\udcff", "_"),
        ("x" * 300 + ".vcf.gz", "x" * 193 + ".vcf.gz"),
        ("é" * 300, "é" * 100),
        ("/".join("abcdefghij" * 5), "/".join(("abcdefghij" * 5)[-32:])),
    ],
)
def test_clean_path_keeps_what_is_safe(told: str, path: str) -> None:
    """And replaces the rest."""
    assert "/".join(clean_path(told, "ID")) == path


@pytest.mark.parametrize(
    ("told", "given_out"),
    [
        (["a.txt", "a.txt", "a.txt"], ["a.txt", "a (2).txt", "a (3).txt"]),
        (["a.txt", "A.TXT"], ["a.txt", "A (2).TXT"]),
        (["x.vcf.gz", "x.vcf.gz"], ["x.vcf.gz", "x (2).vcf.gz"]),
        (["a", "a/b", "A/c"], ["a", "a (2)/b", "a (2)/c"]),
        (["a/b", "a", "A/B"], ["a/b", "a (2)", "a/B (2)"]),
        (["a.txt", "a (2).txt", "a.txt"], ["a.txt", "a (2).txt", "a (3).txt"]),
        (["Manifest.CSV", "d/manifest.csv"], ["Manifest (2).CSV", "d/manifest.csv"]),
        (["ß", "SS", "ſs"], ["ß", "SS (2)", "ſs (3)"]),
        (["..", ""], ["ID", "ID (2)"]),
    ],
)
def test_paths_that_clash_are_numbered(told: list[str], given_out: list[str]) -> None:
    """Also without case, and where one's file is another's folder."""
    paths = Paths("manifest.csv")
    assert [paths.give(clean_path(text, "ID")) for text in told] == given_out


@pytest.mark.parametrize(
    ("relative", "name", "path"),
    [
        ("a/b", "b", "a/b"),
        ("null", "b", "b"),
        ("undefined", "b", "b"),
        ("", "b", "b"),
        (None, None, ""),
        (None, "b", "b"),
    ],
)
def test_told_path_is_the_name_where_there_is_no_path(relative: str | None, name: str | None, path: str) -> None:
    """Clients that know of no folder say so in their own way."""
    assert told_path(relative, name) == path


_HOSTILE = st.text(
    st.one_of(st.sampled_from("./\\aAßéẞ ıİi-~:()2\0\u202e\u0301\u200d\udc80"), st.characters()), max_size=40
)
_PATHS = st.lists(st.one_of(_HOSTILE, st.sampled_from(["a", "a/b", "A", "a (2)", "a/b/c", "nul"])), max_size=30)


def _folders(files: list[str]) -> set[str]:
    """Return every folder that the files are in."""
    return {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}


@given(_PATHS)
def test_paths_never_leave_the_folder_and_never_clash(told: list[str]) -> None:
    """Whatever clients say, in whatever order."""
    paths = Paths("manifest.csv", "manifest.json")
    files = [paths.give(clean_path(text, "ID")) for text in told]
    folded = [unicodedata.normalize("NFC", path).casefold() for path in files]
    assert len({*folded, "manifest.csv", "manifest.json"}) == len(told) + 2
    assert not _folders(folded) & {*folded}
    assert len(_folders(folded)) == len(_folders(files))
    for path in files:
        assert os.path.normpath(path) == path
        assert not path.startswith(("/", ".", "-"))
        for name in path.split("/"):
            assert name not in {"", ".", ".."}
            assert len(name.encode()) <= MOST_NAME_BYTES + 20
            assert name[0] not in ".- "
            assert name[-1] not in ". "
            assert not {unicodedata.category(character) for character in name} & UNSAFE
            assert not set(name) & set('\\:*?"<>|')


@given(_HOSTILE)
def test_clean_path_of_a_clean_path_is_the_same(text: str) -> None:
    """So a path that came out can go in again."""
    once = clean_path(text, "ID")
    assert clean_path("/".join(once), "ID") == once
