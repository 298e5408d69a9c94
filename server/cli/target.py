"""Where a command writes: stdout, or a file that appears under its name only when it is whole.

A file never takes the place of one that came meanwhile, and no link, pipe or device is ever replaced. Where the file
system can, the file has no name while it is written, so that not even a killed process leaves plain bytes behind.
Elsewhere (FAT, some network shares) it has a hidden name, removed on every way out.
"""

import asyncio
import contextlib
import os
import secrets
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from aiofiles.threadpool import wrap

from server.cli.output import CommandError, writing
from storage.files.durable import rename_new, sync_ahead, sync_folder

STDOUT = "-"


def check_output(output: str | Path, *, as_json: bool) -> bool:
    """Tell whether an ordinary file has the name that `--output` gives, before there is anything to write.

    Raises:
        CommandError: A command cannot write there.
    """
    if str(output) != STDOUT:
        return _is_there(Path(output))
    if as_json:
        raise CommandError("--json and --output - both want stdout; write to a file, or leave out --json")
    return False


def check_no_terminal() -> None:
    """Refuse to write what strangers sent to a terminal.

    Raises:
        CommandError: Stdout is one.
    """
    if sys.stdout.isatty():
        message = "stdout is a terminal, which the file could steer; send it on with > or |, or write to a file"
        raise CommandError(message)


@contextlib.contextmanager
def output_file(
    output: str | Path, *, replace: bool = False, otherwise: str = "choose another name"
) -> Iterator[BinaryIO]:
    """Write to stdout for `-`, else a file of the caller's own, durable and with its name when the block ends well.

    Args:
        output: The name it is to have, as `--output` gives it.
        replace: Take the place of an ordinary file that has that name.
        otherwise: The advice to the user if the name is taken.

    Raises:
        CommandError: It cannot be written, or the name is taken. Nothing is left of it.
    """
    if str(output) == STDOUT:
        with writing():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    target = Path(output)
    taken = CommandError(f"{target} exists already and was left as it is; {otherwise}")
    if _is_there(target) and not replace:
        raise taken
    opened = False
    try:
        with new_file(target, replace=replace) as file:
            opened = True
            yield file
        with contextlib.suppress(OSError):  # some file systems sync no folders; the file is there anyway
            sync_folder(target.parent)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        wrong = f"{target}: {error.strerror}; nothing of it was left there"
        message = f"cannot write {wrong}" if opened else f"cannot write in {target.parent}: {error.strerror}"
        raise CommandError(message) from None


@contextlib.contextmanager
def new_file(target: Path, *, replace: bool = False, sync: bool = True) -> Iterator[BinaryIO]:
    """Write a file, durable and with its name when the block ends well; the folder is the caller's to sync.

    Args:
        target: The name it is to have.
        replace: Take the place of an ordinary file that has that name.
        sync: Make it durable; else the block has done so.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be written. Nothing is left of it.
    """
    file, hidden = _open(target)
    try:
        with file:
            yield file
            if sync:
                sync_file(file)
            _publish(file, hidden, target, replace=replace)
    finally:
        if hidden is not None:
            hidden.unlink(missing_ok=True)


def new_files(files: Sequence[tuple[Path, bytes]]) -> list[OSError | CommandError | None]:
    """Write several new small files as `new_file` does, but sync them together; return what went wrong with each."""
    problems: list[OSError | CommandError | None] = [None] * len(files)
    written: list[tuple[int, BinaryIO, Path | None]] = []
    with contextlib.ExitStack() as stack:
        for index, (target, content) in enumerate(files):
            try:
                file, hidden = _open(target)
                stack.callback(_let_go, file, hidden)
                file.write(content)
                file.flush()
            except (OSError, CommandError) as error:
                problems[index] = error
            else:
                written.append((index, file, hidden))
        for file in {os.fstat(file.fileno()).st_dev: file for _, file, _ in written}.values():
            sync_ahead(file.fileno())
        for index, file, hidden in written:
            try:
                sync_file(file)
                _publish(file, hidden, files[index][0], replace=False)
            except (OSError, CommandError) as error:
                problems[index] = error
    return problems


def _let_go(file: BinaryIO, hidden: Path | None) -> None:
    with contextlib.suppress(OSError):  # what could not be written is told already
        file.close()
    if hidden is not None:
        hidden.unlink(missing_ok=True)


def sync_file(file: BinaryIO) -> None:
    """Make what was written durable."""
    file.flush()
    os.fsync(file.fileno())  # noqa: TID251 - the operator's own file, not the store


async def write_pieces(
    file: BinaryIO, pieces: AsyncIterator[bytes], advance: Callable[[int], object], *, here: bool
) -> None:
    """Write each piece while the next is read and decrypted; or `here`, where a signal gets us out of a full pipe."""
    target, writing = wrap(file), None
    try:
        async for piece in pieces:
            if here:
                file.write(piece)
            else:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(target.write(piece))
            advance(len(piece))
    finally:
        if writing is not None:
            await writing


def _is_there(target: Path) -> bool:
    """Say at once what would otherwise show after hours of writing; `_publish` decides."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        # A link may lead to what is read elsewhere, /dev/stdout to a pipe.
        raise CommandError(
            f"{target} is no ordinary file but a link, a pipe, a device or a folder, and was left as it is; "
            f"name another file, or {STDOUT} for stdout"
        )
    return True


def _open(target: Path) -> tuple[BinaryIO, Path | None]:
    """Open a new file only for its owner, unnamed (None) or under a hidden name."""
    device = target.parent.stat().st_dev
    if device not in _UNNAMED:
        _UNNAMED[device] = _can_be_unnamed(target)
    if _UNNAMED[device]:
        return _open_unnamed(target.parent), None
    hidden = _hidden_name(target)
    return os.fdopen(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"), hidden


_UNNAMED: dict[int, bool] = {}
"""For each file system, whether an unnamed file can be written there and get its name later."""


def _can_be_unnamed(target: Path) -> bool:
    """Try it with an empty file: where the system gives it no name later, all the writing would be in vain."""
    hidden = _hidden_name(target)
    try:
        with _open_unnamed(target.parent) as probe:
            _link(probe, hidden)
        hidden.unlink()
    except OSError:
        return False
    return True


def _open_unnamed(folder: Path) -> BinaryIO:
    return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb")


def _hidden_name(target: Path) -> Path:
    return target.with_name(f".{secrets.token_hex(8)}.part")


def _publish(file: BinaryIO, hidden: Path | None, target: Path, *, replace: bool) -> None:
    """Give the file its name, in one step that fails where the name is taken (not with `replace`)."""
    if replace:
        if hidden is None:
            hidden = _hidden_name(target)
            _link(file, hidden)
        try:
            _is_there(target)
            hidden.replace(target)
        finally:
            hidden.unlink(missing_ok=True)
    elif hidden is None:
        _link(file, target)
    else:
        rename_new(hidden, target)


def _link(file: BinaryIO, name: Path) -> None:
    """Name an unnamed file. Source: open(2), O_TMPFILE."""
    # Before Python 3.14 only a link by folder descriptor follows the symbolic link that such a name is.
    descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(file.fileno()), name, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)
