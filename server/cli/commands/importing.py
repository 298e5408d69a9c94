"""`import tusd`: the uploads of a tusd that kept them in a folder, into a drop-off."""

import asyncio
import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import typer

from dropoff_tus.audit import acting
from dropoff_tus.errors import ToldError
from dropoff_tus.model import Metadata
from dropoff_tus.states import UploadState
from server.cli.context import ConfigOption, JsonOption, group
from server.cli.opening import operator, silence_logs
from server.cli.output import CommandError, note, print_json, progress, say, show
from server.cli.target import new_file
from server.services import open_services
from server.settings.config import Config, load_config
from server.usecases.dropoffs import unknown
from server.usecases.operating.importing import Foreign, Importer, Taken

app = group("Take over the uploads of another server.")
_MOST_INFO_BYTES = 1 << 20
_WORKERS = 4
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+=@-]*(/[A-Za-z0-9_~+=@-][A-Za-z0-9._~+=@-]*)*")
_MAPPED = re.compile(r'^  "(/[^"\s]*)" "(/[^"\s]*)";$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _InFolder:
    """A file in tusd's folder, which is reached by no link. Implements `importing.Original`."""

    folder: int
    path: str

    def open(self) -> BinaryIO:
        """Open it; see the port."""
        *folders, name = self.path.split("/")
        with contextlib.ExitStack() as stack:
            at = self.folder
            for inner in folders:
                at = os.open(inner, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                stack.callback(os.close, at)
            file = os.fdopen(os.open(name, _FILE, dir_fd=at), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise CommandError("it is no ordinary file")

    def size_bytes(self) -> int:
        """Return its size; see the port."""
        with self.open() as file:
            return os.fstat(file.fileno()).st_size


class _SkippedError(ToldError):
    """An upload that is not imported and need not be; the text says why."""


@app.command()
def tusd(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="tusd's -upload-dir.", show_default=False)],
    drop: Annotated[str, typer.Option("--drop", metavar="ID", help="The drop-off to import into.", show_default=False)],
    nginx_map: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="Write a map for nginx, by which old URLs go on working."),
    ] = None,
    base_path: Annotated[str, typer.Option("--base-path", metavar="PATH", help="tusd's -base-path.")] = "/files/",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be imported.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove each original once its upload is complete here and verified.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import finished and unfinished uploads with their metadata, encrypted on the way. Stop tusd first.

    The originals stay, unless --remove says otherwise. Run it again to go on after a failure or a kill: what is here is
    not sent again. The drop-off's limits hold. Nobody gets a webhook or a mail of what is imported. Exits with 1 if an
    upload could not be imported, with a sentence for each; the others are done. The map has tokens of uploads, secrets
    that only its owner can read.

    Example: dropoff-tus import tusd /srv/tusd --drop 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --map /etc/dropoff/moved.conf
    """
    loaded = load_config(config)
    silence_logs()
    # A site that has heard of them from tusd is not to hear of them again.
    quiet: dict[str, Any] = {
        "webhook": loaded.webhook.model_copy(update={"url": None}),
        "mail": loaded.mail.model_copy(update={"server": None}),
    }
    done = asyncio.run(_import(loaded.model_copy(update=quiet), folder, drop, dry_run=dry_run, remove=remove))
    if nginx_map is not None and not dry_run:
        base = f"/{base_path.strip('/')}/".replace("//", "/")
        _write_map(nginx_map, {f"{base}{one.name}": f"/files/{drop}/{one.token.secret}" for one in done.taken})
    _tell(done, nginx_map, dry_run=dry_run, as_json=as_json)


class _Done:
    """The result."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.waiting: list[Foreign] = []
        self.failed: list[tuple[str, str]] = []
        self.skipped: list[tuple[str, str]] = []
        self.removed = 0


async def _import(config: Config, folder: Path, drop_id: str, *, dry_run: bool, remove: bool) -> _Done:
    done = _Done()
    # The store first: to anybody but its owner nothing is read.
    async with open_services(config) as services:
        drop = await services.catalog.dropoff(drop_id)
        if drop is None:
            raise unknown()
        importer = Importer(services.uploads, drop, lambda name: services.keys.imported_token(drop.id, name))
        with _opened(folder) as descriptor, acting(operator):
            foreign = list(_foreign(descriptor, done))
            if dry_run:
                await _look(importer, foreign, done)
            else:
                await _take(importer, foreign, done, remove=remove)
    return done


async def _look(importer: Importer, foreign: Sequence[Foreign], done: _Done) -> None:
    for one in foreign:
        try:
            taken = await importer.look(one)
        except ToldError as error:
            done.failed.append((one.name, str(error)))
        else:
            done.taken += [] if taken is None else [taken]
            done.waiting += [one] if taken is None else []


async def _take(importer: Importer, foreign: Sequence[Foreign], done: _Done, *, remove: bool) -> None:
    waiting = iter(foreign)

    async def work() -> None:
        for one in waiting:
            try:
                taken = await importer.take(one, advance)
                done.taken.append(taken)
                if remove and taken.verified:
                    _remove(cast("_InFolder", one.original))
                    done.removed += 1
            except ToldError as error:
                done.failed.append((one.name, str(error)))
            except OSError as error:
                done.failed.append((one.name, f"its file cannot be read or removed: {error.strerror}"))

    with progress("import", sum(one.offset for one in foreign)) as advance:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_WORKERS):
                tasks.create_task(work())


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandError(f"cannot read {folder}: {error.strerror}; nothing was imported") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _foreign(folder: int, done: _Done) -> Iterator[Foreign]:
    """Yield the uploads in tusd's folder; why one is not among them is noted in `done`."""
    for place, folders, names, _ in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
        folders.sort()
        for name in sorted(name for name in names if name.endswith(".info")):
            path = os.path.normpath(f"{place}/{name}").removesuffix(".info")
            try:
                yield _read(folder, path)
            except _SkippedError as error:
                done.skipped.append((path, str(error)))
            except ToldError as error:
                done.failed.append((path, str(error)))
            except OSError as error:
                link = "; symbolic links are not followed" if error.errno in {40, 20} else ""
                done.failed.append((path, f"its files cannot be read: {error.strerror}{link}"))


def _read(folder: int, path: str) -> Foreign:
    """Read an upload's `.info`, and look at its file."""
    with _InFolder(folder, f"{path}.info").open() as file:
        raw = file.read(_MOST_INFO_BYTES)
    problem = CommandError("its .info is not one of tusd's file store")
    try:
        info = json.loads(raw)
        name, deferred, told = str(info["ID"]), bool(info["SizeIsDeferred"]), info["MetaData"] or {}
        length = None if deferred else int(info["Size"])
        pairs = tuple((str(key), str(value).encode("utf-8", "replace")) for key, value in told.items())
        place = (info.get("Storage") or {}).get("Path", path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise problem from None
    if _NAME.fullmatch(name) is None or (length is not None and length < 0):
        raise problem
    if info.get("IsPartial"):
        raise _SkippedError("a part of a concatenation: the whole has its bytes, or its client begins again")
    original = _InFolder(folder, path)
    if os.path.basename(str(place)) != os.path.basename(path):  # noqa: PTH119 - a text of tusd's machine
        raise CommandError("its file is not beside its .info")
    offset = original.size_bytes()
    if length is not None and offset > length:
        raise CommandError(f"its file has {offset} bytes, more than its length of {length}")
    if info.get("IsFinal") and offset != length:
        raise _SkippedError("a concatenation that tusd did not bring to its end: its client was never told of it")
    if _locked(folder, path):
        raise CommandError("tusd holds it: stop tusd first, so that no byte comes meanwhile")
    return Foreign(name, length, offset, Metadata(pairs), original)


def _locked(folder: int, path: str) -> bool:
    """Tell whether a living process has tusd's lock, a file with its number."""
    try:
        with _InFolder(folder, f"{path}.lock").open() as file:
            os.kill(int(file.read(32)), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, CommandError):
        return False
    return True


def _remove(original: _InFolder) -> None:
    """Remove an original, its `.info` last."""
    for path in (original.path, f"{original.path}.info"):
        os.unlink(path, dir_fd=original.folder)


def _write_map(file: Path, entries: Mapping[str, str]) -> None:
    """Write nginx's map anew, with the entries of earlier runs."""
    try:
        known = dict(_MAPPED.findall(file.read_text("ascii"))) if file.exists() else {}
        lines = [f'  "{old}" "{new}";\n' for old, new in sorted({**known, **entries}.items())]
        text = "# Written by `dropoff-tus import tusd`. The tokens in it are secrets.\nmap $uri $dropoff_moved {\n"
        with new_file(file, replace=True) as new:
            new.write(f'{text}  default "";\n{"".join(lines)}}}\n'.encode("ascii"))
    except (OSError, ValueError) as error:
        message = f"cannot write {file}: {error}; the uploads are here, so run the same command again"
        raise CommandError(message) from None


def _tell(done: _Done, nginx_map: Path | None, *, dry_run: bool, as_json: bool) -> None:
    complete = [one for one in done.taken if one.state is UploadState.COMPLETE]
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "map": None if nginx_map is None else str(nginx_map),
                "removed": done.removed,
                "uploads": [
                    {
                        "name": one.name,
                        "id": one.token.upload_id,
                        "state": one.state.value,
                        "offset": one.offset,
                        "was_here": one.was_here,
                        "verified": one.verified,
                    }
                    for one in done.taken
                ],
                "waiting": [one.name for one in done.waiting],
                "skipped": [{"name": name, "why": why} for name, why in done.skipped],
                "failed": [{"name": name, "why": why} for name, why in done.failed],
            }
        )
    else:
        for one in done.waiting:
            whole = "finished" if one.offset == one.length else "unfinished"
            say(f"{show(one.name)}  {whole}  {one.offset} bytes")
        for what, listed in (("not imported", done.failed), ("left out", done.skipped)):
            for name, why in listed:
                note(f"{show(name)}: {what}: {show(why)}")
        here = sum(one.was_here for one in done.taken)
        if dry_run:
            note(f"would import {len(done.waiting)}; {here} are here already")
        else:
            note(
                f"imported {len(done.taken) - here}, {here} were here already; {len(complete)} are complete, "
                f"{sum(one.verified for one in complete)} of them verified; removed {done.removed} originals"
            )
    if done.failed:
        sys.exit(1)
