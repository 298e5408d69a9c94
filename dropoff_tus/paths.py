"""Paths that clients name, made into paths of files that are safe to write below a folder, no two of them the same.

A client's path is text. Its parts become names that every common file system takes, that a terminal shows as they are,
and that no program reads as a setting or an option. Names that differ only in case, or in the form of their Unicode,
are one name on many file systems, so they count as the same here too.
"""

import re
import unicodedata

from dropoff_tus.shown import UNSAFE

MOST_NAME_BYTES = 200
"""File systems take 255; the rest is for a number and for `.age`."""
_MOST_PATH_BYTES = 1000
_MOST_PARTS = 32
_MOST_SUFFIX_BYTES = 20
_SEPARATORS = re.compile(r"[/\\]")
_FORBIDDEN = frozenset('<>:"|?*')
"""Windows, and with it FAT, exFAT and SMB, take no names with these."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)[ .]*(\..*)?", re.IGNORECASE)
"""Devices of Windows, whatever suffix they have."""
_PACKED = frozenset({".gz", ".bz2", ".xz", ".zst", ".age"})
_NO_PATHS = frozenset({"", "null", "undefined"})
"""Uppy sends `null` as the path of a file that is in no folder."""


def told_path(relative_path: str | None, filename: str | None) -> str:
    """Return the path that a client gave to a file; the name where it gave none that is one."""
    return (filename or "") if relative_path is None or relative_path in _NO_PATHS else relative_path


def clean_path(text: str, otherwise: str) -> tuple[str, ...]:
    """Return the names of a client's path, folders first.

    Args:
        text: As the client gave it, whatever is in it.
        otherwise: The name where nothing is left of it.
    """
    parts = [name for part in _SEPARATORS.split(text) if (name := _clean_name(part))] or [otherwise]
    parts = parts[-_MOST_PARTS:]
    while len("/".join(parts).encode()) > _MOST_PATH_BYTES:
        del parts[0]
    return tuple(parts)


def _clean_name(part: str) -> str:
    plain = unicodedata.normalize("NFC", part)
    safe = "".join(
        "_" if character in _FORBIDDEN or unicodedata.category(character) in UNSAFE else character
        for character in plain
    )
    name = _ended(safe.strip())
    if name[:1] in {".", "-"}:
        # A hidden file may be a program's settings, and what begins with a dash is read as an option. `..` is nothing.
        name = f"_{name[1:]}" if name.strip(".") else ""
    return _shortened(f"_{name}" if _RESERVED.fullmatch(name) else name)


def _ended(name: str) -> str:
    """Take away dots and spaces at the end, which Windows does not keep; a part of dots only stays nothing."""
    return name.rstrip(". \u00a0") or ""


def _shortened(name: str) -> str:
    if len(name.encode()) <= MOST_NAME_BYTES:
        return name
    stem, suffix = _split(name)
    if len(suffix.encode()) > _MOST_SUFFIX_BYTES:
        stem, suffix = name, ""
    return _ended(stem.encode()[: MOST_NAME_BYTES - len(suffix.encode())].decode("utf-8", "ignore")) + suffix


def _split(name: str) -> tuple[str, str]:
    """Return stem and suffix; that of a packed file is both, as `.vcf.gz`."""
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        return name, ""
    if dot + suffix.lower() in _PACKED:
        inner, inner_dot, inner_suffix = stem.rpartition(".")
        if inner and len(inner_suffix) < _MOST_SUFFIX_BYTES // 2:
            return inner, f"{inner_dot}{inner_suffix}.{suffix}"
    return stem, f".{suffix}"


def _same(name: str) -> str:
    """Return what is equal for names that some file system takes for one."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).upper().casefold())
    return unicodedata.normalize("NFC", folded.casefold())


class Paths:
    """Gives out the paths below one folder, each once. The same requests in the same order get the same paths."""

    def __init__(self, *taken: str) -> None:
        """Take the names at the top that are not to be given out."""
        self._taken = {("", _same(name)) for name in taken}
        self._folders: dict[tuple[str, str], str] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def give(self, path: tuple[str, ...]) -> str:
        """Return a path for a file, with `/` between its names: the path itself, or one with a number.

        A folder is shared by all whose path goes through it, whatever its case; one that has the name of a file gets a
        number itself.
        """
        folder = ""
        for name in path[:-1]:
            key = (folder, _same(name))
            if key not in self._folders:
                self._folders[key] = self._free(folder, name, name, "")
            folder = self._folders[key]
        return self._free(folder, path[-1], *_split(path[-1]))

    def _free(self, folder: str, name: str, stem: str, suffix: str) -> str:
        key = (folder, _same(name))
        free, number = name, self._numbers.get(key, 1)
        while (folder, _same(free)) in self._taken:
            number += 1
            free = f"{stem} ({number}){suffix}"
        self._numbers[key] = number
        self._taken.add((folder, _same(free)))
        return f"{folder}/{free}" if folder else free
