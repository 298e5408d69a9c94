"""Downloads that nobody takes: they hold little memory, nobody waits for them, and the server ends beside them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, upload_id_of

_READERS = 100
_MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Run a server of this test's own, which sends uploads to whoever has their URL."""
    with ServerProcess(tmp_path, environment={"TUS__DOWNLOAD": "true"}) as running:
        yield running


@pytest.mark.parametrize("through", ["api", "tus"])
def test_unread_downloads_hold_little_and_are_cut_at_the_end(server: ServerProcess, through: str) -> None:
    """Less than a MiB each; others upload meanwhile, and a hurried end cuts them off."""
    site = server.drop.site
    url = site.upload(bytes(16 * _MIB))
    target, headers = url, site.post_headers()
    if through == "api":
        token = server.cli_json("token", "create", "--name", "x", "--scope", "uploads:download")["token"]
        target = f"{server.url}/api/v1/uploads/{upload_id_of(url)}/content"
        headers = {"Authorization": f"Bearer {token}"}
    before = server.rss_bytes()
    with ExitStack() as stack:
        for _ in range(_READERS):
            connection = stack.enter_context(site.connect())
            connection.send(site.message("GET", target, headers))
            assert connection.read_response(to_head=True).status == 200
        assert server.export(site.upload(b"meanwhile")) == b"meanwhile"
        assert server.rss_bytes() - before < _READERS * _MIB
        deadline = time.monotonic() + 20
        while server.is_running:
            server.terminate()  # the second one hurries it
            time.sleep(0.1)
            assert time.monotonic() < deadline
        assert server.wait() == 0
    assert "ResourceWarning" not in server.log_text


def test_files_of_a_download_are_closed_when_its_client_goes_away(server: ServerProcess) -> None:
    """At once, and not whenever memory is tidied up."""
    site = server.drop.site
    url = site.upload(bytes(16 * _MIB))
    open_files = Path(f"/proc/{server.pid}/fd")
    before = len(list(open_files.iterdir()))
    with ExitStack() as stack:
        for _ in range(30):
            connection = stack.enter_context(site.connect())
            connection.send(site.message("GET", url, site.post_headers()))
            assert connection.read_response(to_head=True).status == 200
    deadline = time.monotonic() + 5
    while len(list(open_files.iterdir())) > before + 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
