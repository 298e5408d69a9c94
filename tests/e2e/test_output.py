"""`--output` of every command that has one: a new file, stdout, and never in place of a link, a pipe or a device."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, program, run_warm
from tests.support.tus_raw import metadata

Line = Callable[[ServerProcess], tuple[str, ...]]


def _export(server: ServerProcess) -> tuple[str, ...]:
    url = server.drop.site.upload(b"plain bytes", {"Upload-Metadata": metadata(filename="x")})
    return ("upload", "export", url)


def _forced_export(server: ServerProcess) -> tuple[str, ...]:
    return (*_export(server), "--force")


def _audit(_server: ServerProcess) -> tuple[str, ...]:
    return ("audit", "export")


def _keys(_server: ServerProcess) -> tuple[str, ...]:
    return ("keys", "generate", "--key-type", "x25519")


def _purge(server: ServerProcess) -> tuple[str, ...]:
    return ("drop", "purge", server.create_drop(name="to be purged").id, "--yes")


def _rotate(_server: ServerProcess) -> tuple[str, ...]:
    return ("keys", "rotate", "--signing", "--dry-run")


_LINES = pytest.mark.parametrize("line", [_export, _forced_export, _audit, _keys, _purge])


def _link_to_stdout(folder: Path) -> Path:
    """Make what /dev/stdout and /dev/fd/1 are, in a place where a mistake does no harm."""
    path = folder / "stdout"
    path.symlink_to("/proc/self/fd/1")
    return path


def _link_to_a_file(folder: Path) -> Path:
    (folder / "of others").write_bytes(b"theirs")
    path = folder / "link"
    path.symlink_to("of others")
    return path


def _link_to_nothing(folder: Path) -> Path:
    path = folder / "dangling"
    path.symlink_to("nothing")
    return path


def _pipe(folder: Path) -> Path:
    path = folder / "pipe"
    os.mkfifo(path)
    return path


def _device(folder: Path) -> Path:
    """Make a link below a folder that is one itself, as /dev/fd is."""
    (folder / "dev").symlink_to("/dev")
    return folder / "dev" / "null"


def _folder(folder: Path) -> Path:
    path = folder / "folder"
    path.mkdir()
    return path


@pytest.mark.parametrize("make", [_link_to_stdout, _link_to_a_file, _link_to_nothing, _pipe, _device, _folder])
@pytest.mark.parametrize("line", [_export, _forced_export, _audit, _keys, _purge, _rotate])
def test_output_that_is_no_ordinary_file_is_left_and_stdout_is_named(
    limited: ServerProcess, tmp_path: Path, line: Line, make: Callable[[Path], Path]
) -> None:
    """At once, before anything is closed, shredded or written, with the way to a pipe: `-`."""
    target = make(tmp_path)
    before = target.lstat()
    done = limited.cli(*line(limited), "--output", str(target), check=False)
    assert done.returncode == 1
    assert b"was left as it is" in done.stderr
    assert b"or - for stdout" in done.stderr
    assert done.stdout == b""
    after = target.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    if (tmp_path / "of others").exists():
        assert (tmp_path / "of others").read_bytes() == b"theirs"
    assert not any(drop["closed"] for drop in limited.cli_json("drop", "list") if drop["name"] == "to be purged")


@_LINES
def test_output_is_a_new_file_or_stdout(limited: ServerProcess, tmp_path: Path, line: Line) -> None:
    """Both have the same kind of content, the file is only for its owner, and no file gets the name `-`."""
    limited.cli(*line(limited), "--output", str(tmp_path / "new"))
    written = limited.cli(*line(limited), "--output", "-")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    # Times, keys and ids differ, what it is does not.
    assert written.stdout[:10] == (tmp_path / "new").read_bytes()[:10]
    assert len(written.stdout) >= len((tmp_path / "new").read_bytes())
    assert not (limited.folder / "-").exists()


@_LINES
def test_output_in_place_of_a_file_is_refused_or_forced(limited: ServerProcess, tmp_path: Path, line: Line) -> None:
    """An existing file stays; only `upload export` may replace it, with --force."""
    target = tmp_path / "there"
    target.write_bytes(b"mine")
    done = limited.cli(*line(limited), "--output", str(target), check=False)
    forced = line is _forced_export
    assert done.returncode == (0 if forced else 1)
    assert target.read_bytes() == (b"plain bytes" if forced else b"mine")
    assert forced or b"exists already" in done.stderr


@pytest.mark.parametrize("line", [_export, _keys, _purge])
def test_output_on_stdout_beside_json_is_refused(limited: ServerProcess, line: Line) -> None:
    """Two documents in one stream are none."""
    done = limited.cli(*line(limited), "--output", "-", "--json", check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"--json and --output - both want stdout" in done.stderr


def test_output_of_identity_on_stdout_tells_its_recipient_on_stderr(limited: ServerProcess) -> None:
    """So that both can be had from one command, as `age-keygen` does."""
    done = limited.cli("keys", "generate", "--key-type", "x25519", "--output", "-")
    assert b"AGE-SECRET-KEY-1" in done.stdout
    assert done.stderr.startswith(b"age1")


def test_certificate_on_stdout_verifies(limited: ServerProcess, tmp_path: Path) -> None:
    """It is the one that the audit knows."""
    done = limited.cli(*_purge(limited), "--output", "-")
    (tmp_path / "certificate").write_bytes(done.stdout)
    key = limited.cli("keys", "show").stdout.decode().strip()
    assert run_warm("verify-certificate", "certificate", "--key", key, folder=tmp_path).returncode == 0
    assert b"the certificate is on stdout" in done.stderr


def test_signing_key_to_stdout_is_refused_since_a_second_run_needs_it(limited: ServerProcess) -> None:
    """Nothing is printed, and no file is called `-`."""
    done = limited.cli(*_rotate(limited), "--output", "-", check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"needs a file" in done.stderr
    assert not (limited.folder / "-").exists()


def test_output_to_a_process_substitution_names_the_way(limited: ServerProcess, tmp_path: Path) -> None:
    """A shell's `>(…)` is a link to a pipe; through `-` the bytes get there."""
    line = [*program(), "--config", str(limited.config), *_export(limited)]
    refused = subprocess.run(
        ["bash", "-c", '"$@" --output >(cat >refused) --force', "bash", *line],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (refused.returncode, b"or - for stdout" in refused.stderr) == (1, True)
    subprocess.run(["bash", "-c", '"$@" --output - | cat >through', "bash", *line], cwd=tmp_path, check=True)
    assert (tmp_path / "through").read_bytes() == b"plain bytes"
