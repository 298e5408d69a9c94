"""Each failure of the disk is reported as what it is: error and path in the log, none of both to the client."""

import base64
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import FaultyServer
from tests.support.server_process import ProgramError, token_of, upload_id_of

_NAME = "Befund Müller.csv"
_METADATA = {"Upload-Metadata": f"filename {base64.b64encode(_NAME.encode()).decode()}"}


def _failures(server: FaultyServer, since: int) -> list[tuple[str, str]]:
    """Return error and path of each failure that the log tells."""
    lines = [json.loads(line) for line in server.logged()[since:].splitlines() if line.startswith("{")]
    return [(line["errno"], line["path"]) for line in lines if line["event"] == "the disk failed"]


@pytest.mark.parametrize(
    ("call", "error", "part", "status"),
    [
        ("pwrite", errno.EIO, "{id}/data", 503),
        ("pwrite", errno.EIO, "{id}/log", 503),
        ("pwrite", errno.ENOSPC, "{id}/log", 507),
        ("pwrite", errno.EDQUOT, "{id}/data", 507),
        ("fdatasync", errno.EIO, "{id}/data", 503),
        ("fdatasync", errno.EDQUOT, "{id}/data", 503),
        ("fdatasync", errno.EIO, "{id}/log", 503),
        ("fsync", errno.EIO, "{id}.age", 503),
        ("fsync", errno.EINVAL, "{id}.age", 503),
        ("fsync", errno.EIO, "{id}.receipt", 503),
        ("pwrite", errno.EDQUOT, "{id}.receipt", 507),
    ],
)
def test_failure_under_an_upload_is_logged_with_errno_and_path(
    faulty: FaultyServer, call: str, error: int, part: str, status: int
) -> None:
    """The client hears that the disk failed or is full; which error it was, and where, is the operator's to know."""
    site, content, since = faulty.drop.site, os.urandom(5000), len(faulty.logged())
    url = site.create(len(content), _METADATA)
    where = part.format(id=upload_id_of(url))
    faulty.fail(call, error, where)
    response = site.patch(url, 0, content)
    faulty.heal()
    assert response.status == status, response.body
    assert int(response.needed("Retry-After")) > 0
    found = _failures(faulty, since)
    assert {name for name, _ in found} == {errno.errorcode[error]}
    assert all(where in path for _, path in found), found
    assert str(faulty.data).encode() not in response.body
    said = faulty.logged()[since:]
    assert _NAME not in said
    assert token_of(url) not in said


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("part", [".age", "/log"])
def test_creation_that_the_disk_refuses_is_logged_with_errno_and_path(
    faulty: FaultyServer, part: str, error: int
) -> None:
    """A quota that is used up is a full disk, for a creation too."""
    since = len(faulty.logged())
    faulty.fail("pwrite", error, part)
    response = faulty.drop.site.post({"Upload-Length": "10", **_METADATA})
    faulty.heal()
    assert response.status == (503 if error == errno.EIO else 507), response.body
    assert response.error_code == ("ERR_STORAGE_FAILED" if error == errno.EIO else "ERR_STORAGE_FULL")
    [(name, path)] = _failures(faulty, since)
    assert (name, part in path) == (errno.errorcode[error], True)
    assert str(faulty.data).encode() not in response.body


def test_ingest_folder_that_the_disk_refuses_is_logged_with_errno_and_path(faulty: FaultyServer) -> None:
    """The envelopes of sealed uploads may be on a volume of their own: at the creation, and at the first commit."""
    site = faulty.create_drop("--sealed").site
    for call, error, status in (
        ("pwrite", errno.ENOSPC, 507),
        ("pwrite", errno.EDQUOT, 507),
        ("pwrite", errno.EIO, 503),
        ("fsync", errno.EIO, 503),
        ("fsync", errno.EDQUOT, 503),
    ):
        since = len(faulty.logged())
        faulty.fail(call, error, "secrets/ingest/")
        response = site.post({"Upload-Length": "10"})
        if response.status == 201:
            response = site.patch(response.needed("Location"), 0, b"0123456789")
        faulty.heal()
        assert response.status == status, response.body
        assert response.error_code == ("ERR_STORAGE_FULL" if status == 507 else "ERR_STORAGE_FAILED")
        assert str(faulty.data).encode() not in response.body
        [(name, path)] = _failures(faulty, since)
        assert (name, "secrets/ingest" in path) == (errno.errorcode[error], True)
    assert site.post({"Upload-Length": "10"}).status == 201


def test_command_on_a_disk_that_fails_says_where(faulty: FaultyServer) -> None:
    """Its log is off, and whoever runs it is the operator."""
    url = faulty.drop.site.create(10)
    where = f"{upload_id_of(url)}/log"
    faulty.fail("pwrite", errno.EIO, where)
    done = faulty.command("upload", "delete", url, "--yes")
    faulty.heal()
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said.startswith("dropoff-tus: the disk failed")
    assert said.endswith(f"{where}: {os.strerror(errno.EIO)})")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_catalog_that_a_quota_keeps_from_writing_is_full(faulty: FaultyServer, error: int) -> None:
    """SQLite says nothing of quotas; a file beside it does."""
    since = len(faulty.logged())
    faulty.fail("pwrite", error, f"{faulty.data}/")
    response = faulty.drop.site.post({"Upload-Length": "10"})
    faulty.heal()
    assert (response.status, response.error_code) == (507, "ERR_STORAGE_FULL"), response.body
    said = faulty.logged()[since:]
    assert f'"errno": "{errno.errorcode[error]}", "path": "{faulty.data}/catalog.sqlite3"' in said
    assert faulty.drop.site.post({"Upload-Length": "10"}).status == 201


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, disk_faults: Path) -> FaultyServer:
    """Return a server that does not run."""
    return FaultyServer(tmp_path_factory.mktemp("stopped"), disk_faults)


@pytest.fixture
def unsynced(stopped: FaultyServer) -> Iterator[FaultyServer]:
    """Return a server that may be started, and is stopped afterwards."""
    before = dict(stopped.environment)
    yield stopped
    stopped.close()
    stopped.heal()
    stopped.environment = before


@pytest.mark.timeout(180)
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.parametrize(
    ("setting", "folder"),
    [("store.dir", "store"), ("store.keys_dir", "keys"), ("keys.ingest_dir", "secrets")],
)
def test_file_system_that_syncs_no_folders_is_named_at_the_start(
    unsynced: FaultyServer, setting: str, folder: str, error: int
) -> None:
    """Not a 503 at each PATCH: a start says which folder it is, with the error, and how to go on."""
    place = unsynced.data / folder
    unsynced.fail("fsync", error, str(place))
    before = unsynced.log_text
    with pytest.raises(ProgramError):
        unsynced.start(timeout_seconds=90)
    [said] = unsynced.log_text.removeprefix(before).splitlines()
    assert said.startswith(f"dropoff-tus: {setting}: {place}")
    assert f"cannot be synced ({errno.errorcode[error]}, {os.strerror(error)})" in said
    assert 'store.durability = "os"' in said
    checked = unsynced.command("check-config")
    assert (checked.returncode, said.removeprefix("dropoff-tus: ") in checked.stderr) == (1, True), checked.stderr


@pytest.mark.timeout(180)
def test_doctor_names_a_file_system_that_syncs_no_folders(unsynced: FaultyServer) -> None:
    """Beside the rest that it finds, since nothing serves there."""
    unsynced.fail("fsync", errno.EINVAL, str(unsynced.data / "keys"))
    found = {check["check"]: check for check in json.loads(unsynced.command("doctor", "--json").stdout)["checks"]}
    assert "cannot be synced (EINVAL" in found["sync"]["detail"]
    assert found["sync"]["status"] == found["monitoring"]["status"] == "problem"
    assert 'store.durability = "os"' in found["sync"]["advice"]


@pytest.mark.timeout(180)
def test_file_system_that_syncs_no_folders_serves_without_syncs(unsynced: FaultyServer) -> None:
    """The sentence's advice works."""
    unsynced.environment["STORE__DURABILITY"] = "os"
    unsynced.fail("fsync", errno.EINVAL, str(unsynced.data))
    unsynced.start(timeout_seconds=90)
    for drop in (unsynced.drop, unsynced.create_drop("--sealed")):
        url = drop.site.upload(b"0123456789")
        assert unsynced.row(url, drop)["state"] == "complete"


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_that_syncs_no_folders_any_more_takes_uploads(faulty: FaultyServer, error: int) -> None:
    """It has answered that there is nothing to sync, which is no failure of the disk."""
    faulty.fail("fsync", error, f"{faulty.data}/store/uploads")
    url = faulty.drop.site.upload(b"0123456789")
    faulty.heal()
    assert faulty.export(url) == b"0123456789"
