"""The floor of free space on a real small disk, under uploads that were let in while there was room."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.faults.conftest import SmallDisk
from tests.support.server_process import ServerProcess

_FLOOR_BYTES = 4 << 20
_BATCH_BYTES = 1 << 20


@pytest.mark.timeout(120)
def test_uploads_side_by_side_leave_the_floor_free(tmp_path: Path, small_disk: SmallDisk) -> None:
    """An accepted upload finds the room taken: 507 in the middle, and all goes on from there once there is room."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = ServerProcess(folder, environment={"STORE__FREE_SPACE_FLOOR": str(_FLOOR_BYTES)})
    shutil.copytree(server.data / "store", small_disk.place / "store")
    server.environment["STORE__DIR"] = str(small_disk.place / "store")
    content = os.urandom(2 << 20)
    with server:
        site = server.drop.site
        urls = [site.create(len(content)) for _ in range(3)]
        small_disk.leave(_FLOOR_BYTES + _BATCH_BYTES)
        statuses: list[int] = []

        def send(url: str) -> None:
            statuses.append(site.patch(url, 0, content).status)

        senders = [threading.Thread(target=send, args=(url,)) for url in urls]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        numbers = os.statvfs(small_disk.place)
        assert statuses == [507] * 3
        # Each of the two that receive at a time may be one batch ahead of what the other one saw.
        assert numbers.f_bavail * numbers.f_frsize > _FLOOR_BYTES - 2 * _BATCH_BYTES
        small_disk.clear()
        for url in urls:
            offset = site.head(url).offset
            assert site.patch(url, offset, content[offset:]).status == 204
            assert server.export(url) == content
