"""`backup`: catalog, store and keys copied into a folder, in the order that loses nothing, beside a running server.

Order. The catalog first, as it is at one moment, but under another name. Then the store, and of each upload its log
before its data; then the keys. So the catalog knows of nothing that the store lacks, no log names bytes that are not
there, and there is an envelope for every upload. What was copied is verified and made durable, and only then the
catalog gets its name. A backup that is killed leaves the one of before: its catalog, and a store that has more.

Files appear under their names whole. One that is there with the size and time of its source is not copied again.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from dropoff_tus.audit import Act, Event, acting
from dropoff_tus.model import Task, UploadRow
from dropoff_tus.states import UploadState
from server.cli.commands.store import public_keys
from server.cli.context import ConfigOption, JsonOption
from server.cli.mirror import Mirror, inodes, uploads_of
from server.cli.opening import operator, silence_logs
from server.cli.output import CommandError, note, print_json, progress
from server.clock import SystemClock
from server.places import check_whose, key_files, layout_of
from server.services import identify_store
from server.settings.config import Config, config_path, load_config
from server.settings.units import stamp
from server.usecases.operating.comparing import lost
from storage.catalog import SqlCatalog, open_catalog
from storage.catalog.snapshot import snapshot_name, take_snapshot
from storage.failpoints import failpoint
from storage.files import backup_mark
from storage.files.backup_mark import BackupMark, read_mark, write_mark
from storage.files.durable import Disk, sync_filesystem
from storage.files.layout import NEW_SUFFIX, Layout
from storage.files.locks import open_folder, try_lock
from storage.files.marker import check_store as check_roots
from storage.keyring.rotation import hold_store
from storage.open import FileStore, StoreSettings
from storage.uploads.maintenance.check import Depth, check_store, stored_bytes

_CHECKPOINT = "audit/last-checkpoint"
_PASSES = 3
_PREFIX = 2
"""The length of the names of folders that uploads and their keys lie in; other folders have other things."""


@dataclass(slots=True)
class _Done:
    """What was done so far, and the uploads that do not verify in the backup, with the reason."""

    files: int = 0
    copied_bytes: int = 0
    removed: int = 0
    verified: int = 0
    uploads: int = 0
    secrets: list[str] = field(default_factory=list)
    findings: dict[str, str] = field(default_factory=dict)


def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the backup.", show_default=False)],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy catalog, store, keys and configuration into a folder, in the order that loses nothing, and verify the copy.

    Beside a running server, too. Run it again to bring the folder up to date: only what is new is copied, and what is
    gone from the store goes from the backup, but nothing that the catalog still has. If it is killed, run it again.
    The server's secret keys, root identities, and the envelopes of sealed uploads in progress are left out: keep a copy
    of the secret keys elsewhere. Exits with 1 if an upload does not verify, with a sentence for each.

    Example: dropoff-tus backup /backup/dropoff
    """
    loaded = load_config(config)
    silence_logs()
    check_whose(loaded)
    work = _Backup(loaded, config_path(config), Path(os.path.realpath(directory)))
    try:
        mark = asyncio.run(work.run())
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise CommandError(f"the backup in {directory} was not finished ({why}); {work.state()}") from error
    _tell(work.done, mark, directory, loaded, as_json=as_json)


def _tell(done: _Done, mark: BackupMark, directory: Path, config: Config, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "backup": str(directory),
                "catalog": snapshot_name(config.catalog.url),
                "begun_at": mark.begun_at,
                "completed_at": mark.completed_at,
                "files": done.files,
                "bytes": done.copied_bytes,
                "removed": done.removed,
                "uploads": done.uploads,
                "verified": done.verified,
                "findings": [{"upload_id": found, "problem": problem} for found, problem in done.findings.items()],
            }
        )
    else:
        for found, problem in done.findings.items():
            note(f"{found}: {problem}")
        for path in done.secrets:
            note(f"{path} holds a secret identity and was left out; it does not belong there: move it away")
        note(
            f"{directory} has the state of {mark.begun_at}: {done.uploads} uploads, {done.files} files copied now, "
            f"{done.verified} uploads verified, {len(done.findings)} with findings. The server's secret keys are not "
            "in it: keep copies of them apart"
        )
    if done.findings:
        raise typer.Exit(1)


class _Backup:
    """One run into one folder."""

    def __init__(self, config: Config, config_file: Path, folder: Path) -> None:
        """Take the configuration, its file, and the folder; nothing is done yet."""
        self._config, self._config_file, self._folder = config, config_file, folder
        self._source = layout_of(config)
        self._keys = public_keys(config, [])
        self._copy = Layout(folder / "store", folder / "keys", folder / "secrets" / "ingest")
        self._missing: set[str] = set()
        self.done = _Done()

    def state(self) -> str:
        """Say what the folder holds when a run was stopped."""
        with contextlib.suppress(OSError, ValueError):
            mark = read_mark(self._copy.keys_dir)
            if mark is not None and mark.completed_at is not None:
                return f"what is there is still the whole backup of {mark.completed_at}. Run it again"
        return "it is not whole, and no server starts on it. Run it again: it goes on"

    async def run(self) -> BackupMark:
        """Bring the folder up to date; return its new mark."""
        begun = SystemClock().now()
        async with open_catalog(self._config.catalog.url) as catalog:
            await identify_store(self._config, catalog, adopt=False)
            store_id = await catalog.store_id()
            if store_id is None:
                raise CommandError("there is nothing to back up: no server has been started on this catalog")
            mark = BackupMark(store_id, version("dropoff-tus"), stamp(begun))
            with hold_store(self._source.root), self._claimed(mark):
                # Older than the catalog, which has it then: the audit of a restored server goes on where it was.
                checkpoint = self._checkpoint()
                fresh = self._folder / f"catalog{NEW_SUFFIX}"
                fresh.unlink(missing_ok=True)
                await asyncio.to_thread(take_snapshot, self._config.catalog.url, fresh)
                await self._follow(catalog, store_id)
                failpoint("backup-verified")
                sync_filesystem(self._folder)
                named = self._folder / snapshot_name(self._config.catalog.url)
                fresh.replace(named)
                for other in self._folder.glob("catalog.*"):
                    if other != named:
                        other.unlink()  # of another database, before the catalog moved
                failpoint("backup-named")
                Disk(sync=True).replace(self._folder / "config.toml", self._config_file.read_bytes())
                if checkpoint is not None:
                    Disk(sync=True).make_folder(self._copy.keys_dir / "audit")
                    Disk(sync=True).replace(self._copy.keys_dir / _CHECKPOINT, checkpoint)
                mark = replace(
                    mark,
                    completed_at=stamp(SystemClock().now()),
                    uploads=self.done.uploads,
                    findings=len(self.done.findings),
                )
                write_mark(self._copy.keys_dir, mark)
                with acting(operator):
                    await catalog.record(Event(Act.STORE_BACKUP, count=self.done.uploads))
                await catalog.note_run(Task.BACKUP, SystemClock().now(), len(self.done.findings))
        return mark

    @contextlib.contextmanager
    def _claimed(self, new: BackupMark) -> Iterator[None]:
        """Make the folder, or take one that is empty or a backup of this store, and keep other runs out.

        Raises:
            CommandError: It is something else, in use, or in the way of the store. Nothing was changed.
        """
        for root in (Path(os.path.realpath(one)) for one in (self._source.root, *self._source.roots)):
            if self._folder.is_relative_to(root) or root.is_relative_to(self._folder):
                message = f"{self._folder} and {root} lie in one another; name a folder elsewhere, on another disk"
                raise CommandError(message)
        Disk(sync=True).make_root(self._folder)
        try:
            mark = read_mark(self._copy.keys_dir)
        except ValueError as error:
            raise CommandError(str(error)) from None
        names = [name for _, _, names in os.walk(self._folder) for name in names]
        if mark is None and not all(name.startswith(backup_mark.NAME) for name in names):
            message = f"{self._folder} is neither empty nor a backup; name another folder. Nothing was changed"
            raise CommandError(message)
        if mark is not None and mark.store != new.store:
            message = f"{self._folder} is the backup of another store; name another folder. Nothing was changed"
            raise CommandError(message)
        descriptor = open_folder(self._folder)
        try:
            if not try_lock(descriptor):
                raise CommandError(f"another backup into {self._folder} is running")
            Disk(sync=True).make_root(self._copy.keys_dir)
            if mark is None:
                write_mark(self._copy.keys_dir, new)
            Disk(sync=True).make_root(self._copy.uploads)
            yield
        finally:
            os.close(descriptor)

    def _checkpoint(self) -> bytes | None:
        try:
            return (self._source.keys_dir / _CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return None

    async def _follow(self, catalog: SqlCatalog, store_id: str) -> None:
        """Copy what is new, remove what is gone, and verify what was copied.

        An upload that changes meanwhile may look wrong in the copy, so that one is copied and looked at again.
        """
        left_out = inodes([self._source.ingest_dir, *key_files(self._config)])
        store = Mirror(self._source.uploads, self._copy.uploads, left_out)
        keys = Mirror(self._source.keys_dir, self._copy.keys_dir, left_out, secrets=self.done.secrets)
        settings = StoreSettings(self._copy.root, self._copy.keys_dir, (), durability="os")
        copy = FileStore(settings, replace(self._keys, ingest_dir=self._copy.ingest_dir))
        doubtful: set[str] = set()
        try:
            for _ in range(_PASSES):
                rows = await catalog.uploads(states=[UploadState.COMPLETE])
                changed = await asyncio.to_thread(self._mirror, store, keys, rows, store_id)
                doubtful |= changed
                self.done.findings = await self._verify(catalog, copy, doubtful, rows)
                doubtful = set(self.done.findings)
                if not doubtful:
                    break
            self.done.uploads = len(await copy.upload_ids())
        finally:
            await copy.close()

    def _mirror(self, store: Mirror, keys: Mirror, rows: list[UploadRow], store_id: str) -> set[str]:
        """Bring both folders up to date; return the uploads that changed."""
        changed: set[str] = set()
        for name, mirror in (("store", store), ("keys", keys)):
            new = [one for one in mirror.new() if mirror is store or self._belongs(one[0])]
            with progress(name, sum(size for _, size in new)) as advance:
                for path, _ in new:
                    if mirror.copy(path, advance):
                        self.done.files += 1
                        changed |= uploads_of(path)
            self.done.copied_bytes += mirror.copied_bytes
            mirror.copied_bytes = 0
        gone = [(mirror, path) for mirror in (keys, store) for path in mirror.gone()]
        # An unmounted volume is an empty folder, which nothing is to follow, whenever it was unmounted.
        check_roots(self._source, store_id)
        kept = {row.id for row in rows}
        self._missing.clear()
        for mirror, path in gone:
            if missing := uploads_of(path) & kept:
                self._missing |= missing
                continue
            mirror.remove(path)
            self.done.removed += 1
            changed |= uploads_of(path)
        return changed

    def _belongs(self, path: str) -> bool:
        """Tell whether a file of the keys has its upload in the copy; those that came later are of no use."""
        folder = path.partition("/")[0]
        return len(folder) != _PREFIX or all(self._copy.of(one).folder.is_dir() for one in uploads_of(path))

    async def _verify(
        self, catalog: SqlCatalog, copy: FileStore, doubtful: set[str], rows: list[UploadRow]
    ) -> dict[str, str]:
        """Return what is wrong in the copy with uploads that were copied, and what it lacks of all others."""
        ids = [found for found in await copy.upload_ids() if found in doubtful]
        with progress("verify", await stored_bytes(copy, ids)) as advance:
            found = [finding async for finding in check_store(copy, ids, Depth(advance=advance))]
        self.done.verified = max(self.done.verified, len(ids))
        problems = await lost(catalog, copy, rows)
        problems |= {finding.upload_id: finding.problem for finding in found if finding.problem is not None}
        there = "the catalog calls it complete, but files of it are gone from the store; the backup still has them"
        return problems | dict.fromkeys(self._missing, there)
