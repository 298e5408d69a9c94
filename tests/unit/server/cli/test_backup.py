"""The order in which `backup` copies and removes: right in its first pass, whatever happens at the worst moment.

tests/e2e/test_backup.py lets things happen at any moment, and the verification then mends what an order would lose.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dropoff_tus.errors import ToldError
from server.cli.commands import backup as command
from server.cli.mirror import Mirror
from tests.support.server_process import ServerProcess, upload_id_of

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server."""
    with ServerProcess(tmp_path_factory.mktemp("backed-up")) as running:
        yield running


@pytest.fixture(autouse=True)
def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be mended by a second one."""
    monkeypatch.setattr(command, "_PASSES", 1)


def _between(monkeypatch: pytest.MonkeyPatch, method: str, happens: Callable[[int], None]) -> None:
    """Let something happen before each call of a method of the mirrors; it gets the number of the call."""
    real, calls = getattr(Mirror, method), iter(range(1_000_000))

    def called(mirror: Mirror, *arguments: object) -> object:
        happens(next(calls))
        return real(mirror, *arguments)

    monkeypatch.setattr(Mirror, method, called)


def _back_up(server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what did not verify."""
    capsys.readouterr()
    command.backup(folder, server.config, as_json=True)
    return list(json.loads(capsys.readouterr().out)["findings"])


def test_bytes_that_come_between_log_and_data_are_no_damage(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log is copied first, so it never names bytes that the copied data lacks."""
    site = server.drop.site
    url = site.create(100_000)
    assert site.patch(url, 0, b"x").status == 204

    def more(_: int) -> None:
        offset = site.head(url).offset
        assert site.patch(url, offset, b"x" * 100).status == 204

    _between(monkeypatch, "copy", more)
    assert _back_up(server, tmp_path / "backup", capsys) == []


def test_upload_that_begins_between_store_and_keys_is_no_damage(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys come last, so every copied upload has its envelope."""

    def one_more(_: int) -> None:
        server.drop.site.upload(b"hello")

    _between(monkeypatch, "new", one_more)
    assert _back_up(server, tmp_path / "backup", capsys) == []


def test_volume_that_goes_away_meanwhile_takes_nothing_from_the_backup(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder in its place is not followed, even if the volume was there until the last step."""
    url = server.drop.site.create(10)
    folder, uploads = tmp_path / "backup", server.data / "store" / "uploads"
    assert _back_up(server, folder, capsys) == []
    kept = {path for path in folder.rglob("*") if path.is_file()}
    away = uploads.with_name("away")

    def unmounted(call: int) -> None:
        if call == 0:
            uploads.rename(away)
            uploads.mkdir()

    _between(monkeypatch, "gone", unmounted)
    try:
        with pytest.raises(ToldError, match="store-id"):
            command.backup(folder, server.config, as_json=True)
    finally:
        uploads.rmdir()
        away.rename(uploads)
    assert {path for path in folder.rglob("*") if path.is_file()} >= kept
    assert server.drop.site.head(url).status == 200
    assert list(folder.glob(f"store/uploads/*/{upload_id_of(url)}/log"))
