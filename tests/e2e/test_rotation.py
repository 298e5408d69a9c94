"""Keys are rotated through the command line, beside a running server or a stopped one, and killed on the way."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import ServerProcess, run_warm, upload_id_of


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Run a server of this test's own."""
    with ServerProcess(tmp_path) as running:
        yield running


def _command(
    server: ServerProcess, *arguments: str, failpoint: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that a failpoint may kill."""
    environment = {f"DROPOFF_TUS__{name}": value for name, value in server.environment.items()}
    environment |= {"DROPOFF_TUS_FAILPOINT": failpoint} if failpoint else {}
    return run_warm(*arguments, "--config", str(server.config), folder=server.folder, environment=environment)


def _rotate(server: ServerProcess, *options: str) -> dict[str, Any]:
    done = server.cli("keys", "rotate", *options, "--json", check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if answer["skipped"] else 0), done.stderr
    return answer


def _signing(server: ServerProcess) -> dict[str, str]:
    shown = server.cli_json("keys", "show")
    return {"id": shown["id"], "key": shown["key"]}


def _new_root(server: ServerProcess, name: str) -> tuple[str, Path]:
    path = server.folder / name
    return server.cli_json("keys", "generate", "--output", str(path))["recipient"], path


def _exported(server: ServerProcess, url: str, identity: Path) -> bytes | None:
    target = server.folder / f"out-{os.urandom(4).hex()}"
    options = ("--output", str(target), "--identity", str(identity))
    done = server.cli("upload", "export", url, *options, check=False)
    return None if done.returncode else target.read_bytes()


def test_roots_are_rotated_beside_the_running_server(server: ServerProcess) -> None:
    """Managed uploads at once, sealed ones with the old identity; those of a drop-off with its own root are let be."""
    own_root, own_identity = _new_root(server, "own.txt")
    drops = [
        server.drop,
        server.create_drop("--sealed", name="sealed"),
        server.create_drop("--recipient", own_root, name="own"),
    ]
    urls = [drop.site.upload(drop.name.encode()) for drop in drops]
    old_identity = server.data / "root-identity.txt"
    root, identity = _new_root(server, "new.txt")
    server.restart(environment={"KEYS__ROOT_RECIPIENTS": root})
    assert _rotate(server, "--dry-run")["rewrapped"] == 1
    first = _rotate(server)
    assert (first["rewrapped"], first["current"]) == (1, 1)
    assert [item["id"] for item in first["skipped"]] == [upload_id_of(urls[1])]
    assert "--identity" in first["skipped"][0]["why"]
    second = _rotate(server, "--identity", str(old_identity))
    assert (second["rewrapped"], second["current"], second["skipped"]) == (1, 2, [])
    assert _rotate(server)["current"] == 3
    for url, drop, wanted in zip(urls, drops, (identity, identity, own_identity), strict=True):
        assert _exported(server, url, wanted) == drop.name.encode()
        assert _exported(server, url, old_identity) is None
    assert server.is_running


def test_rotation_of_one_drop_off_or_upload_leaves_the_others(server: ServerProcess) -> None:
    """Chosen by --drop, or by an upload's id."""
    other = server.create_drop(name="other")
    urls = [server.drop.site.upload(b"one"), server.drop.site.upload(b"two"), other.site.upload(b"three")]
    server.environment = {"KEYS__ROOT_RECIPIENTS": _new_root(server, "new.txt")[0]}
    assert _rotate(server, "--drop", other.id)["rewrapped"] == 1
    assert _rotate(server, upload_id_of(urls[0]))["rewrapped"] == 1
    done = _rotate(server)
    assert (done["rewrapped"], done["current"]) == (1, 2)
    assert server.cli("keys", "rotate", "--drop", "no-such", check=False).returncode == 1


def test_killed_rotation_of_the_roots_is_gone_on_from(server: ServerProcess) -> None:
    """Killed with -9 in the middle, a second run does the rest, with only the old identity."""
    drop = server.create_drop("--sealed", name="sealed")
    contents = [bytes([number]) * 100 for number in range(3)]
    urls = [drop.site.upload(content) for content in contents]
    root, identity = _new_root(server, "new.txt")
    server.environment = {"KEYS__ROOT_RECIPIENTS": root}
    options = ("keys", "rotate", "--identity", str(server.data / "root-identity.txt"))
    assert _command(server, *options, failpoint="rewrap-renamed:2").returncode == -9
    again = _rotate(server, *options[2:])
    assert (again["rewrapped"], again["current"], again["skipped"]) == (1, 2, [])
    assert [_exported(server, url, identity) for url in urls] == contents


def test_signing_key_is_rotated_beside_a_stopped_server(server: ServerProcess) -> None:
    """Refused while the server runs; then an upload begun before goes on, and drop-offs and receipts hold."""
    site = server.drop.site
    done, url = site.upload(b"done before"), site.create(10)
    assert site.patch(url, 0, b"12345").status == 204
    before = _signing(server)
    refused = server.cli("keys", "rotate", "--signing", check=False)
    assert refused.returncode == 1
    assert b"stop it first" in refused.stderr
    assert _signing(server) == before
    server.stop()
    assert _rotate(server, "--signing", "--dry-run")["new"] is None
    rotated = _rotate(server, "--signing")
    assert (rotated["old"], rotated["handed_over"]) == (before["id"], 1)
    server.start()
    after = server.cli_json("keys", "show")
    assert _signing(server) == rotated["new"]
    assert after["retired"] == [before]
    assert site.head(url).offset == 5
    assert site.patch(url, 5, b"67890").status == 204
    assert server.export(url) == b"1234567890"
    assert site.upload(b"after") is not None
    assert server.cli_json("upload", "receipt", done)["upload"] == upload_id_of(done)
    assert server.cli_json("store", "check")["findings"] == []
    server.cli("upload", "delete", done, "--yes")
    assert server.cli_json("store", "check")["findings"] == []


@pytest.mark.parametrize("point", ["after-log-write:1", "signing-handed-over"])
def test_killed_rotation_of_the_signing_key_is_gone_on_from(server: ServerProcess, point: str) -> None:
    """No server starts in between; the second run makes no third key, and every upload goes on."""
    site = server.drop.site
    urls = [site.create(10) for _ in range(2)]
    for url in urls:
        assert site.patch(url, 0, b"12345").status == 204
    server.stop()
    assert _command(server, "keys", "rotate", "--signing", failpoint=point).returncode == -9
    refused = _command(server, "serve")
    assert refused.returncode != 0
    assert b"keys rotate --signing" in refused.stderr
    assert b"Traceback" not in refused.stderr
    again = _rotate(server, "--signing")
    assert again["resumed"]
    assert again["handed_over"] == 2
    server.start()
    assert len(server.cli_json("keys", "show")["retired"]) == 1
    for url in urls:
        assert site.patch(url, 5, b"67890").status == 204
        assert server.export(url) == b"1234567890"


def test_mistakes_are_sentences(server: ServerProcess) -> None:
    """Options that exclude each other are refused, and nothing changes."""
    mixed = (
        "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z,"
        + server.cli_json("keys", "show")["recipients"][0]
    )
    cases = [
        (("--signing", "--drop", "x"), b"--signing is for all uploads"),
        (("--output", "x"), b"--output belongs to --signing"),
        (("--identity", "/nowhere"), b"cannot read the identity file /nowhere"),
        (("0" * 32,), b"there is no such upload"),
    ]
    for options, wanted in cases:
        done = server.cli("keys", "rotate", *options, check=False)
        assert done.returncode == 1
        assert wanted in done.stderr
    server.environment = {"KEYS__ROOT_RECIPIENTS": mixed}
    done = server.cli("keys", "rotate", check=False)
    assert done.returncode == 1
    assert b"one type" in done.stderr
