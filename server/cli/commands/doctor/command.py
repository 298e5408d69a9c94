"""`doctor`: a real upload through the public URL, and everything that is in the way of one."""

import asyncio
import contextlib
import http.client
import os
import re
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from dropoff_tus.audit import acting
from dropoff_tus.errors import CatalogUnavailableError, DropoffError
from dropoff_tus.ids import PROBE_DROP_ID, upload_id
from dropoff_tus.model import DropTerms
from dropoff_tus.states import UploadState
from server.cli.commands.doctor.machine import look_at_machine
from server.cli.commands.doctor.outside import look_outside
from server.cli.commands.doctor.probe import HUGE_BYTES, TIMEOUT_SECONDS, Probe, ProbeError
from server.cli.commands.doctor.result import Result
from server.cli.context import ConfigOption, JsonOption, parsed
from server.cli.opening import operator, silence_logs
from server.cli.output import CommandError, note, print_json, say, show
from server.clock import SystemClock
from server.places import KeySourceError, check_whose
from server.resources import too_few_descriptors
from server.services import Services, StartError, open_services
from server.settings.config import Config, config_path, load_config
from server.settings.units import parse_size, stamp
from storage.catalog import CatalogError, catalog_file, open_engine
from storage.catalog.rights import lacking_rights, needless_rights
from storage.files.marker import WrongStoreError

_DROP_NAME = "dropoff-tus doctor"
_LEAST_BYTES, _MOST_BYTES = 1 << 20, 1 << 30
_RECORDED_SECONDS = 15.0
_MOST_ANSWER_BYTES = 1 << 20
_CLOCK_APART = timedelta(minutes=5)
_MARKS = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}


def doctor(
    length: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="The size of the upload; larger ones meet more limits.")
    ] = "8MiB",
    outside: Annotated[
        bool,
        typer.Option(
            "--outside", help="Also connect to the mail server and the sites of webhooks; sends them nothing."
        ),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a real upload through the public URL, and say what is in the way and what to do about it.

    Needs a running server. Creates, sends in two parts, resumes, finishes, exports, compares and deletes; looks at
    proxies, address, other origins, clock, free space, keys, folders and the database. Uses a drop-off of its own,
    closed afterwards. Exits with 1 on any problem; warnings are advice.

    Example: dropoff-tus doctor --size 200MiB
    """
    wanted = parsed(parse_size, length, "--size")
    if not _LEAST_BYTES <= wanted <= _MOST_BYTES:
        raise CommandError("--size must be from 1MiB to 1GiB")
    loaded = load_config(config)
    silence_logs()
    check_whose(loaded)
    results = asyncio.run(_examine(loaded, config_path(config).absolute().parent, wanted, outside=outside))
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


async def _examine(config: Config, folder: Path, length: int, *, outside: bool) -> list[Result]:
    results = await asyncio.to_thread(lambda: [*look_at_machine(config, folder), *_monitoring(config)])
    if outside:
        results += await look_outside(config)
    with contextlib.suppress(CatalogError):  # which is told below
        results += await _rights(config)
    try:
        async with open_services(config) as services:
            with acting(operator):
                results += await _opened(services)
                return results + await _upload(services, config, length)
    except StartError as error:
        return [*results, _unopened(error)]
    except DropoffError as error:
        return [*results, Result("upload", "problem", error.message, "mend what is named above; see the log")]


# ---- the running server ---------------------------------------------------------------------------------------


def _monitoring(config: Config) -> list[Result]:
    """Ask the running server how it is."""
    listen = config.monitoring.listen
    if listen is None:
        return [Result("monitoring", "warning", "monitoring.listen is not set", "set it, and watch /readyz")]
    try:
        (status, ready), (_, metrics) = _ask(listen, "/readyz"), _ask(listen, "/metrics")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        detail = f"nothing answers on monitoring.listen ({reason})"
        return [Result("monitoring", "problem", detail, "start `dropoff-tus serve` with this configuration")]
    if status != http.client.OK:
        return [Result("monitoring", "problem", f"the server says {ready}", "do what it says; see its log")]
    if ready != "ready":
        results = [Result("monitoring", "warning", f"the server says {ready}", "do what it says; see its log")]
    else:
        results = [Result("monitoring", "ok", "the server says that it is ready")]
    files = re.search(r"^process_max_fds (\S+)$", metrics, re.MULTILINE)
    if files is not None and (few := too_few_descriptors(config.limits.connections, int(float(files[1])))):
        results.append(Result("descriptors", "warning", f"of the running server: {few}", "raise it, and restart"))
    return results


def _ask(listen: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(listen, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST_ANSWER_BYTES).decode("utf-8", "replace").strip()
    finally:
        connection.close()


# ---- what is open ---------------------------------------------------------------------------------------------


async def _rights(config: Config) -> list[Result]:
    """Look at what the database lets the server do."""
    if (file := catalog_file(config.catalog.url)) is not None:
        # SQLite writes beside the file, too.
        if all(os.access(path, os.W_OK) for path in (file, file.absolute().parent)):
            return []
        detail = f"{file} or its folder cannot be written: no upload can begin or become complete"
        return [Result("database", "problem", detail, "give the user that serves both of them (chown, chmod u+w)")]
    async with open_engine(config.catalog.url) as engine:
        lacking, needless = await lacking_rights(engine), await needless_rights(engine)
    results = []
    if lacking:
        detail = f"the role in catalog.url may not {', '.join(lacking)}: uploads are refused with 503"
        advice = f"as the owner of the tables: {'; '.join(f'GRANT {right} TO the role' for right in lacking)}"
        results.append(Result("database", "problem", detail, advice))
    if needless:
        detail = f"the role in catalog.url may {', '.join(needless)}, which the server never does: a thief of it could"
        revoke = "; ".join(f"REVOKE {right} FROM the role" for right in needless)
        advice = f"as the owner of the tables: {revoke}; the owner or a superuser is no role to serve with"
        results.append(Result("database", "warning", detail, advice))
    return results


async def _opened(services: Services) -> list[Result]:
    """Look at what the catalog says. That keys and catalog open has been seen by now."""
    results = [Result("keys", "ok", "all of them can be read")]
    now, noted = SystemClock().now(), await services.catalog.noted_time()
    ahead = services.uploads.trusted_time.problem
    if ahead is not None:
        results.append(
            Result("time", "problem", ahead, "set the clock: run an NTP client; then see docs/operate/troubleshoot.md")
        )
    elif noted is not None and noted - now > _CLOCK_APART:
        detail = f"the clock says {stamp(now)}, and a server ran at {stamp(noted)} already: drop-offs close too late"
        results.append(Result("time", "problem", detail, "set the clock: run an NTP client"))
    for backlog in await services.catalog.outbox.backlog():
        if backlog.dead:
            detail = f"{backlog.dead} events for {backlog.sink.value} were given up; the uploads themselves are safe"
            advice = "`dropoff-tus outbox list --dead` says why; mend it, then `dropoff-tus outbox resend --all-dead`"
            results.append(Result("outbox", "warning", detail, advice))
    return results


_OPENING = {
    KeySourceError: ("keys", "bring the key back from its backup, or give its file to the user that serves"),
    CatalogError: ("database", "start or migrate it, or correct catalog.url"),
    CatalogUnavailableError: ("database", "start it, or correct catalog.url and the rights of its role"),
    WrongStoreError: ("store", "correct store.dir, store.keys_dir and catalog.url; nothing was changed"),
    OSError: ("store", "give the folder to the user that serves, or mount its volume"),
}


def _unopened(error: StartError) -> Result:
    """Say why keys, store and catalog cannot be opened, and that `serve` cannot either."""
    found = (named for kind, named in _OPENING.items() if isinstance(error.__cause__, kind))
    check, advice = next(found, ("start", "do what it says"))
    return Result(check, "problem", f"{error}; so `serve` does not start", advice)


# ---- through the public URL -----------------------------------------------------------------------------------


async def _upload(services: Services, config: Config, length: int) -> list[Result]:
    drop_id, code = await _drop(services)
    largest = config.tus.max_upload_bytes or HUGE_BYTES
    probe = Probe(config.server.base_url, drop_id, code, os.urandom(length), largest, config.tus.cors_origins)
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
