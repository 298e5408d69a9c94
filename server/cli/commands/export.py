"""`drop export`: everything that a drop-off received, with its paths."""

import asyncio
import contextlib
import hashlib
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dropoff_tus.errors import ToldError
from server.cli.commands.drop import app
from server.cli.context import (
    SIGNALS,
    ConfigOption,
    DropId,
    IdentityOption,
    JsonOption,
    KeyOption,
    SinceOption,
    StoreOption,
    past,
)
from server.cli.opening import check_drop, identities_in, opened, with_reading
from server.cli.output import CommandError, note, print_json, progress, show, steps
from server.cli.target import (
    STDOUT,
    check_no_terminal,
    check_output,
    new_file,
    new_files,
    output_file,
    sync_file,
    write_pieces,
)
from server.clock import SystemClock
from server.usecases.operating.archiving import as_tar
from server.usecases.operating.exporting import Export, Exporter, is_since
from server.usecases.operating.manifest import (
    COLUMNS,
    MANIFEST_CSV,
    MANIFEST_JSON,
    ManifestRow,
    manifests,
    read_manifest,
)
from server.usecases.operating.stored_rows import StoredRows
from storage.catalog import SqlCatalog
from storage.files.durable import sync_folder
from storage.open import FileStore

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@app.command("export")
def export_drop(  # noqa: PLR0917 - its options
    drop_id: DropId,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="A folder, made if it is not there.", show_default=False),
    ] = None,
    tar: Annotated[
        str | None, typer.Option("--tar", metavar="PATH", help="A tar archive instead, a new file or - for stdout.")
    ] = None,
    since: SinceOption = None,
    identity: IdentityOption = None,
    store: StoreOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write all finished uploads of a drop-off with their paths, and a manifest as manifest.csv and manifest.json.

    Paths are those that the clients gave, cleaned: they never lead out of the folder, and those that clash are
    numbered. No file is overwritten. Run it again to go on, or to get what came since: a file that is there with the
    SHA-256 of its upload is not written again. Exits with 1 if an upload could not be exported, with a sentence for
    each; the others are done. With --store and --identity it reads a copy on a machine without the server.

    Example: dropoff-tus drop export 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --output cohort-7
    """
    if (output is None) == (tar is None):
        raise CommandError("give either --output DIR or --tar PATH")
    identities = identities_in(identity)
    begin = past(since, SystemClock().now())
    if tar is not None:
        check_output(tar, as_json=as_json)
    if tar == STDOUT:
        check_no_terminal()

    async def work(opened_store: FileStore, catalog: SqlCatalog | StoredRows) -> Export:
        await check_drop(catalog, drop_id)
        opening = (lambda pieces: opened(pieces, identities)) if identities else None
        exporter = Exporter(opened_store, catalog, identities, opening)
        if output is None:
            return await _into_tar(exporter, drop_id, begin, str(tar))
        with _folder(output) as folder:
            with contextlib.ExitStack() as bars:
                export = await exporter.plan(drop_id, begin, lambda total: bars.enter_context(steps("look", total)))
            with progress("export", export.stored_bytes) as advance:
                await _into_folder(exporter, export, folder, advance)
        return export

    done = with_reading(config, store, key or [], work)
    _tell(done, str(output or tar), as_json=as_json)


def _tell(done: Export, place: str, *, as_json: bool) -> None:
    found: dict[str, Any] = {
        "output": place,
        "exported": len(done.rows) - done.kept,
        "kept": done.kept,
        "bytes": sum(row.size for row in done.rows),
        "failed": [{"id": upload_id, "why": why} for upload_id, why in done.failed],
    }
    if as_json:
        print_json(found)
    else:
        for upload_id, why in done.failed:
            note(f"{upload_id}: not exported: {show(why)}")
        there = f", {done.kept} were there already" if done.kept else ""
        note(f"exported {found['exported']} files{there}; the manifest lists them")
    if done.failed:
        if not as_json:
            note(f"{len(done.failed)} could not be exported")
        sys.exit(1)


async def _into_tar(exporter: Exporter, drop_id: str, begin: datetime | None, tar: str) -> Export:
    rows, export = await exporter.finished(drop_id), Export()
    with (
        progress("export", sum(row.size_bytes or 0 for row in rows if is_since(row, begin))) as advance,
        output_file(tar) as file,
    ):
        pieces = as_tar(exporter, export, exporter.planned(export, rows, begin), advance)
        await write_pieces(file, pieces, lambda _count: None, here=True)
    return export


async def _into_folder(
    exporter: Exporter, export: Export, folder: "ExportFolder", advance: Callable[[int], None]
) -> None:
    known = folder.manifest()
    try:
        with _ending_in_order():
            await exporter.into_folder(export, folder, advance)
        await asyncio.to_thread(folder.sync)
        # What an earlier run exported and this one was not to look at is still there.
        for name, content in manifests({row.id: row for row in (*known, *export.rows)}.values()).items():
            await asyncio.to_thread(folder.replace, name, content)
    except OSError as error:
        raise CommandError(
            f"cannot write in {folder.root}: {error.strerror}; {len(export.rows)} files are there whole, and no part "
            "of another. Make it writable, with room, and run the same command again: it goes on with the rest"
        ) from None


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a signal cancel the copying, so that each worker ends at a point where it can take away what it has begun.

    Raised wherever the event loop is, as by `main`, it could be lost in the answer of a thread that a worker waits for.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    came: list[int] = []

    def end(number: int) -> None:
        came.append(number)
        loop.remove_signal_handler(number)  # a second one ends the process at once
        if task is not None:
            task.cancel()

    for number in before:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if came:
            raise SystemExit(128 + came[0]) from None
        raise
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.contextmanager
def _folder(root: Path) -> Iterator["ExportFolder"]:
    """Open the folder that the operator names, or make it.

    Raises:
        CommandError: It is none, or cannot be made.
    """
    try:
        root.mkdir(0o700, exist_ok=True)
        descriptor = os.open(root, _FOLDER & ~os.O_NOFOLLOW)
    except OSError as error:
        raise CommandError(f"cannot use {root} as a folder: {error.strerror}; nothing was written") from None
    try:
        yield ExportFolder(root, descriptor)
    finally:
        os.close(descriptor)


class ExportFolder:
    """Implements `exporting.Folder`. Each folder on the way to a file is opened below the one before, by no link."""

    def __init__(self, root: Path, descriptor: int) -> None:
        """Take the open folder, and its name for messages."""
        self.root, self._descriptor = root, descriptor
        self._touched = {""}

    async def taken(self, paths: Sequence[str]) -> list[bool]:
        """Tell what is taken; see the port."""
        return await asyncio.to_thread(lambda: [self._taken(path) for path in paths])

    def _taken(self, path: str) -> bool:
        try:
            return self._has(path)
        except (OSError, CommandError):
            return True

    async def has(self, path: str) -> bool:
        """Tell whether an ordinary file has the path; see the port."""
        return await asyncio.to_thread(self._has, path)

    def _has(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        try:
            with self._below(folder) as descriptor:
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(mode):
            raise self._in_the_way(path, "no ordinary file")
        return True

    async def sha256(self, path: str) -> str:
        """Return the digest of a file; see the port."""
        return await asyncio.to_thread(self._sha256, path)

    def _sha256(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        with self._below(folder) as descriptor, open(os.open(name, _FILE, dir_fd=descriptor), "rb") as file:  # noqa: PTH123 - relative to a descriptor
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def write(self, path: str, pieces: AsyncIterator[bytes], check: Callable[[], None]) -> None:
        """Write a new file; see the port."""
        folder, _, name = path.rpartition("/")
        with self._below(folder, make=True) as descriptor, new_file(_in(descriptor, name), sync=False) as file:
            await write_pieces(file, pieces, lambda _count: None, here=False)
            check()
            await asyncio.to_thread(sync_file, file)
        self._touched.add(folder)

    async def write_whole(self, files: Sequence[tuple[str, bytes]]) -> list[OSError | ToldError | None]:
        """Write small new files; see the port."""
        return await asyncio.to_thread(self._write_whole, files)

    def _write_whole(self, files: Sequence[tuple[str, bytes]]) -> list[OSError | ToldError | None]:
        problems: list[OSError | ToldError | None] = [None] * len(files)
        targets: dict[int, Path] = {}
        with contextlib.ExitStack() as stack:
            folders: dict[str, int] = {}
            for index, (path, _) in enumerate(files):
                folder, _, name = path.rpartition("/")
                try:
                    if folder not in folders:
                        folders[folder] = stack.enter_context(self._below(folder, make=True))
                    targets[index] = _in(folders[folder], name)
                except (OSError, CommandError) as error:
                    problems[index] = error
            written = new_files([(target, files[index][1]) for index, target in targets.items()])
            for index, problem in zip(targets, written, strict=True):
                problems[index] = problem
        self._touched.update(folders)
        return problems

    def sync(self) -> None:
        """Make the names of all written files durable."""
        for folder in self._touched:
            with contextlib.suppress(OSError), self._below(folder) as descriptor:
                sync_folder(_in(descriptor, ""))

    def manifest(self) -> list[ManifestRow]:
        """Return the manifest that an earlier run left.

        Raises:
            CommandError: Something else has its name.
        """
        problem = CommandError(
            f"in {self.root} there is a {MANIFEST_CSV} or {MANIFEST_JSON} that no export wrote; name another folder. "
            "Nothing was written"
        )
        try:
            rows = read_manifest(self._read(MANIFEST_JSON) or b"[]")
        except ValueError:
            raise problem from None
        if not (self._read(MANIFEST_CSV) or _HEAD).startswith(_HEAD):
            raise problem
        return rows

    def _read(self, name: str) -> bytes:
        if not self._has(name):
            return b""
        with open(os.open(name, _FILE, dir_fd=self._descriptor), "rb") as file:  # noqa: PTH123 - as above
            return file.read()

    def replace(self, name: str, content: bytes) -> None:
        """Write one of the two files of the manifest anew."""
        with new_file(_in(self._descriptor, name), replace=True) as file:
            file.write(content)

    @contextlib.contextmanager
    def _below(self, folder: str, *, make: bool = False) -> Iterator[int]:
        """Open a folder below the root."""
        descriptor = os.dup(self._descriptor)
        try:
            for name in filter(None, folder.split("/")):
                try:
                    inner = _enter(descriptor, name, make=make)
                except NotADirectoryError:
                    raise self._in_the_way(folder, "no folder") from None
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _in_the_way(self, path: str, what: str) -> CommandError:
        message = f"{self.root / path} is in the way: it is {what} but a link or something else, and was left as it is"
        return CommandError(message)


def _enter(folder: int, name: str, *, make: bool) -> int:
    """Open a folder in an open folder, made if it is not there."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):  # another worker may have made it meanwhile
        os.mkdir(name, 0o700, dir_fd=folder)
    return os.open(name, _FOLDER, dir_fd=folder)


_HEAD = ",".join(COLUMNS).encode()


def _in(descriptor: int, name: str) -> Path:
    """Return a path that no link can lead elsewhere: in an open folder. Source: proc_pid_fd(5)."""
    return Path(f"/proc/self/fd/{descriptor}") / name
