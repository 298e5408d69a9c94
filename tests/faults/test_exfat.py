"""A file system that knows neither links nor a rename that replaces nothing, nor modes: exFAT, as on a USB disk."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import require_program
from tests.support.server_process import ServerProcess


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """Mount an exFAT of 64 MiB; needs root."""
    make, mount = require_program("mkfs.exfat"), require_program("mount.exfat-fuse")
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    place.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            _run(make, image)
            device = _run("losetup", "--find", "--show", image)
            stack.callback(_run, "losetup", "--detach", device)
            _run(mount, "-o", "umask=077", device, place)
        except subprocess.CalledProcessError:
            pytest.skip("this machine lets nobody mount an image (a container without CAP_SYS_ADMIN)")
        stack.callback(_run, "umount", place)
        yield place


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.timeout(180)
def test_everything_that_makes_a_file_works_without_links(exfat: Path) -> None:
    """`init`, new keys, uploads, exports, certificates; existing files are never replaced."""
    (exfat / "server").mkdir()
    with ServerProcess(exfat / "server", environment={"STORE__FREE_SPACE_FLOOR": "0"}) as server:
        url = server.drop.site.upload(b"plain bytes")
        outputs = {
            "exported": ("upload", "export", url),
            "identity": ("keys", "generate", "--key-type", "x25519"),
            "audit": ("audit", "export"),
            "certificate": ("drop", "purge", server.create_drop(name="empty").id, "--yes"),
        }
        for name, line in outputs.items():
            server.cli(*line, "--output", str(exfat / name))
            content = (exfat / name).read_bytes()
            assert content
            again = server.cli(*line, "--output", str(exfat / name), check=False)
            # A purge that was cut off takes up its own certificate.
            assert name == "certificate" or (again.returncode, b"exists already" in again.stderr) == (1, True)
            assert (exfat / name).read_bytes() == content
        assert (exfat / "exported").read_bytes() == b"plain bytes"
        server.cli("upload", "export", url, "--output", str(exfat / "exported"), "--force")
        server.cli("store", "check")
    server.cli("keys", "rotate", "--signing")
    assert sorted(path.name for path in exfat.iterdir()) == sorted(["server", *outputs])
