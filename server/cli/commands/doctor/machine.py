"""What can be seen on this machine without keys, catalog or network."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from server.cli.commands.doctor.result import Result
from server.cli.commands.drop import ROOT_IDENTITY
from server.cli.opening import user_name
from server.cli.output import size
from server.places import folders, shortages, volumes, why_unsynced
from server.resources import too_few_descriptors
from server.settings.config import Config
from storage.keyring.identities import parse_identities, read_identity_file
from storage.keyring.keysource import KeySourceError

_MOST_IDENTITY_BYTES = 64 << 10
_MOST_ENTRIES = 1_000_000


def look_at_machine(config: Config, folder: Path) -> Iterator[Result]:
    """Yield what is found; `folder` has the configuration."""
    yield from _space(config)
    for name, path in folders(config).items():
        yield _folder(name, path)
        if path.is_dir():
            yield from _foreign(name, path)
    if unsynced := why_unsynced(config):
        advice = (
            'use a file system that syncs folders, or write store.durability = "os"; `serve` does not start until then'
        )
        yield Result("sync", "problem", unsynced, advice)
    if config.store.durability != "fsync":
        detail = 'store.durability is "os": a power cut may lose acknowledged bytes'
        yield Result("durability", "warning", detail, 'write "fsync" unless you accept that')
    yield from _root_identity(config, folder)
    if not config.keys.root_recipients:
        detail = "keys.root_recipients is empty: uploads to drop-offs without recipients of their own are refused"
        yield Result("root recipients", "warning", detail, "write the recipient of an identity you keep")
    if config.server.public_url is None:
        detail = "server.public_url is not set, so clients get the address of their own request"
        yield Result("public_url", "warning", detail, "set it to the address that clients use")
    if few := too_few_descriptors(config.limits.connections):
        yield Result("descriptors", "warning", few, "do one of them where `serve` runs")


def _space(config: Config) -> Iterator[Result]:
    floor, advice = config.store.free_space_floor, "make room there; until then uploads are refused with 507"
    try:
        found, short = volumes(config), shortages(config)
    except OSError as error:
        detail = f"{error.filename} cannot be looked at: {error.strerror}"
        yield Result("space", "problem", detail, "mount its volume, or correct the configuration")
        return
    free_bytes = next(volume.free_bytes for volume in found if "store.dir" in volume.settings) - floor
    if free_bytes <= 0:
        detail = "free space is below store.free_space_floor, so uploads are refused with 507"
        yield Result("space", "problem", detail, "make room, or lower store.free_space_floor")
    else:
        yield Result("space", "ok", f"{size(free_bytes)} above store.free_space_floor")
    for shortage in short:
        yield Result("space", "problem", shortage, advice)


def _folder(name: str, path: Path) -> Result:
    if not path.is_dir():
        return Result(name, "problem", f"{path} is no folder", f"make it: mkdir -m 700 {path}")
    if not os.access(path, os.W_OK | os.X_OK):
        advice = "run this as the user that serves, and give that user the folder"
        return Result(name, "problem", f"{path} cannot be written, so uploads are refused with 503", advice)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Result(name, "warning", f"{path} is open to others (mode {mode:04o})", f"chmod 700 {path}")
    return Result(name, "ok", f"{path} is only for its owner")


def _foreign(name: str, folder: Path) -> Iterator[Result]:
    """Look for what somebody else left, such as an operator as root: the server cannot write or read it."""
    own, foreign, first = os.geteuid(), 0, ""
    for number, path in enumerate(folder.rglob("*")):
        if number == _MOST_ENTRIES:
            break
        try:
            owner = path.lstat().st_uid
        except OSError:
            continue  # it has just ended
        if owner != own:
            foreign, first = foreign + 1, first or f"{path} ({user_name(owner)}'s)"
    if foreign:
        detail = f"{foreign} files in {name} are not {user_name(own)}'s, such as {first}: their uploads fail with 503"
        yield Result("owner", "problem", detail, f"as root: chown -R {user_name(own)} {folder}")


def _root_identity(config: Config, folder: Path) -> Iterator[Result]:
    """Look for a root identity in the places where one is left behind, whatever its file is called."""
    places = {
        folder,
        folder / "secrets",
        config.store.dir.parent,
        config.keys.ingest_dir.parent,
        Path.home(),
        Path.cwd(),
    }
    files = sorted({file.resolve() for place in places for file in _readable(place)})
    for file in files:
        if file.name == ROOT_IDENTITY or _opens_all(file, set(config.keys.root_recipients)):
            detail = f"{file} is still on this machine: a thief of it reads everything"
            yield Result("root identity", "warning", detail, "move it off, and keep it in two places")
            return


def _readable(folder: Path) -> Iterator[Path]:
    try:
        for file in folder.iterdir():
            if file.is_file() and file.stat().st_size <= _MOST_IDENTITY_BYTES:
                yield file
    except OSError:
        return  # not there, or not ours to look into


def _opens_all(file: Path, recipients: set[str]) -> bool:
    try:
        return any(str(one.recipient) in recipients for one in parse_identities(read_identity_file(file)))
    except KeySourceError:
        return False
