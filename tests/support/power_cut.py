"""A power cut: records every change that storage makes, and builds any state that may survive.

A `Recorder` takes the place of `storage.files.durable.calls`. Its journal is replayed in memory up to any point, and a
state is drawn from what a disk may hold then: a name that was not synced is there or not, a file that was not synced
has any of its sizes (bytes that did not make it are NUL) and each of its 512-byte sectors is as it was after any of the
writes. Synced bytes and names are there. Names are drawn one by one, so no order among them is taken for granted.
"""

import dataclasses
import os
import random
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.unsynced import UnsyncedCalls

SECTOR_BYTES = 512


class KilledError(BaseException):
    """The process is dead: no ordinary handler may catch this."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the journal: a system call that succeeded, or a `note` of the test's own."""

    kind: str
    inode: int = 0
    path: str = ""
    target: str = ""
    offset: int = 0
    data: bytes = b""
    note: Any = None
    call: int = 0
    """The number of the call, by which `die_at` counts."""


class Recorder(UnsyncedCalls):
    """Does every call but syncs, and notes it; dies before call number `die_at`, and stays dead until `revive`."""

    def __init__(self, root: Path) -> None:
        """Take all that is below root now for durable."""
        self.root = root
        self.journal: list[Change] = []
        self.die_at: int | None = None
        self.dead = False
        self._lock = threading.Lock()
        self._calls = 0
        self.start = list(_snapshot(root))

    def note(self, what: object) -> None:
        """Write down an answer, such as an offset."""
        self.journal.append(Change("note", note=what))

    def revive(self) -> None:
        """Let a new process begin."""
        self.dead, self.die_at = False, None

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return self._calls

    def mkdir(self, path: Path, folder: int | None) -> None:
        """See `Calls`."""
        with self._step():
            super().mkdir(path, folder)
            self._add(Change("mkdir", path.stat().st_ino, self._name(path)))

    def rmdir(self, path: Path, folder: int | None) -> None:
        """See `Calls`."""
        with self._step():
            super().rmdir(path, folder)
            self._add(Change("unlink", path=self._name(path)))

    def create(self, path: Path, folder: int | None) -> int:
        """See `Calls`."""
        with self._step():
            descriptor = super().create(path, folder)
            self._add(Change("create", os.fstat(descriptor).st_ino, self._name(path)))
            return descriptor

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """See `Calls`."""
        with self._step():
            count = super().pwrite(descriptor, data, offset)
            self._add(Change("write", os.fstat(descriptor).st_ino, offset=offset, data=bytes(data[:count])))
            return count

    def ftruncate(self, descriptor: int, size_bytes: int) -> None:
        """See `Calls`."""
        with self._step():
            super().ftruncate(descriptor, size_bytes)
            self._add(Change("truncate", os.fstat(descriptor).st_ino, offset=size_bytes))

    def fdatasync(self, descriptor: int) -> None:
        """See `Calls`."""
        with self._step():
            super().fdatasync(descriptor)
            self._add(Change("sync", os.fstat(descriptor).st_ino))

    def fsync(self, descriptor: int) -> None:
        """See `Calls`."""
        with self._step():
            super().fsync(descriptor)
            self._add(Change("sync", os.fstat(descriptor).st_ino))

    def rename(self, path: Path, target: Path, folder: int | None) -> None:
        """See `Calls`."""
        with self._step():
            super().rename(path, target, folder)
            self._add(Change("rename", path=self._name(path), target=self._name(target)))

    def rename_new(self, path: Path, target: Path) -> None:
        """See `Calls`."""
        with self._step():
            super().rename_new(path, target)
            self._add(Change("rename", path=self._name(path), target=self._name(target)))

    def unlink(self, path: Path, folder: int | None) -> None:
        """See `Calls`."""
        with self._step():
            super().unlink(path, folder)
            self._add(Change("unlink", path=self._name(path)))

    def _step(self) -> threading.Lock:
        with self._lock:
            if self.dead or (self.die_at is not None and self._calls >= self.die_at):
                self.dead = True
                raise KilledError
            self._calls += 1
        return self._lock

    def _add(self, change: Change) -> None:
        self.journal.append(dataclasses.replace(change, call=self._calls))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))


def _snapshot(root: Path) -> Iterator[tuple[str, int, bytes | None]]:
    """Yield name, inode and content (None for a folder) of all that is there."""
    yield ".", root.stat().st_ino, None
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = None if stat.S_ISDIR(status.st_mode) else path.read_bytes()
        yield str(path.relative_to(root)), status.st_ino, content


@dataclass(eq=False)
class _File:
    """A file: the versions since its last sync, the durable one first."""

    versions: list[bytes] = field(default_factory=lambda: [b""])


@dataclass(eq=False)
class _Folder:
    """A folder: the possible files of each name since the last sync, the durable one first."""

    entries: dict[str, "list[_File | _Folder | None]"] = field(default_factory=dict)


_Node = _File | _Folder


class Medium:
    """The disk after the first changes of a journal."""

    def __init__(self, recorder: Recorder) -> None:
        """Begin with what was durable at the recorder's start."""
        self._root = _Folder()
        self._by_inode: dict[int, _Node] = {}
        for name, inode, content in recorder.start:
            node: _Node = _Folder() if content is None else _File([content])
            if name == ".":
                self._root = _Folder()
                node = self._root
            else:
                self._parent(name).entries[Path(name).name] = [node]
            self._by_inode[inode] = node

    def apply(self, change: Change) -> None:
        """Advance by one change."""
        if change.kind in {"mkdir", "create"}:
            node: _Node = _Folder() if change.kind == "mkdir" else _File()
            self._by_inode[change.inode] = node
            self._enter(change.path, node)
        elif change.kind == "write":
            file = self._file(change.inode)
            last = file.versions[-1].ljust(change.offset, b"\0")
            file.versions.append(last[: change.offset] + change.data + last[change.offset + len(change.data) :])
        elif change.kind == "truncate":
            file = self._file(change.inode)
            file.versions.append(file.versions[-1][: change.offset].ljust(change.offset, b"\0"))
        elif change.kind == "sync":
            node = self._by_inode[change.inode]
            if isinstance(node, _File):
                del node.versions[:-1]
            else:
                for name, values in list(node.entries.items()):
                    if values[-1] is None:
                        del node.entries[name]
                    else:
                        del values[:-1]
        elif change.kind == "unlink":
            self._enter(change.path, None)
        elif change.kind == "rename":
            moved = self._find(change.path)
            self._enter(change.target, moved)
            self._enter(change.path, None)

    def survive(self, folder: Path, chance: random.Random, luck: float) -> None:
        """Write a state that may have survived into an empty folder.

        Args:
            folder: Where.
            chance: Draws.
            luck: 0 means that nothing unsynced survives, 1 everything (as after a kill), between them each by chance.
        """
        drawn: dict[int, bytes] = {}

        def write(node: _Folder, place: Path) -> None:
            for name, values in node.entries.items():
                chosen = _draw(values, chance, luck)
                if isinstance(chosen, _Folder):
                    (place / name).mkdir(mode=0o700)
                    write(chosen, place / name)
                elif chosen is not None:
                    if id(chosen) not in drawn:
                        drawn[id(chosen)] = _content(chosen, chance, luck)
                    descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    with os.fdopen(descriptor, "wb") as file:
                        file.write(drawn[id(chosen)])

        write(self._root, folder)

    def _parent(self, name: str) -> _Folder:
        node: _Node | None = self._root
        for part in Path(name).parts[:-1]:
            assert isinstance(node, _Folder)
            node = node.entries[part][-1]
        assert isinstance(node, _Folder)
        return node

    def _enter(self, name: str, node: _Node | None) -> None:
        self._parent(name).entries.setdefault(Path(name).name, [None]).append(node)

    def _find(self, name: str) -> _Node:
        node = self._parent(name).entries[Path(name).name][-1]
        assert node is not None
        return node

    def _file(self, inode: int) -> _File:
        node = self._by_inode[inode]
        assert isinstance(node, _File)
        return node


def _draw(values: "list[_Node | None]", chance: random.Random, luck: float) -> _Node | None:
    if luck <= 0:
        return values[0]
    return values[-1] if luck >= 1 else chance.choice(values)


def _content(file: _File, chance: random.Random, luck: float) -> bytes:
    versions = file.versions
    if len(versions) == 1 or luck <= 0:
        return versions[0]
    if luck >= 1:
        return versions[-1]
    sizes = [len(version) for version in versions]
    size = chance.choice([*sizes, chance.randint(min(sizes), max(sizes))])
    longest = max(sizes)
    padded = [version.ljust(longest, b"\0") for version in versions]
    # Some draws keep nearly all sectors and some nearly none: independent coins would always tear everything.
    keep = chance.random()
    sectors = []
    for start in range(0, size, SECTOR_BYTES):
        chosen = padded[-1] if chance.random() < keep else chance.choice(padded)
        sectors.append(chosen[start : start + SECTOR_BYTES])
    return b"".join(sectors)[:size].ljust(size, b"\0")
