"""Sealed uploads of the real program: opened elsewhere with only the root, and by nothing that the server has."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attacker import opened
from tests.support.server_process import Drop, ServerProcess, upload_id_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server for this module."""
    with ServerProcess(tmp_path_factory.mktemp("sealed")) as running:
        yield running


def _sealed_drop(server: ServerProcess, key_type: str) -> tuple[Drop, Path]:
    path = server.folder / f"{key_type}.txt"
    made = server.cli_json("keys", "generate", "--output", str(path), "--key-type", key_type)
    return server.create_drop("--sealed", "--recipient", made["recipient"], name=key_type), path


@pytest.mark.parametrize("key_type", ["x25519", "hybrid"])
def test_sealed_upload_is_exported_where_no_key_of_the_server_is(
    server: ServerProcess, tmp_path: Path, key_type: str
) -> None:
    """A copy of store and envelopes, the public key and the root identity are all it takes."""
    drop, identity = _sealed_drop(server, key_type)
    content = key_type.encode() * 30_000
    url = drop.site.upload(content)
    data = server.data
    assert opened(data / "store", data / "keys", data / "secrets") == set()
    for name in ("store", "keys"):
        shutil.copytree(data / name, tmp_path / name, ignore=shutil.ignore_patterns("servers"))
    public = server.cli_json("keys", "show")["key"]
    output = tmp_path / "out"
    options = ("--identity", str(identity), "--output", str(output))
    here = ("--store", str(tmp_path))
    stranger = "A" * 43 + "="
    refused = server._run("upload", "export", url, *options, "--key", stranger, *here, check=False)  # noqa: SLF001
    assert refused.returncode == 1
    assert b"does not verify" in refused.stderr
    bare = server._run("upload", "export", url, *options, *here, check=False)  # noqa: SLF001
    assert bare.returncode == 1
    assert b"give the server's public key" in bare.stderr
    alone = server._run("upload", "export", url, *options[2:], "--key", public, *here, check=False)  # noqa: SLF001
    assert b"--identity" in alone.stderr
    server._run("upload", "export", upload_id_of(url), *options, "--key", public, *here)  # noqa: SLF001
    assert output.read_bytes() == content
    assert not (tmp_path / "secrets").exists()
    assert not list(tmp_path.glob("catalog*"))


@pytest.mark.parametrize("name", ["signing-key", "code-key", "managed-identity.txt"])
def test_server_does_not_start_without_a_key_and_does_with_it(server: ServerProcess, name: str) -> None:
    """The sentence names the key; after its return everything is as it was."""
    url = server.drop.site.create(10)
    assert server.drop.site.patch(url, 0, b"12345").status == 204
    server.stop()
    path = server.data / "secrets" / name
    away = path.rename(path.with_name("away"))
    refused = server.cli("serve", check=False)
    assert refused.returncode == 1
    assert name.removesuffix(".txt").encode() in refused.stderr
    assert b"Traceback" not in refused.stderr
    away.rename(path)
    server.start()
    assert server.drop.site.patch(url, 5, b"67890").status == 204
    assert server.export(url) == b"1234567890"


@pytest.mark.parametrize("key_type", ["x25519", "hybrid"])
def test_keys_of_the_server_are_changed_while_sealed_uploads_are_open(tmp_path: Path, key_type: str) -> None:
    """They go on and end sealed; a copy from while they were open does not open with any key of the time after."""
    with ServerProcess(tmp_path) as server:
        drop, identity = _sealed_drop(server, key_type)
        site, data = drop.site, server.data
        whole, deferred = site.create(10), site.post({"Upload-Defer-Length": "1"}).needed("Location")
        part, late = site.create(10, {"Upload-Concat": "partial"}), site.create(10)
        for url in (whole, deferred, part):
            assert site.patch(url, 0, b"01234").status == 204
        server.stop()
        for name in ("store", "keys"):
            shutil.copytree(data / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("servers"))
        server.cli("keys", "rotate", "--signing")
        managed = data / "secrets" / "managed-identity.txt"
        fresh = tmp_path / "fresh.txt"
        server.cli("keys", "generate", "--output", str(fresh), "--key-type", key_type)
        managed.write_bytes(fresh.read_bytes() + managed.read_bytes())
        server.start()
        assert site.patch(late, 0, b"01234").status == 204
        server.restart()
        for url in (whole, part, late):
            assert site.patch(url, 5, b"56789").status == 204
        assert site.patch(deferred, 5, b"56789", {"Upload-Length": "10"}).status == 204
        joined = site.post({"Upload-Concat": f"final;{part}"}).needed("Location")
        assert opened(data / "store", data / "keys", data / "secrets") == set()
        assert opened(tmp_path / "copy", data / "secrets") == set()
        for url in (whole, deferred, late, joined):
            exported = server.cli("upload", "export", url, "--identity", str(identity), "--output", "-").stdout
            assert exported == b"0123456789"
        assert server.cli_json("store", "check")["findings"] == []
