"""The one place that changes files: nothing of storage goes past it, and it reports each failure."""

import ast
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import storage
from storage.backing import SyncFailedError
from storage.files import durable
from storage.files.durable import Disk

_METHODS = {"unlink", "rmdir", "mkdir", "rename", "hardlink_to", "symlink_to", "write_bytes", "write_text", "touch"}
_OS_CALLS = {
    "unlink",
    "remove",
    "rmdir",
    "mkdir",
    "makedirs",
    "rename",
    "replace",
    "link",
    "symlink",
    "pwrite",
    "write",
}


def _changes(path: Path) -> list[str]:
    """Return the calls of a module that change files without `storage.files.durable`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, owner = node.func.attr, node.func.value
            of_os = isinstance(owner, ast.Name) and owner.id == "os"
            if (of_os and name in _OS_CALLS) or (not of_os and name in _METHODS):
                found.append(f"{path.name}:{node.lineno} {name}")
    return found


def test_durable_is_the_only_module_that_changes_files() -> None:
    """A change that went past it would be seen by no crash test. The catalog's files are the database's own."""
    root = Path(str(storage.__file__)).parent
    modules = [path for path in root.rglob("*.py") if path.name != "durable.py" and "catalog" not in path.parts]
    assert len(modules) > 20
    assert [change for path in modules for change in _changes(path)] == []


def test_durable_write_is_completed_however_little_each_call_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that writes some of the bytes is followed by one for the rest."""

    class ByteByByte(durable.Calls):
        def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
            return super().pwrite(descriptor, data[:1], offset)

    monkeypatch.setattr(durable, "calls", ByteByByte())
    Disk(sync=True).write_new(tmp_path / "file", b"some bytes")
    assert (tmp_path / "file").read_bytes() == b"some bytes"


def test_durable_failed_sync_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller must stop trusting the file, which no other error asks for."""

    class Failing(durable.Calls):
        def fdatasync(self, descriptor: int) -> None:
            del descriptor
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def fsync(self, descriptor: int) -> None:
            self.fdatasync(descriptor)

    disk = Disk(sync=True)
    disk.write_new(tmp_path / "file", b"x")
    monkeypatch.setattr(durable, "calls", Failing())
    descriptor = disk.open_existing(tmp_path / "file", write=True)
    with pytest.raises(SyncFailedError):
        disk.sync_file(descriptor)
    os.close(descriptor)
    with pytest.raises(SyncFailedError):
        disk.sync_path(tmp_path)
    assert Disk(sync=False).sync_path(tmp_path) is None  # type: ignore[func-returns-value]


def test_durable_replace_leaves_the_old_file_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is replaced whole, or stays."""

    class Full(durable.Calls):
        def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
            del descriptor, data, offset
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk = Disk(sync=True)
    disk.write_new(tmp_path / "file", b"old")
    monkeypatch.setattr(durable, "calls", Full())
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        disk.replace(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("refused", [(), ("rename",), ("rename", "link")], ids=["rename", "link", "neither"])
def test_new_name_is_given_once_whatever_the_file_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    """Of several who want it one gets it, whole; a name that is taken stays, be it a link that leads nowhere."""

    def cannot(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if "rename" in refused:
        monkeypatch.setattr(durable, "_rename_noreplace", cannot)
    if "link" in refused:
        monkeypatch.setattr(Path, "hardlink_to", cannot)
    disk, new, got = Disk(sync=True), tmp_path / "name", []

    def want(number: int) -> None:
        temporary = tmp_path / f"temporary-{number}"
        disk.write_new(temporary, f"{number}".encode())
        try:
            disk.rename_new(temporary, new)
            got.append(f"{number}")
        except FileExistsError:
            pass
        finally:
            disk.remove(temporary)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(want, range(8)))
    assert [new.read_text()] == got
    assert list(tmp_path.iterdir()) == [new]
    new.unlink()
    new.symlink_to("nowhere")
    want(9)
    assert (new.is_symlink(), len(got)) == (True, 1)
    with pytest.raises(FileNotFoundError):
        disk.rename_new(tmp_path / "missing", tmp_path / "other")
    assert not (tmp_path / "other").exists()
