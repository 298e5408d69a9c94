"""`doctor`: a real upload through the public URL, and everything that is in the way of one."""

import asyncio
import http.client
import os
import stat
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dropoff_tus.errors import DropoffError
from dropoff_tus.ids import PROBE_DROP_ID, upload_id
from dropoff_tus.model import DropTerms
from dropoff_tus.states import UploadState
from server.cli.commands.doctor.probe import TIMEOUT_SECONDS, Probe, ProbeError, Result
from server.cli.commands.drop import ROOT_IDENTITY
from server.cli.context import ConfigOption, JsonOption, parsed
from server.cli.opening import with_services
from server.cli.output import CommandError, note, print_json, say, show, size
from server.places import folders, shortages
from server.resources import too_few_descriptors
from server.services import Services
from server.settings.config import Config, config_path
from server.settings.units import parse_size

_DROP_NAME = "dropoff-tus doctor"
_LEAST_BYTES, _MOST_BYTES = 1 << 20, 1 << 30
_RECORDED_SECONDS = 15.0
_MARKS = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}


def doctor(
    length: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="The size of the upload; larger ones meet more limits.")
    ] = "8MiB",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a real upload through the public URL, and say what is in the way and what to do about it.

    Needs a running server. Creates, sends in two parts, resumes, finishes, exports, compares and deletes; looks at
    proxies, address, clock, free space, keys and folders. Uses a drop-off of its own, closed afterwards. Exits with 1
    on any problem; warnings are advice.

    Example: dropoff-tus doctor --size 200MiB
    """
    wanted = parsed(parse_size, length, "--size")
    if not _LEAST_BYTES <= wanted <= _MOST_BYTES:
        message = "--size must be from 1MiB to 1GiB"
        raise CommandError(message)
    folder = config_path(config).absolute().parent

    async def work(services: Services, conf: Config) -> list[Result]:
        results = await _local(services, conf, folder)
        results += await asyncio.to_thread(_monitoring, conf)
        try:
            return results + await _upload(services, conf, wanted)
        except DropoffError as error:
            return [*results, Result("upload", "problem", error.message, "mend what is named above; see the log")]

    results = with_services(config, work)
    problems = sum(result.status == "problem" for result in results)
    if as_json:
        print_json({"problems": problems, "checks": [asdict(result) for result in results]})
    else:
        for result in results:
            say(f"{_MARKS[result.status]} {result.check}: {show(result.detail)}")
            if result.advice:
                say(f"        -> {result.advice}")
        note(f"{problems} problems")
    if problems:
        sys.exit(1)


# ---- on this machine ------------------------------------------------------------------------------------------


async def _local(services: Services, config: Config, folder: Path) -> list[Result]:
    """Look at what can be seen without the network. That keys and catalog open has been seen by now."""
    results = [Result("keys", "ok", "all of them can be read")]
    free = await services.store.free_bytes()
    if free <= 0:
        advice = "make room, or lower store.free_space_floor; until then uploads are refused with 507"
        results.append(Result("space", "problem", "free space is below store.free_space_floor", advice))
    else:
        results.append(Result("space", "ok", f"{size(free)} above store.free_space_floor"))
    advice = "make room there; until then uploads are refused with 507"
    results += [Result("space", "problem", shortage, advice) for shortage in shortages(config)]
    results += [_folder(name, path) for name, path in folders(config).items()]
    if (folder / ROOT_IDENTITY).exists():
        detail = f"{folder / ROOT_IDENTITY} is still on this machine: a thief of it reads everything"
        results.append(Result("root identity", "warning", detail, "move it off, and keep it in two places"))
    if not config.keys.root_recipients:
        detail = "keys.root_recipients is empty: uploads to drop-offs without recipients of their own are refused"
        results.append(Result("root recipients", "warning", detail, "write the recipient of an identity you keep"))
    if config.server.public_url is None:
        detail = "server.public_url is not set, so clients get the address of their own request"
        results.append(Result("public_url", "warning", detail, "set it to the address that clients use"))
    if few := too_few_descriptors(config.limits.connections):
        results.append(Result("descriptors", "warning", few, "do one of them where `serve` runs"))
    if config.store.durability != "fsync":
        detail = 'store.durability is "os": a power cut may lose acknowledged bytes'
        results.append(Result("durability", "warning", detail, 'write "fsync" unless you accept that'))
    return results


def _folder(name: str, path: Path) -> Result:
    if not path.is_dir():
        return Result(name, "problem", f"{path} is no folder", f"make it: mkdir -m 700 {path}")
    if not os.access(path, os.W_OK | os.X_OK):
        advice = "run this as the user that serves, and give that user the folder"
        return Result(name, "problem", f"{path} cannot be written", advice)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Result(name, "warning", f"{path} is open to others (mode {mode:04o})", f"chmod 700 {path}")
    return Result(name, "ok", f"{path} is only for its owner")


def _monitoring(config: Config) -> list[Result]:
    listen = config.monitoring.listen
    if listen is None:
        return [Result("monitoring", "warning", "monitoring.listen is not set", "set it, and watch /readyz")]
    connection = http.client.HTTPConnection(listen, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read(200).decode("ascii", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        detail = f"nothing answers on monitoring.listen ({reason})"
        return [Result("monitoring", "problem", detail, "start `dropoff-tus serve` with this configuration")]
    finally:
        connection.close()
    if answer.status != http.client.OK:
        return [Result("monitoring", "problem", f"the server says {text}", "do what it says; see its log")]
    return [Result("monitoring", "ok", "the server says that it is ready")]


# ---- through the public URL -----------------------------------------------------------------------------------


async def _upload(services: Services, config: Config, length: int) -> list[Result]:
    drop_id, code = await _drop(services)
    probe = Probe(config.server.base_url, drop_id, code, os.urandom(length))
    try:
        await asyncio.to_thread(probe.run)
        probe.results.append(await _compare(services, upload_id(_token(probe.location)), probe.content))
    except ProbeError as error:
        probe.results.append(error.result)
    finally:
        if probe.location:
            await _remove(services, upload_id(_token(probe.location)))
        await services.catalog.set_closed(drop_id, closed=True)
    return probe.results


def _token(location: str) -> str:
    return location.rstrip("/").rpartition("/")[2]


async def _drop(services: Services) -> tuple[str, str]:
    """Open the doctor's own drop-off with a new code; it is made the first time."""
    if await services.catalog.dropoff(PROBE_DROP_ID) is not None:
        _, code = await services.dropoffs.new_code(PROBE_DROP_ID, for_doctor=True)
        await services.catalog.set_closed(PROBE_DROP_ID, closed=False)
        return PROBE_DROP_ID, code
    made, first_code = await services.dropoffs.create(DropTerms(_DROP_NAME), for_doctor=True)
    return made.id, first_code or ""


async def _compare(services: Services, upload_id: str, content: bytes) -> Result:
    """Read the upload back with the server's own keys."""
    deadline = asyncio.get_running_loop().time() + _RECORDED_SECONDS
    while True:
        row = await services.catalog.upload(upload_id)
        if row is not None and row.state is UploadState.COMPLETE:
            break
        if asyncio.get_running_loop().time() > deadline:
            detail = "the upload went well, but this catalog does not call it complete"
            return Result("record", "problem", detail, "is this the configuration that `serve` runs with? see its log")
        await asyncio.sleep(0.2)
    try:
        found = b"".join([piece async for piece in services.store.read(upload_id)])
    except DropoffError as error:
        return Result("export", "problem", f"it cannot be read back: {error.message}", "run `dropoff-tus store check`")
    if found != content:
        return Result(
            "export", "problem", "the bytes read back differ from the sent ones", "run `dropoff-tus store check`"
        )
    return Result("export", "ok", "the bytes read back are the sent ones")


async def _remove(services: Services, upload_id: str) -> None:
    try:
        await services.uploads.ender.delete(upload_id)
    except DropoffError as error:
        note(f"the upload that was made here could not be deleted ({error.message}): {upload_id}")
