"""The disk fails under the real server: the client hears it, nothing acknowledged is lost, others are served."""

import errno
import os
import resource
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.conftest import FaultyServer, SmallDisk
from tests.support.server_process import ServerProcess, upload_id_of
from tests.support.tus_raw import Response

_REFUSED = {503, 507}


def _refused(response: Response, *statuses: int) -> None:
    assert response.status in (statuses or _REFUSED), (response.status, response.body)
    assert int(response.needed("Retry-After")) > 0


def _resume(server: ServerProcess, url: str, content: bytes) -> None:
    """Go on from wherever HEAD says, and hold the export against what was sent."""
    site = server.drop.site
    deadline = time.monotonic() + 20
    while (answer := site.head(url)).status == 423 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answer.status == 200
    if answer.offset < len(content):
        assert site.patch(url, answer.offset, content[answer.offset :]).status == 204


def _whole(server: ServerProcess, url: str, content: bytes) -> None:
    _resume(server, url, content)
    assert server.export(url) == content
    server.cli("store", "check")


def _clean(server: ServerProcess) -> None:
    server.cli("store", "check")


@pytest.mark.timeout(180)
def test_full_disk_in_the_middle_of_anything_answers_507_and_keeps_what_was_acknowledged(
    cramped: ServerProcess, small_disk: SmallDisk
) -> None:
    """However little room is left, creations and PATCHes end well or with 507 or 503, and all goes on later."""
    site, content = cramped.drop.site, os.urandom(300_000)
    statuses, urls = [], []
    for free_kib in (0, 8, 12, 20, 64, 200):
        urls.append(site.create(len(content)))
        assert site.patch(urls[-1], 0, content[:1000]).status == 204
        small_disk.leave(free_kib << 10)
        response = site.patch(urls[-1], 1000, content[1000:])
        created = site.post({"Upload-Length": "10"})
        statuses += [response.status, created.status]
        if response.status != 204:
            _refused(response)
        if created.status != 201:
            _refused(created)
        assert site.head(urls[-1]).status in {200, 423}
        small_disk.clear()
        _resume(cramped, urls[-1], content)
    assert 507 in statuses
    assert site.create(10)
    for url in urls:
        assert cramped.export(url) == content
    _clean(cramped)


def test_disk_that_fills_up_under_a_large_body_keeps_what_was_acknowledged(
    cramped: ServerProcess, small_disk: SmallDisk
) -> None:
    """The client hears 507 while it sends and its connection ends; offset and bytes before stand; others are served."""
    site, content = cramped.drop.site, os.urandom(4 << 20)
    url, other = site.create(len(content)), site.create(1000)
    assert site.patch(url, 0, content[:1000]).status == 204
    small_disk.leave(2 << 20)
    response = site.patch(url, 1000, content[1000:])
    assert response.status == 507
    _refused(response)
    assert response.needed("Connection").lower() == "close"
    # The floor is looked at before each MiB, so of what came the first one was kept.
    assert site.head(url).offset == 1000 + (1 << 20)
    assert site.patch(other, 0, content[:1000]).status == 204
    small_disk.clear()
    _resume(cramped, url, content)
    assert cramped.export(url) == content
    assert '"received_by": "socket"' in cramped.logged()
    _clean(cramped)


def test_read_only_disk_answers_503_and_goes_on_when_it_is_writable_again(
    tmp_path: Path, small_disk: SmallDisk
) -> None:
    """A disk that turned read-only refuses bytes and still tells offsets."""
    folder = tmp_path / "server"
    folder.mkdir()
    places = {"STORE__DIR": str(small_disk.place / "store"), "STORE__KEYS_DIR": str(small_disk.place / "keys")}
    server = ServerProcess(folder, environment={**places, "STORE__FREE_SPACE_FLOOR": "0"})
    for name in ("store", "keys"):
        # With the store's id, without which the small disk would be taken for one that is not mounted.
        shutil.copytree(server.data / name, small_disk.place / name)
    with server:
        site, content = server.drop.site, os.urandom(50_000)
        url = site.create(len(content))
        assert site.patch(url, 0, content[:20_000]).status == 204
        small_disk.remount("ro")
        try:
            _refused(site.patch(url, 20_000, content[20_000:]), 503)
            assert site.head(url).offset == 20_000
            _refused(site.post({"Upload-Length": "10"}), 503)
        finally:
            small_disk.remount("rw")
        _whole(server, url, content)


@pytest.mark.parametrize("name", ["data", "log"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_failing_write_is_refused_and_others_go_on(faulty: FaultyServer, name: str, error: int) -> None:
    """One upload's file takes no bytes: its client learns it, the next upload is whole, and so is this one later."""
    site, content = faulty.drop.site, os.urandom(200_000)
    url = site.create(len(content))
    assert site.patch(url, 0, content[:70_000]).status == 204
    faulty.fail("pwrite", error, f"{upload_id_of(url)}/{name}")
    _refused(site.patch(url, 70_000, content[70_000:]), 507 if error == errno.ENOSPC else 503)
    assert site.head(url).offset == 70_000
    other = site.upload(content)
    faulty.heal()
    _resume(faulty, url, content)
    assert faulty.export(other) == content
    _clean(faulty)


def test_failing_write_of_an_envelope_leaves_nothing(faulty: FaultyServer) -> None:
    """A creation whose envelope cannot be written is refused, and the same request works later."""
    site = faulty.drop.site
    before = faulty.uploads()
    faulty.fail("pwrite", errno.EIO, ".age")
    _refused(site.post({"Upload-Length": "10"}), 503)
    faulty.heal()
    assert faulty.uploads() == before
    assert faulty.export(site.upload(b"0123456789")) == b"0123456789"
    _clean(faulty)


def test_short_writes_are_completed(faulty: FaultyServer) -> None:
    """A disk that takes half of each write gets the other half too."""
    content = os.urandom(300_000)
    faulty.fail("pwrite", 0, "/data/")
    assert faulty.export(faulty.drop.site.upload(content)) == content
    _clean(faulty)


@pytest.mark.parametrize("name", ["data", "log"])
def test_failed_sync_is_never_retried_as_if_it_had_worked(faulty: FaultyServer, name: str) -> None:
    """After one failed sync the upload is refused, also when syncs work again, until a restart has read it again."""
    site, content = faulty.drop.site, os.urandom(100_000)
    url = site.create(len(content))
    assert site.patch(url, 0, content[:40_000]).status == 204
    faulty.fail("fdatasync", errno.EIO, f"{upload_id_of(url)}/{name}")
    _refused(site.patch(url, 40_000, content[40_000:90_000]), 503)
    faulty.heal()
    assert site.head(url).status == 423
    _refused(site.patch(url, 40_000, content[40_000:]), 503)
    assert faulty.export(site.upload(content)) == content
    faulty.restart()
    assert site.head(url).offset >= 40_000
    _whole(faulty, url, content)


def test_failed_sync_of_an_envelope_acknowledges_nothing(faulty: FaultyServer) -> None:
    """The first commit makes the keys durable: where it cannot, no byte is acknowledged."""
    site, content = faulty.drop.site, os.urandom(5000)
    url = site.create(len(content))
    faulty.fail("fsync", errno.EIO, f"{upload_id_of(url)}.age")
    _refused(site.patch(url, 0, content[:3000]), 503)
    faulty.heal()
    assert site.head(url).status == 423
    faulty.restart()
    assert site.head(url).offset == 0
    _whole(faulty, url, content)


def test_failed_sync_while_finishing_is_no_success(faulty: FaultyServer) -> None:
    """All bytes are there but the receipt is not durable: no 204, and a restart finishes."""
    site, content = faulty.drop.site, os.urandom(5000)
    url = site.create(len(content))
    faulty.fail("fsync", errno.EIO, ".receipt.")
    _refused(site.patch(url, 0, content), 503)
    faulty.heal()
    assert site.head(url).status == 423
    faulty.restart()
    _resume(faulty, url, content)
    assert faulty.row(url)["state"] == "complete"
    _clean(faulty)


def _folder_of(server: ServerProcess, url: str) -> Path:
    return next(server.data.rglob(f"uploads/*/{upload_id_of(url)}"))


def test_removed_folder_is_refused_and_others_go_on(faulty: FaultyServer) -> None:
    """Bytes are never acknowledged into a file that has no name any more."""
    site, content = faulty.drop.site, os.urandom(100_000)
    url = site.create(len(content))
    assert site.patch(url, 0, content[:30_000]).status == 204
    with site.connect() as connection:
        whole = site.message("PATCH", url, site.patch_headers(30_000), content[30_000:])
        connection.send(whole[:-40_000])
        time.sleep(0.5)
        shutil.rmtree(_folder_of(faulty, url))
        connection.send(whole[-40_000:])
        assert connection.read_response().status in {404, 503}
    assert site.head(url).status in {404, 423}
    assert site.patch(url, 30_000, content[30_000:]).status in {404, 503}
    assert faulty.export(site.upload(content)) == content
    _clean(faulty)


def test_too_few_descriptors_answer_503_and_the_server_goes_on(faulty: FaultyServer) -> None:
    """With no descriptor left for files a client has to come again, and the server serves when there are some."""
    site, content = faulty.drop.site, os.urandom(100_000)
    url = site.create(len(content))
    assert site.patch(url, 0, content[:30_000]).status == 204
    limits = resource.prlimit(faulty.pid, resource.RLIMIT_NOFILE)
    with site.connect() as connection:
        time.sleep(1.2)  # so that it looks for other servers again, too
        used = {int(path.name) for path in Path(f"/proc/{faulty.pid}/fd").iterdir()}
        lowest = next(number for number in range(len(used) + 1) if number not in used)
        resource.prlimit(faulty.pid, resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            connection.send(site.message("PATCH", url, site.patch_headers(30_000), content[30_000:]))
            _refused(connection.read_response(), 503)
        finally:
            resource.prlimit(faulty.pid, resource.RLIMIT_NOFILE, limits)
    _whole(faulty, url, content)
